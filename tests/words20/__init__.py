"""A recogniser of twenty words for tests: small enough to be in the project, good enough to be held to what was said.

``words20.nemo`` is a cache-aware streaming FastConformer transducer as NVIDIA's are, with 2 layers of 96 instead of 24
of 1024. ``python -m tests.words20.train`` makes it anew from synthetic speech, which takes about 15 CPU minutes.
"""

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "words20.nemo"
RECORD = FOLDER / "words20.json"
"""What the model was made by: the hash of the scripts, and its own."""

WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "yes", "no", "stop", "start", "help", "cancel", "repeat", "hello", "goodbye", "thanks",
)  # fmt: skip
VOICES = (
    "en-us", "en-gb", "en-gb-x-rp", "en-us+m1", "en-us+m3", "en-us+m7",
    "en-us+f1", "en-us+f2", "en-us+f5", "en-gb+m2", "en-gb+f3", "en-gb+f1",
)  # fmt: skip
"""Of espeak-ng: those it was trained with."""
HELD_OUT = ("en-us+m4", "en-us+f4", "en-gb+m5")
"""Voices it has never heard."""


def scripts_hash() -> str:
    """SHA-256 of the programs that make the model, and of the lists above."""
    digest = hashlib.sha256(repr((WORDS, VOICES, HELD_OUT)).encode())
    for name in ("speech.py", "tiny.py", "train.py"):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
