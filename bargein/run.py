"""``bargein run``: everything that the Procfile names, under honcho."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROCFILE = Path(__file__).parent / "Procfile"
"""A part of the package, so that an installed one starts as a checkout does."""
ASKED_TO_END = (130, 143)
"""honcho's exit codes after Ctrl-C and after SIGTERM."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM, which end it well (0), or until a process ends by itself."""
    parser = argparse.ArgumentParser(
        prog="bargein run",
        description="Start every process, or those that are named, with the settings of the environment and of .env.",
    )
    names = [line.partition(":")[0] for line in PROCFILE.read_text().splitlines()]
    parser.add_argument("process", nargs="*", choices=[*names, []], metavar="PROCESS", help=", ".join(names))
    parser.add_argument("-c", "--concurrency", metavar="NAME=N,...", help="how many of each, such as stt=2,tts=3")
    parser.add_argument("-q", "--quiet", metavar="NAME,...", help="whose output is not shown")
    parser.add_argument("--no-colour", action="store_true", help="plain output")
    parser.add_argument("--env", metavar="FILE", help="settings in place of .env")
    options = parser.parse_args(argv)
    arguments = ["start", "-f", str(PROCFILE), *options.process]
    for name in ("concurrency", "quiet", "env"):
        if (value := getattr(options, name)) is not None:
            arguments += [f"--{name}", value]
    arguments += ["--no-colour"] if options.no_colour else []
    return _honcho(arguments)


def _honcho(arguments: list[str]) -> int:
    from honcho.command import main as honcho

    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    try:
        honcho(arguments)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        return 0 if code in ASKED_TO_END else code
    return 0
