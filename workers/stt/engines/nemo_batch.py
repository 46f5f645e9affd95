"""When a batched step starts, and with whom: one step at a time, each with everything that has gathered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Gathering(Generic[T]):
    """What waits for the next step. Pure: times are given, in seconds of any clock that only rises."""

    def __init__(self, collect: float) -> None:
        """``collect``: how long the first that waits may wait for company."""
        self._collect = collect
        self._waiting: list[T] = []
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, now: float) -> None:
        """``item`` is ready for a step."""
        if not self._waiting:
            self._since = now
        self._waiting.append(item)

    def due(self, expected: int) -> float:
        """From when on the next step may start: at once when all ``expected`` are here, never (inf) for nobody."""
        if not self._waiting:
            return float("inf")
        return self._since if len(self._waiting) >= expected else self._since + self._collect

    def take(self) -> list[T]:
        """Everything that waits, in the order it came: nothing waits for more than the step that runs."""
        taken, self._waiting = self._waiting, []
        return taken


class Batcher(Generic[T, R]):
    """Runs ``step`` for whoever asks. Belongs to one event loop."""

    def __init__(
        self, step: Callable[[Sequence[T]], Awaitable[Sequence[R]]], collect: float, expected: Callable[[], int]
    ) -> None:
        """``step`` answers each of its items in order; ``expected``: how many may ask at the moment."""
        self._step = step
        self._expected = expected
        self._gathering: Gathering[tuple[T, asyncio.Future[R]]] = Gathering(collect)
        self._running: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, item: T) -> R:
        """The step's answer for ``item``. A caller that is cancelled before the step starts is left out of it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._gathering.add((item, answer), loop.time())
        self._look()
        return await answer

    def _look(self) -> None:
        """Start the next step if it is due, or see to it that this is looked at again when it is."""
        if self._running is not None or not len(self._gathering):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        due = self._gathering.due(self._expected())
        if due <= loop.time():
            asked = [(item, answer) for item, answer in self._gathering.take() if not answer.done()]
            self._running = asyncio.create_task(self._run(asked), name="batched-step")
        else:
            self._timer = loop.call_at(due, self._look)

    async def _run(self, asked: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._step([item for item, _ in asked]) if asked else ()
            for (_, future), answer in zip(asked, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except BaseException as error:
            for _, future in asked:
                if not future.done():
                    future.cancel() if isinstance(error, asyncio.CancelledError) else future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._running = None
            self._look()
