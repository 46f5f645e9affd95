"""Child processes that do not outlive their parent, and how they ended, in words."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def dies_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """A ``preexec_fn`` that has the kernel send ``number`` to the child when its parent dies, kill -9 included.

    Start such a child from the main thread: Linux takes the death of the starting thread for the parent's. None on
    systems that offer nothing of the kind; there a child of a killed parent stays.
    """
    if _libc is None:
        return None
    parent = os.getpid()
    return lambda: _tie(number, parent)


def tie_forks(number: signal.Signals) -> None:
    """The same for whatever this process forks from now on. For libraries that fork by themselves.

    subprocess is not concerned: it does not run what is registered at forks.
    """
    if _libc is None:
        return
    parent = 0

    def before() -> None:
        nonlocal parent
        parent = os.getpid()

    os.register_at_fork(before=before, after_in_child=lambda: _tie(number, parent))


def _tie(number: signal.Signals, parent: int) -> None:
    """In the child: ask for the signal; end at once if ``parent`` died before that."""
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(1)


def ending(returncode: int) -> str:
    """How a child ended: ``exit code 3``, or ``signal SIGKILL`` for the negative codes of subprocess."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"
