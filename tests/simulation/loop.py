"""A virtual-time asyncio loop: idle time is jumped over; callbacks belong to processes that can be killed or paused.

A process is a context variable. Every callback is gated by the process of its context, and ``asyncio.create_task``
inherits the context, so the code under test needs no change.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)
NETWORK = contextvars.Context()
"""The context of wires and servers, which belong to no process and outlive them all."""


class Deadlock(RuntimeError):
    """Every task waits and no timer is set: virtual time can never move again."""


class Process:
    """SIGSTOP parks every callback until SIGCONT. SIGKILL parks them for ever, so that no ``finally`` block runs and
    nothing more is written; ``on_kill`` closes what the kernel would close."""

    def __init__(self, loop: VirtualLoop, name: str, crashed: Callable[[str, BaseException], None]) -> None:
        self.name = name
        self.dead = False
        self.on_kill: list[Callable[[], None]] = []
        self._loop = loop
        self._crashed = crashed
        self._parked: list[tuple[_Gated, tuple[Any, ...], contextvars.Context]] | None = None
        self._context = contextvars.Context()
        self._context.run(PROCESS.set, self)

    @property
    def paused(self) -> bool:
        return self._parked is not None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in this process; an exception that escapes it is a crash."""
        task = self._loop.create_task(work, context=self._context.copy())

        def ended(task: asyncio.Task[Any]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._crashed(self.name, error)

        task.add_done_callback(ended, context=NETWORK)
        return task

    def pause(self) -> None:
        if self._parked is None:
            self._parked = []

    def kill(self) -> None:
        self.dead = True
        self.pause()
        for close in self.on_kill:
            close()

    def resume(self) -> None:
        """SIGCONT; the dead stay dead."""
        if not self.dead:
            self.release()

    def release(self) -> None:
        """Let parked callbacks go; for the dead only when the world is over."""
        parked, self._parked = self._parked or [], None
        for gated, args, context in parked:
            self._loop.call_ungated(gated.after_pause, *args, context=context)

    def hold(self, gated: _Gated, args: tuple[Any, ...]) -> bool:
        """Whether the process is stopped: then the callback is kept for later."""
        if self._parked is None:
            return False
        self._parked.append((gated, args, contextvars.copy_context()))
        return True


class _Gated:
    """A callback of a process. One that is parked can still be cancelled, as a timer that is due can be."""

    __slots__ = ("callback", "handle", "process")

    def __init__(self, process: Process, callback: Any) -> None:
        self.process = process
        self.callback = callback
        self.handle: asyncio.Handle | None = None

    def __call__(self, *args: Any) -> None:
        if not self.process.hold(self, args):
            self.callback(*args)

    def after_pause(self, *args: Any) -> None:
        if self.handle is None or not self.handle.cancelled():
            self(*args)


class _Jump(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is ready and no timer is set")
        if timeout > 0:
            self.loop.now = max(self.loop.now, self.loop._scheduled[0]._when)  # type: ignore[attr-defined]
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and moves only when nothing is ready. There is no real I/O and there are no threads."""

    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        gated = _Gated(process, callback)
        handle = gated.handle = super().call_soon(gated, *args, context=context)
        return handle

    def call_ungated(self, callback: Any, *args: Any, context: Any) -> asyncio.Handle:
        """Like call_soon, for a callback that asks for its process itself."""
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        gated = _Gated(process, callback)
        handle = gated.handle = super().call_at(when, gated, *args, context=context)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise RuntimeError(f"a real thread in a simulation: {func}")
