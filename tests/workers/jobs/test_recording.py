"""Recordings made from events written by hand, on a real server."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from redis import Redis
from rq import Queue, Retry
from rq.job import Job, JobStatus

from bus.events import Amended, Final, HungUp, MicAudio, Partial, Played, Said, Sentence, SpeechAudio, SpeechEnd
from bus.keys import session_key
from bus.server import free_port, running
from bus.wire import encode
from workers.jobs.heard import place
from workers.jobs.recording import NoAudio, record
from workers.jobs.worker import QUEUE, make_worker
from workers.supervisor import SupervisorSettings

SESSION = "s0-4f1c09aa31d2"
MS = 16
"""Samples of a millisecond at 16 kHz."""
RECORDINGS = Path("recordings")

pytestmark = pytest.mark.real


@pytest.fixture
def client(redis_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("RECORDINGS_DIR", str(RECORDINGS))
    with Redis.from_url(redis_url) as connection:
        yield connection


STREAM = {
    MicAudio: "mic", HungUp: "mic", Partial: "transcript", Final: "transcript", SpeechAudio: "speech",
    SpeechEnd: "speech", Said: "history", Amended: "history", Played: "playback", Sentence: "reply",
}  # fmt: skip


def write(client, *events):
    for number, event in enumerate(events):
        client.xadd(session_key(SESSION, STREAM[type(event)]), encode(event, at=1000 + number))


def tone(seconds, rate, hertz=400.0, level=8000):
    return (np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * hertz / rate) * level).astype("<i2")


def speech(turn, pcm, rate, attempt=1, offset=0, chunk_ms=40):
    step = rate * chunk_ms // 1000
    return [
        SpeechAudio(turn, attempt, index, 0, offset + begin, rate, "", "exact", pcm[begin : begin + step].tobytes())
        for index, begin in enumerate(range(0, len(pcm), step))
    ]


def played(turn, begin, end, mic, step=100):
    """Reports every ``step`` ms, the first at ``mic`` and the others as the microphone goes on."""
    return [
        Played(turn, start, min(start + step, end), mic + (start - begin) * MS) for start in range(begin, end, step)
    ]


def mic(pcm, offset=0, step=320):
    return [MicAudio(offset + at, pcm[at : at + step].tobytes()) for at in range(0, len(pcm), step)]


def recorded(name="wav"):
    path = RECORDINGS / f"{SESSION}.{name}"
    if name == "wav":
        samples, rate = soundfile.read(path, dtype="int16")
        assert (rate, samples.shape[1]) == (16_000, 2)
        return samples[:, 0], samples[:, 1]
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if name == "json" else text


def test_the_caller_is_left_by_offset(client):
    """Every sample of the caller is where its offset says, and what is missing is silence."""
    a, b = tone(0.5, 16_000), tone(0.25, 16_000, 700)
    write(client, *mic(a, offset=1600), *mic(b, offset=20_000), *mic(b[:320], offset=20_000), HungUp())
    record(SESSION)
    left, right = recorded()
    expected = np.zeros(20_000 + len(b), np.int16)
    expected[1600 : 1600 + len(a)] = a
    expected[20_000:] = b
    assert np.array_equal(left, expected)
    assert not right.any()


def test_the_reply_is_right_where_it_was_heard(client):
    """Reports that follow each other join sample by sample, however late or early each was written."""
    reply = tone(1.0, 16_000)
    jitter = [0, -1600, 300, 2000, -3000, 900, 0, 0, 1500, -800]
    reports = [
        Played(event.turn, event.start, event.end, event.mic + late)
        for event, late in zip(played(1, 0, 1000, mic=8000), jitter, strict=True)
    ]
    write(client, *mic(tone(0.1, 16_000)), *speech(1, reply, 16_000), *reports)
    record(SESSION)
    _, right = recorded()
    expected = np.concatenate([np.zeros(8000, np.int16), reply])
    assert np.array_equal(right, expected)


@pytest.mark.parametrize("rate", [22_050, 24_000, 8_000])
def test_a_resampled_reply_has_no_click(client, rate):
    """The engine's rate becomes 16 kHz in one piece: between its ends the tone never jumps by more than its slope."""
    write(client, *speech(1, tone(2.0, rate), rate), *played(1, 0, 2000, mic=1600))
    record(SESSION)
    _, right = recorded()
    assert len(right) == 1600 + 2000 * MS
    assert not right[:1500].any()
    steepest = 8000 * 2 * np.pi * 400 / 16_000
    assert np.abs(np.diff(right[2000:-400].astype(int))).max() < 1.05 * steepest
    assert np.abs(right[1600:].astype(int) - tone(2.0, 16_000)).mean() < 100


def test_only_what_was_heard_is_written(client):
    """Synthesised audio without a playback report is not in the recording."""
    reply = tone(3.0, 16_000)
    write(client, *speech(1, reply, 16_000), *played(1, 0, 700, mic=0), *speech(2, reply, 16_000))
    record(SESSION)
    _, right = recorded()
    assert np.array_equal(right, reply[: 700 * MS])


