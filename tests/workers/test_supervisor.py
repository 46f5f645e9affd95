"""The supervisor with real children, and as a process under honcho."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from workers.supervisor import Supervisor

DEADLINE = 20.0


def command(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


async def until(condition):
    """Wait until ``condition()`` is true, and return what it gave."""
    async with asyncio.timeout(DEADLINE):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


def is_alive(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


STAYS = """
    import os, pathlib, time
    pathlib.Path({pids!r}).open("a").write(f"{{os.getpid()}}\\n")
    time.sleep(60)
"""


class Pids:
    """A file in which every start of a child leaves its process id."""

    def __init__(self, path):
        self.path = path
        self.path.touch()

    def __call__(self):
        return [int(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def pids(tmp_path):
    return Pids(tmp_path / "pids")


@pytest.fixture
async def supervise():
    """Starts supervisors; whatever a test leaves running is killed."""
    running = []

    def start(code, shutdown_s=4.0):
        supervisor = Supervisor("stt", command(code), shutdown_s)
        running.append((supervisor, asyncio.create_task(supervisor.run())))
        return running[-1]

    yield start
    for supervisor, task in running:
        supervisor.stop()
        supervisor.stop()
        await asyncio.wait_for(task, DEADLINE)


async def test_a_worker_that_is_killed_runs_again(supervise, pids, caplog):
    """kill -9 of a worker is answered by a new one, and the log names the signal and the wait."""
    supervise(STAYS.format(pids=str(pids.path)))
    first = (await until(pids))[0]
    os.kill(first, signal.SIGKILL)
    second = (await until(lambda: pids()[1:]))[0]
    assert second != first
    assert re.search(r"stt ended with signal SIGKILL after \d+\.\d s; starting it again in 0\.\d s", caplog.text)


async def test_the_waits_grow(supervise, pids, caplog):
    """A worker that ends at once is not started in a tight loop: each wait is longer than half its doubled bound."""
    supervise(f"import pathlib; pathlib.Path({str(pids.path)!r}).open('a').write('1\\n'); raise SystemExit(3)")
    await until(lambda: len(re.findall("exit code 3", caplog.text)) >= 3)
    waits = [float(wait) for wait in re.findall(r"again in (\d+\.\d) s", caplog.text)]
    assert all(low <= wait <= high for wait, low, high in zip(waits, (0.1, 0.2, 0.4), (0.2, 0.4, 0.8), strict=False))


async def test_a_configuration_error_is_tried_again_slowly(supervise, pids, caplog):
    """Exit code 2 means wrong settings: no quick retries, and the log points at the message."""
    supervisor, task = supervise(f"import pathlib; pathlib.Path({str(pids.path)!r}).open('a').write('1\\n'); exit(2)")
    await until(lambda: "cannot run as it is configured" in caplog.text)
    record = next(each for each in caplog.records if "configured" in each.message)
    assert record.levelno == logging.ERROR
    assert "in 10 s" in record.message
    supervisor.stop()
    await asyncio.wait_for(task, 2.0)
    assert pids() == [1]


async def test_stop_lets_the_worker_finish(supervise, tmp_path):
    """SIGTERM reaches the worker once, and it is waited for."""
    seen = tmp_path / "seen"
    supervisor, task = supervise(f"""
        import pathlib, signal, time
        seen = pathlib.Path({str(seen)!r})
        def on_term(number, frame):
            seen.open("a").write("term ")
            time.sleep(0.3)
            seen.open("a").write("done")
            raise SystemExit(0)
        signal.signal(signal.SIGTERM, on_term)
        seen.write_text("up ")
        while True:
            signal.pause()
    """)
    await until(lambda: seen.exists() and seen.read_text())
    supervisor.stop()
    await asyncio.wait_for(task, DEADLINE)
    assert seen.read_text() == "up term done"


DEAF = """
    import os, pathlib, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path({pids!r}).open("a").write(f"{{os.getpid()}}\\n")
    while True:
        signal.pause()
