"""What is done with a call besides writing it down: subtitles, FLAC, the webhook, the second pass, the sweep."""

import base64
import hashlib
import hmac
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus

from bus.events import Final, Said
from tests.workers.jobs.test_recording import (
    RECORDINGS,
    SESSION,
    client,  # noqa: F401
    mic,
    played,
    speech,
    tone,
    write,
)
from workers.jobs import webhook
from workers.jobs.queue import QUEUE, follow_up
from workers.jobs.recording import record
from workers.jobs.retention import sweep
from workers.jobs.second_pass import transcribe
from workers.jobs.webhook import NotDelivered, deliver
from workers.jobs.webvtt import webvtt
from workers.jobs.worker import make_worker

pytestmark = pytest.mark.real
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@pytest.fixture
def call(client):  # noqa: F811
    """A call with one question and an answer that was interrupted."""
    write(
        client,
        *mic(tone(3.0, 16_000)),
        *speech(1, tone(1.0, 24_000), 24_000),
        *played(1, 0, 900, mic=24_000),
        Final(1, 1, "how <old> is it", 1600, 16_000),
        Said("i1", "user", "how <old> is it"),
        Said("i2", "assistant", "It opened & closed", turn=1, complete=False),
        Said("i3", "tool", "{}"),
    )
    return client


def test_subtitles_show_each_voice_when_it_was_heard(call):
    """Cues have the times of the audio, in its order, and nothing in them is taken for markup."""
    record(SESSION)
    assert (RECORDINGS / f"{SESSION}.vtt").read_text() == (
        "WEBVTT\n"
        "\n00:00:00.100 --> 00:00:01.000\n<v Caller>how &lt;old&gt; is it\n"
        "\n00:00:01.500 --> 00:00:02.400\n<v Assistant>It opened &amp; closed <i>[interrupted]</i>\n"
    )


def test_what_has_no_time_has_no_cue():
    late = {"role": "user", "text": "b", "complete": True, "start": 57_600_000, "end": 57_600_000}
    assert webvtt([{"role": "assistant", "text": "a", "complete": True}, late]) == (
        "WEBVTT\n\n01:00:00.000 --> 01:00:00.010\n<v Caller>b\n"
    )


def test_flac_holds_the_same_samples(call, monkeypatch):
    record(SESSION)
    monkeypatch.setenv("RECORDING_FORMAT", "flac")
    assert record(SESSION).endswith(".flac")
    (wav, _), (flac, rate) = (
        soundfile.read(RECORDINGS / f"{SESSION}.{kind}", dtype="int16") for kind in ("wav", "flac")
    )
    assert rate == 16_000 and np.array_equal(wav, flac)


class Receiver(BaseHTTPRequestHandler):
    """Answers with ``answers`` in turn, the last for ever, and keeps what it was sent."""

    def do_POST(self):
        server = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        server.got.append((dict(self.headers), body))
        code = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        self.send_response(code)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.answers = [], [204]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/calls?token=hunter2")
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    yield server
    server.shutdown()
    server.server_close()


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def test_the_webhook_is_signed_as_the_standard_says(call, receiver):
    """The signature is over id, time and body with the decoded secret; the id is the call's; the body tells it all."""
    record(SESSION)
    deliver(SESSION)
    headers, body = lower(receiver.got[0][0]), receiver.got[0][1]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"0123456789abcdef01234567", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
    assert headers["webhook-id"] == f"call.recorded:{SESSION}"
    told = json.loads(body)
    assert told["type"] == "call.recorded" and told["data"]["audio"] == f"{SESSION}.wav"
    assert told["data"]["messages"][0]["text"] == "how <old> is it"


