"""Speech for tests, synthesised by Debian's flite: ``python -m tests.synthesise DIR`` writes every phrase there.

Each file is 16 kHz mono 16-bit WAV, with 300 ms of silence in front and 200 ms behind. The wording and the voice of
each phrase are ones that the embedded recogniser understands.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import wave
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

RATE = 16_000
BEFORE = 300
AFTER = 200
"""Milliseconds of silence in front of the speech and behind it."""

VOICES = ("slt", "rms")
"""A woman's and a man's voice, both at 16 kHz."""


class Phrase(NamedTuple):
    """What is said, by which voice, and how it sounds where flite would spell the text out."""

    text: str
    voice: str = "slt"
    phones: str = ""


PHRASES = {
    "question_time": Phrase("what time is it"),
    "count": Phrase("count up to fifty"),
    "story": Phrase("tell me a story"),
    "stop": Phrase("stop"),
    "no": Phrase("no"),
    "mmhmm": Phrase("mm hmm", "rms", "pau ah m hh ah m pau"),
    "brooklyn": Phrase("how old is the brooklyn bridge"),
}
"""File name without ending, and the phrase in it."""


class CannotSynthesise(Exception):
    """There is no flite here, or it failed; the text says what to do."""


def synthesise(text: str, path: Path | str, voice: str = "slt", phones: str = "") -> Path:
    """Write ``text``, or the CMU ``phones`` given for it, as speech to ``path``. Raises CannotSynthesise."""
    flite = shutil.which("flite")
    if flite is None:
        raise CannotSynthesise("flite is not installed; on Debian: apt-get install flite")
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "speech.wav"
        what = ["-p", phones] if phones else ["-t", text]
        done = subprocess.run(
            [flite, "-voice", voice, *what, "-o", str(raw)], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0 or not raw.exists():
            raise CannotSynthesise(f"flite -voice {voice} failed: {(done.stderr or done.stdout).strip()[:200]}")
        with wave.open(str(raw)) as file:
            form = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            pcm = file.readframes(file.getnframes())
    if form != (RATE, 1, 2):
        raise CannotSynthesise(f"voice {voice} speaks at {form[0]} Hz; expected one of {', '.join(VOICES)} ({RATE} Hz)")
    path = Path(path)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(silence(BEFORE) + pcm + silence(AFTER))
    return path


def silence(ms: int) -> bytes:
    """Digital silence."""
    return bytes(2 * RATE * ms // 1000)


def synthesise_all(folder: Path | str) -> list[Path]:
    """Write every phrase into ``folder``, which is made if it is not there. Raises CannotSynthesise."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [synthesise(p.text, folder / f"{name}.wav", p.voice, p.phones) for name, p in PHRASES.items()]


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m tests.synthesise DIR")
    try:
        for written in synthesise_all(sys.argv[1]):
            print(written)
    except (CannotSynthesise, OSError) as error:
        sys.exit(f"cannot synthesise: {error}")
