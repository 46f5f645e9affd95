"""How many calls there are, over all gateways: each has a place, which expires unless its gateway renews it.

A place is a member of one sorted set for all and of one for its API key, scored by the server's time at which it
expires; so a gateway that dies gives its places back without a word.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from bus import scripts
from bus.keys import places_key
from bus.outbox import OUTAGE
from bus.streams import Bus
from gateway.door import Refused

log = logging.getLogger(__name__)

LIFETIME = 8.0
"""Seconds for which a place is kept without being renewed."""
PERIOD = 2.0
"""Seconds between two renewals."""
UNKNOWN = Refused(503, "server_error", "unavailable", "not ready: redis does not answer")


class Places:
    """The places that one gateway's calls have. Belongs to one event loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._held: dict[str, tuple[str, int]] = {}
        """Call -> whose it is ("" for nobody's), and how many connections here have it."""

    async def take(self, call: str, capacity: int, caller: str = "", most: int = 0) -> None:
        """Take a place for ``call`` among ``capacity``, at most ``most`` (0: any number) with ``caller``'s key.

        A call that has one keeps it. Raises Refused.
        """
        keys, told = [places_key(), places_key(caller)], [int(LIFETIME * 1000), call, capacity, most]
        try:
            answer = int(await self._bus.run(scripts.TAKE_PLACE, keys, told))
        except OUTAGE:
            raise UNKNOWN from None
        if answer < 0:
            message = f"Rate limit reached: {most} sessions at a time with this key."
            raise Refused(429, "rate_limit_error", "rate_limit_exceeded", message)
        if not answer:
            raise Refused(503, "server_error", "unavailable", "every line is busy")
        self._held[call] = (caller, self._held.get(call, ("", 0))[1] + 1)

    async def give_back(self, call: str, *, kept: bool = False) -> None:
        """A connection of the call's is over. ``kept``: the call may go on, here or elsewhere; its place is kept for it
        until it expires. Without a server it does that too."""
        caller, connections = self._held.pop(call, ("", 0))
        if connections > 1:
            self._held[call] = (caller, connections - 1)
        if connections != 1 or kept:
            return
        try:
            async with asyncio.timeout(1):
                await self._bus.commands.zrem(places_key(), call)
                await self._bus.commands.zrem(places_key(caller), call)
        except OUTAGE:
            pass

    async def taken(self) -> int:
        """How many places are taken, over all gateways. Raises Refused when that is not known."""
        try:
            return int(await self._bus.run(scripts.COUNT_PLACES, [places_key()], []))
        except OUTAGE:
            raise UNKNOWN from None

    async def renew(self) -> None:
        """Keep every place for LIFETIME seconds more. Raises what a lost server raises."""
        sets: dict[str, list[str]] = defaultdict(list)
        for call, (caller, _) in self._held.items():
            for key in {places_key(), places_key(caller)}:
                sets[key].append(call)
        for key, calls in sets.items():
            for at in range(0, len(calls), 1000):
                await self._bus.run(scripts.RENEW_PLACES, [key], [int(LIFETIME * 1000), *calls[at : at + 1000]])

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.renew()
            except OUTAGE:
                pass  # nobody can take a place meanwhile either
            except Exception:
                log.exception("places could not be renewed")
