"""The cancel watermark: raise it (gateway), watch it (workers), ask it from any thread.

Per session it is the highest turn that is cancelled; turn n is cancelled when ``n <= watermark``, and it only rises.
So an announcement may be late, doubled, reordered or lost and still never touch a later turn: a worker that missed
it learns the mark from the key when it starts a turn, from every guarded write, and from every renewal of its lease.
Announcements only make it fast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


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
