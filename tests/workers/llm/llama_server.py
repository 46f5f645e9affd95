"""A real llama-server for the slow tests, built from the sources in the PyPI sdist of llama-cpp-python.

About nine minutes on two cores, once: the result stays in ``build/llama``. ``LLAMA_SERVER`` names a binary that is
there already. The model has random weights: it babbles, at the pace of a small real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

SDIST = "llama-cpp-python==0.3.36"
FOLDER = Path(__file__).parents[3] / "build" / "llama"
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF",
    "-DBUILD_SHARED_LIBS=OFF", "-DGGML_OPENMP=OFF",
)  # fmt: skip


def binary() -> Path:
    """The server's path, built if it is not there. Raises CalledProcessError; needs cmake and a C++ compiler."""
    if named := os.environ.get("LLAMA_SERVER"):
        return Path(named)
    built = FOLDER / "llama-server"
    if built.exists():
        return built
    sources = FOLDER / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    if not (archives := sorted(sources.glob("*.tar.gz"))):
        # A virtual environment's pip may be missing: the interpreter that made it has one.
        run(_python_with_pip(), "-m", "pip", "download", SDIST, "--no-binary", "llama-cpp-python", "--no-deps",
            "--dest", sources)  # fmt: skip
        archives = sorted(sources.glob("*.tar.gz"))
    with tarfile.open(archives[0]) as archive:
        archive.extractall(sources, filter="data")
    (tree,) = sources.glob("*/vendor/llama.cpp")
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    run("cmake", "-S", tree, "-B", FOLDER / "cmake", *generator, *FLAGS)
    run("cmake", "--build", FOLDER / "cmake", "--target", "llama-server", "-j", str(os.cpu_count() or 2))
    shutil.copy(FOLDER / "cmake" / "bin" / "llama-server", built)
    return built


def model() -> Path:
    """A GGUF file with 6 layers of 768 and random weights, 87 MB: about 20 ms a token on one core."""
    path = FOLDER / "random.gguf"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        venv = FOLDER / "venv"
        if not (venv / "bin" / "python").exists():
            run(_python_with_pip(), "-m", "venv", venv)
            run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", "gguf")
        part = path.with_suffix(".part")
        run(venv / "bin" / "python", Path(__file__).with_name("random_model.py"), part)
        part.rename(path)
    return path


@contextlib.contextmanager
def running(*options: str):
    """The address of a llama-server with two slots, started for this; ``options`` are added to its command line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(binary()), "-m", str(model()), "--host", "127.0.0.1", "--port", str(port), "-t", "1", "-c", "32768",
        "-np", "2", "-b", "128", "-ub", "128", *options,
    ]  # fmt: skip
    log = FOLDER / "server.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            _await_health(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await_health(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"llama-server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _python_with_pip() -> str:
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return python
    raise AssertionError("no pip, neither here nor in the Python that made this environment")


def run(*command: object) -> None:
    """Run a command to its end; its output is shown when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
