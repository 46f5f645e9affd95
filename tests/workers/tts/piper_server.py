"""A real server with ``/v1/audio/speech`` for the slow tests: local-tts-studio, with a Piper voice that hums.

Installed from PyPI into ``build/speech-server``, once. It answers whole sentences, tells their rate in a header, and
has no cancel endpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.workers.llm.llama_server import _python_with_pip, run

FOLDER = Path(__file__).parents[3] / "build" / "speech-server"
PACKAGES = ("local-tts-studio==1.0.0", "piper-tts==1.8.0", "onnx", "numpy")
KEY = "sk-local-0123456789"


def installed() -> Path:
    """The environment's folder of programs, made if it is not there. Raises AssertionError."""
    programs = FOLDER / "venv" / "bin"
    if not (FOLDER / "voices" / "tone.onnx").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        run(_python_with_pip(), "-m", "venv", FOLDER / "venv")
        run(programs / "python", "-m", "pip", "install", "--quiet", *PACKAGES)
        (FOLDER / "voices").mkdir(exist_ok=True)
        run(programs / "python", Path(__file__).with_name("tone_voice.py"), FOLDER / "voices" / "tone.onnx")
    return programs


@contextlib.contextmanager
def running(data: Path):
    """The address of a server that wants KEY; its settings are kept in ``data``."""
    programs = installed()
    settings = {"api_default_voice": "tone", "device": "cpu", "voices_dir": str(FOLDER / "voices")}
    settings |= {"api_key_enabled": True, "api_key": KEY}
    (data / "settings.json").write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log, environment = data / "log", {**os.environ, "LOCAL_TTS_DATA_DIR": str(data)}
    command = [str(programs / "local-tts"), "--port", str(port)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=1).close()
                    break
                assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