def test_a_held_reply_resumes_at_the_exact_sample(client):
    """A hold is a silence of its length; what was dropped unheard at the hold is heard once, after it."""
    reply = tone(2.0, 16_000)
    reports = [
        *played(1, 0, 800, mic=0),
        Played(1, 650, 1000, mic=32_000),
        *played(1, 1000, 2000, mic=32_000 + 350 * MS),
    ]
    write(client, *speech(1, reply, 16_000), *reports)
    record(SESSION)
    _, right = recorded()
    assert np.array_equal(right[: 650 * MS], reply[: 650 * MS])
    assert not right[650 * MS : 32_000].any()
    assert np.array_equal(right[32_000:], reply[650 * MS :])


def test_what_was_taken_back_is_not_heard(client):
    """An empty report at an earlier position: the client stopped there, and what followed was never heard."""
    reply = tone(1.0, 16_000)
    write(client, *speech(1, reply, 16_000), *played(1, 0, 800, mic=0), Played(1, 640, 640, 14_000))
    record(SESSION)
    _, right = recorded()
    assert np.array_equal(right, reply[: 640 * MS])


def test_turns_follow_each_other(client):
    """A turn that is reported while the one before still sounds begins after it, never over it."""
    first, second = tone(1.0, 16_000), tone(1.0, 16_000, 900)
    write(client, *speech(1, first, 16_000), *played(1, 0, 1000, mic=0))
    write(client, *speech(2, second, 16_000), *played(2, 0, 1000, mic=15_000))
    record(SESSION)
    _, right = recorded()
    assert np.array_equal(right, np.concatenate([first, second]))


def test_a_later_attempt_replaces_the_earlier(client):
    """After a takeover the successor's audio counts from its first sample on, and the zombie's latecomers do not."""
    old, new = tone(1.0, 16_000), tone(0.6, 16_000, 900)
    write(
        client,
        *speech(1, old, 16_000, attempt=1),
        *speech(1, new, 16_000, attempt=2, offset=6400),
        *speech(1, old, 16_000, attempt=1),
        *played(1, 0, 1000, mic=0),
    )
    record(SESSION)
    _, right = recorded()
    assert np.array_equal(right, np.concatenate([old[:6400], new]))


def test_the_transcript_is_what_was_heard(client):
    """Amendments are applied, a shortened message is not complete, a removed one is gone, words have their time."""
    write(
        client,
        *mic(tone(0.1, 16_000)),
        Partial(1, 0, "how old", 8000, 16_000),
        Final(1, 0, "how old", 8000, 20_000),
        Final(1, 1, "how old is it", 8000, 40_000),
        Final(2, 0, "", 50_000, 51_000),
        Final(3, 0, "stop", 1_000_000, 1_010_000),
        Said("i0", "system", "Be kind.", at=5),
        Said("i1", "user", "how old is it", at=10),
        Said("i2", "assistant", "It opened in 1883.", turn=1, at=20),
        Said("i3", "user", "stop", at=30),
        Said("i4", "assistant", "never said", turn=2, at=40),
        Amended("i2", "It opened"),
        Amended("i4", ""),
        Amended("i9", "of nothing"),
    )
    record(SESSION)
    body = recorded("json")
    assert body["session"] == SESSION
    assert body["seconds"] == 0.1
    assert body["messages"] == [
        {"role": "system", "text": "Be kind.", "turn": 0, "complete": True, "at": 5},
        {"role": "user", "text": "how old is it", "turn": 0, "complete": True, "at": 10, "start": 8000, "end": 40_000},
        {"role": "assistant", "text": "It opened", "turn": 1, "complete": False, "at": 20},
        {"role": "user", "text": "stop", "turn": 0, "complete": True, "at": 30, "start": 1_000_000, "end": 1_010_000},
    ]
    assert recorded("txt") == (
        "[00:00] caller: how old is it\nassistant: It opened [interrupted]\n[01:02] caller: stop\n"
    )


def test_twice_is_the_same(client):
    """A job that runs again writes the same bytes and leaves nothing else, even once the audio has expired."""
    write(client, *mic(tone(1.0, 16_000)), *speech(1, tone(1.0, 22_050), 22_050), *played(1, 0, 900, mic=100))
    write(client, Said("i1", "user", "naïve", at=10))
    first, second, third = {}, {}, {}
    record(SESSION)
    for contents in (first, second, third):
        for path in RECORDINGS.iterdir():
            contents[path.name] = path.read_bytes()
        if contents is first:
            record(SESSION)
        elif contents is second:
            client.delete(session_key(SESSION, "mic"), session_key(SESSION, "speech"))
            with pytest.raises(NoAudio):
                record(SESSION)
    assert first == second == third
    assert sorted(first) == [f"{SESSION}.json", f"{SESSION}.txt", f"{SESSION}.vtt", f"{SESSION}.wav"]
    assert all(stat.S_IMODE((RECORDINGS / name).stat().st_mode) == 0o600 for name in first)
    assert stat.S_IMODE(RECORDINGS.stat().st_mode) == 0o700


