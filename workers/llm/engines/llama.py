"""llama-server's slots: which one answers a session, and when the slot of a cancelled turn is really idle.

A llama-server shows in ``/slots``, beside ``/v1``, what each slot does: ``is_processing``, and ``id_task``, the number
of its last request, which stays when the request has ended. A session keeps its slot (``id_slot``), so that the next
turn finds its cache there and waits for the slot instead of for the watching.

After the stream was closed the slot is read every 5 ms until it is idle or on another task. The server notices a closed
connection whenever it has something to send, so after the first word within a token, before it within a batch of the
prompt, because ``return_progress`` makes every batch send something. A server without ``return_progress`` notices
before the first word by a timer of one second, which every answer to ``/slots`` starts anew: there the first second
is waited out without asking. (Read in llama.cpp 0c1e57098 and measured with it.)
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from workers.llm.engine import Observed

log = logging.getLogger(__name__)

POLL = 0.005
"""Seconds between two looks at a slot."""
LIMIT_SPEAKING = 0.5
"""Seconds for which a slot is watched when the cancelled turn had its first word."""
LIMIT_READING = 3.0
"""Seconds for which it is watched when the prompt was still being read."""
SILENCE = 1.05
"""Seconds without asking, for a server that sends no progress: its own timer is 1 s."""
LOOK = 0.1
"""Seconds that the look before a request may take; a server in the middle of a decode may answer later."""
REMEMBERED = 4096
"""Sessions whose slot is remembered."""

Get = Callable[[str, float], Awaitable[tuple[int, Any]]]
"""``(path, limit)``: GET a path of the server within ``limit`` seconds; its status and JSON, status 0 for no answer."""


class NotYet(Exception):
    """The server does not answer, or is still loading: what it is cannot be known yet."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as ``/slots`` shows it; ``task`` is None when it was never used."""

    busy: bool
    task: int | None


@dataclass(eq=False, slots=True)
class Watch:
    """One request: its slot (None: not pinned), and the task by which the slot knows it once that was seen."""

    session: str
    slot: int | None
    before: int | None
    """The slot's task before the request; -1 when it could not be read."""
    task: int | None = None
    begun: bool = False
    """Whether the server has sent anything."""
    said: bool = False
    """Whether it has sent a word."""
    open: bool = True
    noting: asyncio.Task[None] | None = None


async def recognise(get: Get, limit: float = 1.0) -> Slots | None:
    """The slots of a llama-server; None for a server that has none to show. Raises NotYet."""
    status, props = await get("/props", limit)
    if status in (0, 503):
        raise NotYet
    if status != 200 or not isinstance(props, dict) or not isinstance(props.get("total_slots"), int):
        return None
    status, answer = await get("/slots", limit)
    if status in (0, 503):
        raise NotYet
    slots = _parse(answer) if status == 200 else {}
    if not slots:
        log.info("llama-server without /slots (%d): start it with --slots to see it stop", status)
        return None
    return Slots(get, slots)


class Slots:
    """The slots of one llama-server. Belongs to one event loop."""

    def __init__(self, get: Get, slots: Iterable[int]) -> None:
        """``slots`` are the ids there are."""
        self._get = get
        self._ids = tuple(sorted(slots))
        self._last: OrderedDict[str, Watch] = OrderedDict()
        """Session -> its newest pinned request, the session used last at the end."""
        self._open: set[Watch] = set()
        self._progress = True
        """Whether the server sends progress, as its newest answer showed."""

    @property
    def count(self) -> int:
        """How many slots there are."""
        return len(self._ids)

    async def begin(self, session: str) -> Watch:
        """Choose the slot for a request: the session's own, else the free one that was used longest ago.

        When every slot works for somebody else the request is not pinned: the server gives it the first that is free.
        """
        state = await self._read(LOOK) or {}
        slot = self._choose(session, state)
        before = state[slot].task if slot is not None and slot in state else -1
        watch = Watch(session, slot, before)
        self._open.add(watch)
        if slot is not None:
            self._last[session] = watch
            self._last.move_to_end(session)
            while len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
        return watch

    def sent(self, watch: Watch, *, progress: bool, word: bool) -> None:
        """The server has sent a chunk; with the first one the slot's task is read, beside the stream."""
        if not watch.begun:
            watch.begun = True
            self._progress = progress
            watch.noting = asyncio.create_task(self._note(watch))
        watch.said = watch.said or word

    def end(self, watch: Watch) -> None:
        """The request's stream is closed."""
        watch.open = False
        self._open.discard(watch)
        if watch.noting is not None:
            watch.noting.cancel()

    async def idle(self, watch: Watch) -> Observed:
        """Watch the slot of a closed request until it does something else, or the limit."""
        if watch.slot is None:
            return Observed(False, "stream closed")
        loop = asyncio.get_running_loop()
        began = loop.time()
        limit = LIMIT_SPEAKING if watch.said else LIMIT_READING
        if not watch.said and not self._progress:
            await asyncio.sleep(SILENCE)
        while (left := began + limit - loop.time()) > 0:
            state = await self._read(left)
            if state is not None and self._left(watch, state.get(watch.slot)):
                return Observed(True, f"slot {watch.slot} idle after {(loop.time() - began) * 1000:.0f} ms")
            await asyncio.sleep(min(POLL, left))
        return Observed(False, f"unconfirmed after {limit * 1000:.0f} ms")

    def _left(self, watch: Watch, slot: Slot | None) -> bool:
        """Whether the slot is seen to have left the request. One that was never seen in it has not left it."""
        if slot is None:
            return False
        if watch.task is None and slot.task != watch.before and (slot.busy or watch.before != -1):
            watch.task = slot.task
        return watch.task is not None and (not slot.busy or slot.task != watch.task)

    async def _note(self, watch: Watch) -> None:
        state = await self._read(LIMIT_SPEAKING)
        slot = state.get(watch.slot) if state is not None and watch.slot is not None else None
        if slot is not None and slot.busy and slot.task != watch.before:
            watch.task = slot.task

    async def _read(self, limit: float) -> dict[int, Slot] | None:
        status, answer = await self._get("/slots", limit)
        state = _parse(answer) if status == 200 else {}
        if state:
            self._ids = tuple(sorted(state))
        return state or None

    def _choose(self, session: str, state: dict[int, Slot]) -> int | None:
        if self.count == 1:
            return self._ids[0]
        last = self._last.get(session)
        busy = {watch.slot for watch in self._open}
        for slot, seen in state.items():
            # A slot that still releases this session's cancelled turn is soon free, and holds its cache.
            releasing = last is not None and last.slot == slot and last.task in (None, seen.task)
            if seen.busy and not releasing:
                busy.add(slot)
        if last is not None and last.slot in self._ids and last.slot not in busy:
            return last.slot
        used = {watch.slot: turn for turn, watch in enumerate(self._last.values())}
        free = [slot for slot in self._ids if slot not in busy]
        return min(free, key=lambda slot: used.get(slot, -1), default=None)


def _parse(answer: Any) -> dict[int, Slot]:
    """The slots in an answer of ``/slots``; empty for anything else."""
    if not isinstance(answer, list):
        return {}
    return {
        entry["id"]: Slot(bool(entry.get("is_processing")), entry.get("id_task"))
        for entry in answer
        if isinstance(entry, dict) and isinstance(entry.get("id"), int)
    }
