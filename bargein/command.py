"""``bargein COMMAND``: one door to everything that is started by hand."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

COMMANDS = {
    "run": ("bargein.run", "start everything that the Procfile names, or some of it; Ctrl-C ends it"),
    "config": ("bargein.configuration", "every setting: what it is for, what is allowed, the value in effect"),
    "client": ("gateway.client_cli", "call the assistant from a terminal, with a sound file"),
    "inspect": ("bus.inspect", "the sessions on Redis, and where the time of a turn went"),
    "replay": ("gateway.replay", "a recorded session through the turn logic again, with other settings"),
    "monitor": ("bus.monitor", "every command that reaches Redis, live, with audio shortened"),
}
"""Name -> the module whose ``main(argv)`` it is, and its line in the help. Imported only when it is asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` begins with; its exit code."""
    parser = argparse.ArgumentParser(
        prog="bargein",
        description="Full-duplex voice agents on Redis Streams.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:9}{said}" for name, (_, said) in COMMANDS.items())
        + "\n\nbargein COMMAND --help says what it takes.",
    )
    parser.add_argument("--version", action="version", version=f"bargein {version('bargein')}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    given = sys.argv[1:] if argv is None else list(argv)
    command = parser.parse_args(given[:1]).command
    try:
        code = int(importlib.import_module(COMMANDS[command][0]).main(given[1:]) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