"""


async def test_a_worker_that_does_not_end_is_killed(supervise, pids, caplog):
    supervisor, task = supervise(DEAF.format(pids=str(pids.path)), shutdown_s=0.2)
    (pid,) = await until(pids)
    supervisor.stop()
    await asyncio.wait_for(task, DEADLINE)
    assert not is_alive(pid)
    assert "did not end within 0.2 s" in caplog.text


async def test_a_second_stop_kills_at_once(supervise, pids):
    supervisor, task = supervise(DEAF.format(pids=str(pids.path)), shutdown_s=60.0)
    (pid,) = await until(pids)
    supervisor.stop()
    supervisor.stop()
    await asyncio.wait_for(task, DEADLINE)
    assert not is_alive(pid)


async def test_a_stop_while_the_worker_is_being_started(supervise, pids):
    """No start slips through between the decision to end and the end."""
    supervisor, task = supervise(STAYS.format(pids=str(pids.path)), shutdown_s=DEADLINE)
    await asyncio.sleep(0)
    supervisor.stop()
    await asyncio.wait_for(task, DEADLINE / 2)
    assert not any(is_alive(pid) for pid in pids())


def test_an_unknown_name_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "workers.supervisor", "sst"], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == 2
    assert "choose from" in done.stderr


def run_stage(name, folder, **settings):
    """Run the real supervisor of a stage in ``folder`` until it ends by itself or its worker has spoken."""
    return subprocess.Popen(
        [sys.executable, "-m", "workers.supervisor", name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("named", ["STT", "TTS"])
@pytest.mark.parametrize("stage", ["stt", "tts"])
async def test_a_stage_may_have_a_python_of_its_own(tmp_path, stage, named):
    """STT_PYTHON runs the STT worker and TTS_PYTHON the TTS worker; each only its own."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho own python: $*; exec sleep 60\n")
    python.chmod(0o755)
    other = {"STT_ENGINE": "nothing", "TTS_ENGINE": "nothing"}  # ends at once with a message that names it
    with run_stage(stage, tmp_path, **other, **{f"{named}_PYTHON": "./python"}) as process:
        line = await asyncio.to_thread(process.stdout.readline)
        process.kill()
    if stage.upper() == named:
        assert line == f"own python: -m workers.{stage}.worker\n"
    else:
        assert line.startswith(f"{stage.upper()}_ENGINE=nothing: not known")


async def test_a_python_that_is_not_there_is_named(tmp_path):
    with run_stage("stt", tmp_path, STT_PYTHON=".venv-none/bin/python") as process:
        output = await asyncio.to_thread(process.stdout.read)
    assert process.returncode == 2
    assert output.startswith("STT_PYTHON=.venv-none/bin/python: no such program; expected a Python")


@pytest.fixture
def honcho(tmp_path):
    """honcho with a Procfile of supervised stand-ins; its output is collected as it comes."""
    script = tmp_path / "line.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from bus.logs import start_logging
        from workers.supervisor import Supervisor, supervise
        start_logging("INFO")
        child = "import os, time; print('worker', os.getpid(), flush=True); time.sleep(60)"
        asyncio.run(supervise(Supervisor("stt", [sys.executable, "-c", child], 4.0)))
        """)
    )
    (tmp_path / "Procfile").write_text(f"stt: exec {sys.executable} {script}\n")

    class Honcho:
        output = ""

        def __init__(self):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "honcho", "start", "--no-colour", "-c", "stt=2"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

        def _read(self):
            for line in self.process.stdout:
                self.output += line

        def workers(self):
            return [int(pid) for pid in re.findall(r"worker (\d+)", self.output)]

        def supervisors(self):
            return [int(pid) for pid in re.findall(r"started \(pid=(\d+)\)", self.output)]

        def wait(self):
            self.process.wait(DEADLINE)
            self._reader.join(DEADLINE)

    started = Honcho()
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_honcho_ends_all_of_it(honcho, number):
    """Two of a kind run side by side; a signal to honcho ends them within seconds, quietly, with nothing left."""
    await until(lambda: len(honcho.workers()) == 2)
    began = time.monotonic()
    honcho.process.send_signal(number)
    await asyncio.to_thread(honcho.wait)
    assert time.monotonic() - began < 5
    assert not any(is_alive(pid) for pid in honcho.workers() + honcho.supervisors())
    assert "Traceback" not in honcho.output


async def test_honcho_outlives_a_killed_worker(honcho):
    """The death of a worker does not end the line, and so not the other processes."""
    first = (await until(lambda: honcho.workers()[1:] and honcho.workers()))[0]
    os.kill(first, signal.SIGKILL)
    await until(lambda: len(honcho.workers()) == 3)
    assert honcho.process.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
async def test_a_killed_supervisor_leaves_no_worker(honcho):
    await until(lambda: len(honcho.workers()) == 2)
    for pid in honcho.supervisors():
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(is_alive(pid) for pid in honcho.workers()))
