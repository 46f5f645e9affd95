"""The cancel watermark: raise it (gateway), watch it (workers), ask it from any thread.

Per session it is the highest turn that is cancelled; turn n is cancelled when ``n <= watermark``, and it only rises.
So an announcement may be late, doubled, reordered or lost and still never touch a later turn: a worker that missed
it learns the mark from the key when it starts a turn, from every guarded write, and from every renewal of its lease.
Announcements only make it fast.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from bus import scripts
from bus.backoff import Backoff
from bus.connect import OUTAGE
from bus.foreign import read_json
from bus.keys import CANCEL_CHANNEL, session_key

if TYPE_CHECKING:
    from bus.streams import Bus

log = logging.getLogger(__name__)


class Cancelled(Exception):
    """The turn being worked on is at or below the watermark; the work stops here."""


class CancelToken:
    """Whether one turn is cancelled. ``cancelled`` may be read from any thread; the rest belongs to the loop."""

    def __init__(self, session: str, turn: int) -> None:
        self.session = session
        self.turn = turn
        self.cancelled = False
        self._event = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Mark the turn cancelled and wake whoever waits; a second call changes nothing. From the loop only."""
        if self.cancelled:
            return
        self.cancelled = True
        self._event.set()
        for callback in self._callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the loop when the turn is cancelled; at once if it is already."""
        if self.cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    def check(self) -> None:
        """Raise Cancelled if the turn is cancelled. From any thread."""
        if self.cancelled:
            raise Cancelled(f"turn {self.turn} of {self.session}")

    async def wait(self) -> None:
        """Return once the turn is cancelled."""
        await self._event.wait()


class CancelGuard:
    """What a process knows of the watermarks of the sessions it works for.

    It keeps the highest mark seen of each session, so that a Redis which failed over and forgot the last second
    does not bring a cancelled turn back to life here.
    """

    def __init__(self) -> None:
        self._marks: dict[str, int] = {}
        self._tokens: dict[str, list[CancelToken]] = {}

    def token(self, session: str, turn: int) -> CancelToken:
        """A token for a turn, already cancelled if the mark says so. Give it back with ``release``."""
        token = CancelToken(session, turn)
        self._tokens.setdefault(session, []).append(token)
        if turn <= self._marks.get(session, 0):
            token.cancel()
        return token

    def release(self, token: CancelToken) -> None:
        """Forget a token; with a session's last one its mark is forgotten too (the key still holds it)."""
        tokens = self._tokens.get(token.session, [])
        if token in tokens:
            tokens.remove(token)
        if not tokens:
            self._tokens.pop(token.session, None)
            self._marks.pop(token.session, None)

    def raise_to(self, session: str, turn: int) -> None:
        """Learn that every turn of ``session`` up to ``turn`` is cancelled. Lower marks than known are ignored."""
        if session not in self._tokens or turn <= self._marks.get(session, 0):
            return
        self._marks[session] = turn
        for token in list(self._tokens[session]):
            if token.turn <= turn:
                token.cancel()

    @property
    def sessions(self) -> list[str]:
        """The sessions that hold a token now."""
        return list(self._tokens)


async def raise_watermark(bus: Bus, session: str, turn: int, reason: str, fence: int = 0) -> int:
    """Cancel every turn of a session up to ``turn`` and announce it, in one step; the watermark afterwards.

    ``fence``: of the gateway's lease, which is compared first (0: it is not). -1 when it is not the newest.
    """
    announcement = json.dumps({"session": session, "turn": turn, "reason": reason, "at": bus.now()})
    keys, told = [session_key(session, "cancelled")], [turn, CANCEL_CHANNEL, announcement]
    if fence:
        keys, told = [*keys, session_key(session, "fence:gateway")], [*told, fence]
    return int(await bus.run(scripts.RAISE, keys, told))


async def watermark(bus: Bus, session: str) -> int:
    """The highest cancelled turn of a session; 0 when none is, or what stands there is no number."""
    told = await bus.commands.get(session_key(session, "cancelled")) or b"0"
    try:
        return int(told)
    except ValueError:
        log.warning("the watermark of %s is malformed: %r", session, told[:40])
        return 0


async def listen(bus: Bus, guard: CancelGuard) -> None:
    """Feed announcements to a guard, for ever. After every (re)subscription the marks are read again from the keys."""
    backoff, lost = Backoff(0.05, 2.0), False
    while True:
        client = pubsub = None
        try:
            client = await bus.anywhere()
            pubsub = client.pubsub()
            await pubsub.subscribe(CANCEL_CHANNEL)
            async for message in pubsub.listen():
                if message["type"] == "subscribe":
                    await reread(bus, guard)
                    backoff.reset()
                    lost = False
                elif message["type"] == "message":
                    _hear(guard, message["data"])
        except OUTAGE as error:
            if not lost:
                log.warning("the cancel channel is lost (%s); subscribing again", type(error).__name__)
            lost = True
            await asyncio.sleep(backoff.next())
        finally:
            if pubsub is not None:
                await pubsub.aclose()
            if client is not None:
                await client.aclose()


async def reread(bus: Bus, guard: CancelGuard) -> None:
    """Read the watermark of every session that a guard holds tokens of."""
    for session in guard.sessions:
        guard.raise_to(session, await watermark(bus, session))


def _hear(guard: CancelGuard, data: bytes) -> None:
    try:
        message = read_json(data)
        guard.raise_to(str(message["session"]), int(message["turn"]))
    except (ValueError, KeyError, TypeError):
        log.warning("a cancel announcement is malformed: %r", data[:80])
