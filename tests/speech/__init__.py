"""Spoken sentences for tests, synthesised by Debian's flite (``make speech``): 16 kHz mono, 16-bit.

flite's ``rms`` is the synthetic voice that pocketsphinx understands best (8 % of words wrong).
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
VOICE = "rms"
SENTENCES = {
    "brooklyn": "How old is the Brooklyn bridge?",
    "count": "Please count to twenty.",
    "story": "Tell me a story.",
    "time": "What time is it?",
    "stop": "Stop.",
    "wait": "Wait a minute.",
    "yes": "Yes.",
    "thanks": "No thank you, that is all for today.",
}


def path(name: str) -> Path:
    """The WAV file of one of SENTENCES; skips the test where it was not synthesised."""
    file = FOLDER / f"{name}.wav"
    assert name in SENTENCES
    if not file.exists():
        pytest.skip(f"no {name}.wav in tests/speech: make speech writes it, with Debian's flite")
    return file
