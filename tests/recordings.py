"""Real recordings for tests: beside the project at ../shared/speech, where they are present."""

import wave
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "speech"


def path(name: str) -> Path:
    """The WAV file of a recording (16 kHz mono); skips the test where the recordings are absent."""
    file = FOLDER / f"{name}.wav"
    if not file.exists():
        pytest.skip(f"the recordings are not present: no {name}.wav in ../shared/speech")
    return file


def recording(name: str) -> bytes:
    """The samples of a recording: 16 kHz mono, 16-bit."""
    with wave.open(str(path(name))) as file:
        return file.readframes(file.getnframes())
