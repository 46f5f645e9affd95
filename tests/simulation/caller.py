"""A scripted caller: asks, interrupts, murmurs, coughs, pauses, falls silent, hangs up. Seeded, and led by what it
hears, as people are."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING

from gateway.session import Session
from gateway.turns import TurnState
from tests.simulation.audio import MURMUR, NOISE, PAIRS, SILENCE, WORD, mic_frame
from tests.simulation.client import Client
from tests.simulation.line import Line

if TYPE_CHECKING:
    from tests.simulation.world import World

FRAME = 0.06
PATIENCE = 45.0
"""Seconds after the caller's last word within which everything has to have come to an end."""


class Caller:
    """One call. ``sounds`` is what was said: [kind, first pair, pair after the last]."""

    def __init__(self, world: World, name: str, session: Session | Line, client: Client) -> None:
        self.sounds: list[list[int]] = []
        self.hung_up_on = False
        """Whether the caller hung up in the middle of it all."""
        self._world = world
        self._name = name
        self._session = session
        self._client = client
        self._rng: random.Random = world.rng(f"caller/{name}")
        self._plan: deque[int] = deque()
        self._at = 0
        self._due = 0.0
        self._next = 0.5
        self._met = 0
        """The turn that it has made up its mind about."""

    async def live(self, seconds: float) -> None:
        """Talk for so long, then wait until everything has come to rest, and hang up."""
        loop = self._world.loop
        self._due = loop.now
        self._next = loop.now + self._rng.uniform(0.1, 1.0)
        end = loop.now + seconds
        while loop.now < end:
            if not self._plan and loop.now >= self._next:
                self._decide(loop.now)
            await self._frame()
        if self._rng.random() < 0.15:
            self.hung_up_on = True
            self._note("hangs up in the middle")
            return
        self._note("says nothing more")
        while not self._at_rest():
            if loop.now > end + PATIENCE:
                state, pending = self._session.state, not self._client.functions.at_rest
                what = f"{state.turn} {state.cancelling} {state.utterances} {state.asked}, functions {pending}"
                self._world.fail(f"{self._name}: waits for ever: {what}")
                return
            await self._frame()

    async def _frame(self) -> None:
        """Send the next 60 ms when they are due."""
        kind = self._plan.popleft() if self._plan else SILENCE
        first = self._at
        self._at += PAIRS
        if kind:
            if self.sounds and self.sounds[-1][0] == kind and self.sounds[-1][2] == first:
                self.sounds[-1][2] = self._at
            else:
                self.sounds.append([kind, first, self._at])
        self._session.audio(mic_frame(first, kind))
        self._due += FRAME
        await asyncio.sleep(max(0.0, self._due - self._world.loop.now))

    def _decide(self, now: float) -> None:
        rng, state = self._rng, self._session.state
        live = state.live
        if live is None:
            if state.utterances and rng.random() > 0.03:
                self._next = now + 0.15
            elif rng.random() < 0.03:
                self._session.respond()
                self._next = now + 0.1
            else:
                self._say("asks", self._words())
        elif live.state is TurnState.SPECULATIVE:
            self._next = now + 0.1
        elif live.state is TurnState.THINKING:
            self._next = now + 0.1
            if self._met != -live.number:
                self._met = -live.number
                self._over_thinking(rng.random())
        elif self._met != live.number:
            self._met = live.number
            self._next = now + rng.uniform(0.02, 0.5)
        elif live.state is TurnState.HELD:
            self._next = now + 0.2
        else:
            self._over_speech(rng.random())

    def _over_thinking(self, draw: float) -> None:
        if draw < 0.12:
            self._say("speaks while it thinks", self._words())
        elif draw < 0.15:
            self._say("murmurs while it thinks", [MURMUR] * 4)
        elif draw < 0.18:
            self._cancel()

    def _over_speech(self, draw: float) -> None:
        rng = self._rng
        if draw < 0.70:
            self._say("interrupts", self._words())
        elif draw < 0.80:
            self._say("murmurs", [MURMUR] * rng.randint(3, 6))
        elif draw < 0.88:
            self._say("coughs", [NOISE] * rng.randint(1, 4))
        elif draw < 0.91:
            self._say("makes a noise", [NOISE] * rng.randint(12, 18))
        elif draw < 0.94:
            self._cancel()
        elif draw < 0.96:
            self._say("murmurs, then interrupts", [*[MURMUR] * 4, *[SILENCE] * 6, *self._words()])
        else:
            self._next = self._world.loop.now + rng.uniform(1.0, 6.0)

    def _say(self, what: str, kinds: list[int]) -> None:
        self._note(f"{what} ({len(kinds) * 60} ms)")
        self._world.counts[what] += 1
        self._plan.extend(kinds)
        self._next = self._world.loop.now + len(kinds) * FRAME + self._rng.uniform(0.1, 0.6)

    def _words(self) -> list[int]:
        rng, kinds = self._rng, list[int]()
        for n in range(rng.choice((1, 1, 2, 3))):
            if n:
                kinds += [SILENCE] * (rng.randint(5, 7) if rng.random() < 0.2 else 1)
            kinds += [WORD] * rng.randint(2, 5)
        return kinds

    def _cancel(self) -> None:
        live = self._session.state.live
        assert live is not None
        self._client.asked_to_cancel.add(live.number)
        # Half of the requests name the turn they are for, the other half whichever is live.
        turn = live.number if self._rng.random() < 0.5 else 0
        self._note(f"cancels turn {live.number}")
        self._world.counts["client cancels"] += 1
        if self._session.cancel("client_cancelled", turn) != live.number:
            self._world.fail(f"{self._name}: the cancel of turn {live.number} was refused")
        # A second cancel of the same turn, late, is about nobody.
        number = live.number
        self._world.loop.call_later(self._rng.uniform(0, 2), lambda: self._session.cancel("client_cancelled", number))
        self._next = self._world.loop.now + self._rng.uniform(0.1, 1.0)

    def _at_rest(self) -> bool:
        # What was said while there was no connection is still to be sent.
        if isinstance(self._session, Line) and not self._session.holds:
            return False
        state = self._session.state
        if not self._client.functions.at_rest:
            return False
        return state.live is None and not state.cancelling and not state.utterances and state.asked is None

    def _note(self, what: str) -> None:
        self._world.note(self._name, what)
