import os
import subprocess
import sys
import threading

import pytest
from redis import Redis

from bus.events import MicAudio, Sentence
from bus.keys import session_key
from bus.monitor import parse, readable, wanted
from bus.server import free_port, running
from bus.wire import encode

SESSION = "s0-4f1c09aa31d2"
OTHER = "s0-0123456789ab"


def line_of(text):
    return parse(text.encode())


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (r'1.250000 [0 127.0.0.1:5] "set" "a" "two words"', 'SET a "two words"'),
        (r'1.250000 [0 lua] "xadd" "k" "*" "v" "1" "text" "say \"hi\"\\"', 'XADD k * v=1 text="say "hi"\\"'),
        (r'1.250000 [0 unix:/s] "xadd" "k" "MAXLEN" "~" "9" "*" "a" "b"', "XADD k MAXLEN ~ 9 * a=b"),
        (r'1.250000 [0 [::1]:5] "xadd" "k" "*" "pcm" "\x00\x01\x02\x03"', "XADD k * pcm=<4 bytes>"),
        (r'1.250000 [0 1.2.3.4:5] "xadd" "k" "*" "pcm" "abcd"', "XADD k * pcm=<4 bytes>"),
        (r'1.250000 [0 1.2.3.4:5] "evalsha" "f0" "0" "pcm" "\xff\xfe"', "EVALSHA f0 0 pcm <2 bytes>"),
        (r'1.250000 [0 1.2.3.4:5] "get" "\xff\xfe"', "GET <2 bytes>"),
        (r'1.250000 [0 1.2.3.4:5] "get" "caf\xc3\xa9 \x1b[31m\n"', 'GET "café \\x1b[31m\\n"'),
        (r'1.250000 [0 1.2.3.4:5] "set" "k" ""', 'SET k ""'),
        ('1.250000 [0 1.2.3.4:5] "set" "k" "' + "x" * 121 + '"', "SET k " + "x" * 120 + "... (121 characters)"),
    ],
)
def test_a_line_made_readable(raw, shown):
    """Every argument is printable, audio is shortened to its size, and XADD shows field=value."""
    shown_at, rest = readable(*line_of(raw)).split(" ", 1)
    assert rest == shown
    assert shown_at.endswith(":01.250")


@pytest.mark.parametrize("raw", ["OK", "", "1.2 [0 x]", "hello there"])
def test_a_line_of_another_form_is_no_command(raw):
    assert line_of(raw) is None


@pytest.mark.parametrize(
    ("session", "only", "audio", "passes"),
    [
        ("", [], True, True),
        (SESSION, [], True, True),
        (OTHER, [], True, False),
        ("", ["XADD", "PUBLISH"], True, True),
        ("", ["PUBLISH"], True, False),
        ("", [], False, False),
    ],
)
def test_filters(session, only, audio, passes):
    arguments = [b"xadd", session_key(SESSION, "mic").encode(), b"*", b"pcm", b"ab"]
    assert wanted(arguments, session, only, audio) is passes


class Watched:
    """``python -m bus.monitor`` as a process, and a client to give it something to show."""

    def __init__(self, url, *arguments):
        self.client = Redis.from_url(url)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bus.monitor", *arguments],
            env={**os.environ, "REDIS_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._timer = threading.Timer(20, self.process.kill)
        self._timer.start()

    def __enter__(self):
        while not any(each["cmd"] == "monitor" for each in self.client.client_list()):
            assert self.process.poll() is None
        return self

    def __exit__(self, *exc_info):
        self._timer.cancel()
        self.process.kill()
        self.process.wait()
        self.client.close()

    def line(self):
        return self.process.stdout.readline()


def publish(client, session, event):
    stream = "mic" if isinstance(event, MicAudio) else "reply"
    client.xadd(session_key(session, stream), encode(event, at=7))


@pytest.mark.real
def test_one_session_live(redis_url):
    """What names the session is shown as it happens, without the bytes of its audio; another's is not."""
    with Watched(redis_url, "--session", SESSION) as watched:
        publish(watched.client, OTHER, MicAudio(offset=0, pcm=b"\1\2" * 320))
        publish(watched.client, SESSION, MicAudio(offset=320, pcm=b"\xff\1" * 320))
        publish(watched.client, SESSION, Sentence(turn=2, attempt=1, index=0, text="It opened."))
        key = f"bargein:{{s0}}:{SESSION}"
        assert watched.line().split(" ", 1)[1] == f"XADD {key}:mic * v=1 type=audio at=7 offset=320 pcm=<640 bytes>\n"
        assert watched.line().endswith(' turn=2 attempt=1 index=0 text="It opened."\n')


@pytest.mark.real
def test_raw_is_the_servers_own_line(redis_url):
    with Watched(redis_url, "--raw", "--only", "xadd", "--no-audio") as watched:
        publish(watched.client, SESSION, MicAudio(offset=0, pcm=b"\1\2"))
        publish(watched.client, SESSION, Sentence(turn=2, attempt=1, index=0, text="a"))
        assert '"type" "sentence" "at" "7" "turn" "2"' in watched.line()


def test_nobody_answers():
    """One line that says so, without the password, and exit code 1."""
    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    done = subprocess.run(
        [sys.executable, "-m", "bus.monitor"],
        env={**os.environ, "REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no answer from redis://***@127.0.0.1:")
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.real
def test_the_server_goes_away(tmp_path):
    """The monitor ends with a message when its server does, and a closed pipe ends it quietly."""
    with running(tmp_path / "redis") as server, Watched(server.url) as watched:
        server.stop(2.0)
        assert watched.process.wait(20) == 1
        assert "Traceback" not in watched.process.stderr.read()


@pytest.mark.real
def test_a_closed_pipe_ends_it_quietly(redis_url):
    with Watched(redis_url, "--only", "set") as watched:
        watched.process.stdout.close()
        while watched.process.poll() is None:
            watched.client.set("a", "b")
        assert watched.process.stderr.read() == ""
        assert watched.process.returncode == 0