def test_the_audio_expires_once_it_is_written(client):
    """Audio goes within a minute of its recording, no sooner, and text streams are left to their own time."""
    write(client, *mic(tone(0.1, 16_000)), *speech(1, tone(0.1, 16_000), 16_000), Said("i1", "user", "hi"))
    client.expire(session_key(SESSION, "speech"), 30)
    assert client.ttl(session_key(SESSION, "mic")) == -1
    record(SESSION)
    assert 50 <= client.ttl(session_key(SESSION, "mic")) <= 60
    assert 20 <= client.ttl(session_key(SESSION, "speech")) <= 30
    assert client.ttl(session_key(SESSION, "history")) == -1


def test_a_malformed_id_is_refused(client):
    """It would otherwise be a path."""
    with pytest.raises(ValueError, match="not a session id"):
        record("../../etc/passwd")
    assert not RECORDINGS.exists()


def test_an_empty_call_places_nothing():
    assert len(place([], played(1, 0, 300, mic=0))) == 0
    assert len(place(speech(1, tone(0.1, 16_000), 16_000), [])) == 0


def test_the_worker_does_the_job_by_name(client, redis_url):
    """Enqueued by name it is done in the worker's own process; a call without audio fails once, with the reason."""
    write(client, *mic(tone(0.2, 16_000)))
    queue = Queue(QUEUE, connection=client)
    done = queue.enqueue("workers.jobs.recording.record", SESSION)
    failed = queue.enqueue("workers.jobs.recording.record", "s0-000000000000")
    after = queue.enqueue("workers.jobs.recording.record", SESSION)
    make_worker(Redis.from_url(redis_url)).work(burst=True)
    assert Job.fetch(done.id, client).get_status() == JobStatus.FINISHED
    assert Job.fetch(after.id, client).get_status() == JobStatus.FINISHED
    assert Job.fetch(failed.id, client).get_status() == JobStatus.FAILED
    assert "hold no audio" in Job.fetch(failed.id, client).latest_result().exc_string
    assert queue.count == 0
    left, _ = recorded()
    assert len(left) == 3200


class JobsProcess:
    """``python -m workers.jobs.worker`` for one address."""

    def __init__(self, url):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.jobs.worker"],
            env={**os.environ, "REDIS_URL": url},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(40, self.process.kill)

    def __enter__(self):
        self._timer.start()
        return self

    def __exit__(self, *exc_info):
        self._timer.cancel()
        self.process.kill()
        self.process.wait()

    def says(self, text):
        """Wait for a line with ``text``, and return it."""
        while text not in (line := self.process.stderr.readline()):
            assert line, "the worker ended"
        return line

    def end(self):
        """Its exit code after SIGTERM, and what it still had to say."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.stderr.read()
        return self.process.wait(), said


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_an_idle_worker_notices_a_signal_before_its_supervisor_kills_it(client):
    """One that came in the moment before the blocking read is handled when the read returns."""
    assert make_worker(client).dequeue_timeout < SupervisorSettings.model_fields["shutdown_s"].default


def test_the_worker_waits_for_its_server(tmp_path):
    """Started before Redis it says so, without the password, and waits; SIGTERM ends it."""
    port = free_port()
    with JobsProcess(f"redis://:hunter2@127.0.0.1:{port}/0") as jobs:
        assert "nobody answers at redis://***@127.0.0.1" in jobs.says("nobody answers")
        with running(tmp_path / "redis", port, "hunter2"):
            jobs.says("taking jobs from bargein-jobs")
            code, said = jobs.end()
    assert code == 0
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_a_job_that_failed_is_tried_again(client, redis_url):
    """A retry with an interval is carried out: the call is recorded although its audio came late."""
    with JobsProcess(redis_url) as jobs:
        jobs.says("taking jobs")
        queue = Queue(QUEUE, connection=client)
        job = queue.enqueue("workers.jobs.recording.record", SESSION, retry=Retry(max=3, interval=1))
        jobs.says("hold no audio")
        write(client, *mic(tone(0.2, 16_000)))
        jobs.says(f"recorded {SESSION}: 0.2 s")
        code, said = jobs.end()
    assert code == 0
    assert Job.fetch(job.id, client).get_status() in (JobStatus.FINISHED, JobStatus.STARTED)
    assert "Traceback" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_worker_leaves_no_process(client, redis_url):
    with JobsProcess(redis_url) as jobs:
        jobs.says("taking jobs")
        while not (scheduler := children(jobs.process.pid)):
            assert jobs.process.poll() is None
        jobs.process.kill()
        deadline = time.monotonic() + 10
        while is_alive(scheduler[0]) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_alive(scheduler[0])
