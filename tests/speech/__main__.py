"""Synthesise the sentences that are missing: ``python -m tests.speech``. Needs flite on PATH."""

import os
import shutil
import subprocess
import sys

from tests.speech import FOLDER, SENTENCES, VOICE


def main() -> int:
    """0 when all sentences are there, or when flite is missing and NO_SKIPS is not set; else 1."""
    missing = [name for name in SENTENCES if not (FOLDER / f"{name}.wav").exists()]
    if not missing:
        return 0
    flite = shutil.which("flite")
    if flite is None:
        print(
            "no flite: tests that need synthetic speech are skipped; on Debian: apt-get install flite", file=sys.stderr
        )
        return 1 if os.environ.get("NO_SKIPS") == "1" else 0
    for name in missing:
        unfinished = FOLDER / f"{name}.part.wav"
        subprocess.run([flite, "-voice", VOICE, "-t", SENTENCES[name], "-o", unfinished], check=True)
        unfinished.replace(FOLDER / f"{name}.wav")
    print(f"{len(missing)} sentences written to {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