def test_the_signature_of_a_known_message():
    """The example of the standard's own documentation."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    name, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert webhook.signature(secret, name, 1614265330, body) == expected


@pytest.mark.parametrize("code", [302, 400, 410, 500])
def test_what_is_not_taken_is_not_delivered(call, receiver, code, caplog):
    """It raises, so that it is tried again, and neither address nor secret is said."""
    record(SESSION)
    receiver.answers = [code]
    with pytest.raises(NotDelivered, match=f"answered {code}") as raised:
        deliver(SESSION)
    assert "hunter2" not in str(raised.value) + caplog.text and len(receiver.got) == 1


def test_a_receiver_that_is_down(call, receiver):
    record(SESSION)
    receiver.shutdown()
    receiver.server_close()
    with pytest.raises(NotDelivered, match="not reached: ConnectError") as raised:
        deliver(SESSION)
    assert "hunter2" not in str(raised.value)


def test_the_webhook_follows_the_recording_once(call, receiver, redis_url):
    """Recorded twice, told once, by the worker; a receiver that fails at first is told again."""
    record(SESSION)
    record(SESSION)
    queue = Queue(QUEUE, connection=call)
    assert queue.job_ids == [f"webhook-{SESSION}"]
    job = Job.fetch(f"webhook-{SESSION}", call)
    assert job.retries_left == 8 and job.retry_intervals[0] == 10
    make_worker(Redis.from_url(redis_url)).work(burst=True)
    record(SESSION)
    make_worker(Redis.from_url(redis_url)).work(burst=True)
    assert len(receiver.got) == 1
    assert Job.fetch(f"webhook-{SESSION}", call).get_status() is JobStatus.FINISHED


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WEBHOOK_SECRET": ""}, "WEBHOOK_URL needs WEBHOOK_SECRET"),
        ({"WEBHOOK_SECRET": "hunter2"}, "WEBHOOK_URL needs WEBHOOK_SECRET"),
        ({"WEBHOOK_SECRET": "whsec_%%%%%%%%%%%%%%%%%%%%%%%%"}, "not base64"),
        ({"WEBHOOK_SECRET": "", "WEBHOOK_SECRET_FILE": "no/file"}, "WEBHOOK_SECRET_FILE cannot be read"),
        ({"WEBHOOK_URL": "ftp://hunter2@host"}, "expected http://host/path"),
        ({"RECORDINGS_KEEP_DAYS": "-1"}, "RECORDINGS_KEEP_DAYS=-1: expected an integer >= 0"),
        ({"RECORDING_FORMAT": "mp3"}, "RECORDING_FORMAT=mp3: expected one of wav, flac"),
    ],
)
def test_wrong_settings_end_the_worker_at_its_start(call, receiver, monkeypatch, capsys, settings, said):
    from workers.jobs.worker import main

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as raised:
        main()
    err = capsys.readouterr().err
    assert raised.value.code == 2 and said in err and "hunter2" not in err


def test_the_secret_from_a_file(call, receiver, monkeypatch, tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("WEBHOOK_SECRET", "")
    monkeypatch.setenv("WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    record(SESSION)
    deliver(SESSION)
    assert len(receiver.got) == 1


class Counting:
    """An STT engine whose text is how much it heard, in ms, and how loud it was."""

    name, capacity = "counting", 1

    async def load(self):
        pass

    async def open(self, language):
        return self

    async def begin(self):
        self.heard = b""

    async def feed(self, pcm):
        self.heard += pcm
        return ""

    async def flush(self):
        loud = np.abs(np.frombuffer(self.heard, "<i2")).max()
        return f" {len(self.heard) // 32} ms {'loud' if loud > 5000 else 'quiet'} "

    async def close(self):
        pass


def test_a_second_pass_hears_every_utterance_of_the_caller_again(call, monkeypatch):
    """From a little before to a little after what was marked; twice it writes the same; the live text stays."""
    record(SESSION)
    before = (RECORDINGS / f"{SESSION}.json").read_bytes()
    monkeypatch.setenv("SECOND_PASS_ENGINE", "tests.workers.jobs.test_after_call:Counting")
    follow_up(SESSION)
    follow_up(SESSION)
    assert Queue(QUEUE, connection=call).job_ids == [f"second-pass-{SESSION}"]
    path = Path(transcribe(SESSION))
    first = path.read_bytes()
    assert json.loads(first)["messages"] == [
        {"start": 1600, "end": 16_000, "text": "1500 ms loud", "live": "how <old> is it"}
    ]
    transcribe(SESSION)
    assert path.read_bytes() == first and (RECORDINGS / f"{SESSION}.json").read_bytes() == before


def test_what_is_too_old_is_removed_and_nothing_else(tmp_path):
    """Only what a job wrote, only after its days; none when no limit is set."""
    old = [f"{SESSION}.wav", f"{SESSION}.second.json", f"{SESSION}.1.flac", "notes.txt", ".hidden", f"{SESSION}.zip"]
    for name in [*old, "s0-0123456789ab.wav"]:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1_000_000, 1_000_000) if name in old else None)
    (tmp_path / f"{SESSION}.txt").mkdir()
    assert sweep(tmp_path, 0, 1e9) == 0
    assert sweep(tmp_path / "absent", 1, 1e9) == 0
    assert sweep(tmp_path, 1, 1_000_000 + 86_399) == 0
    assert sweep(tmp_path, 1, 1_000_000 + 86_401) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["notes.txt", ".hidden", f"{SESSION}.zip", f"{SESSION}.txt", "s0-0123456789ab.wav"]
    )


def test_the_worker_sweeps(call, redis_url, monkeypatch):
    record(SESSION)
    for path in RECORDINGS.iterdir():
        os.utime(path, (1_000_000, 1_000_000))
    monkeypatch.setenv("RECORDINGS_KEEP_DAYS", "30")
    make_worker(Redis.from_url(redis_url)).work(burst=True)
    assert list(RECORDINGS.iterdir()) == []
