"""One turn's stages, and how each is known to have stopped.

Playback, TTS and LLM are stopped at the same time. A stage whose offer nobody had claimed is withdrawn and counts as
``never_started``; one that had finished says so by its own stream; the others acknowledge. What has not answered when
the turn is settled is named.
"""

from __future__ import annotations

from collections.abc import Callable

from bus.events import Stopped
from bus.leases import Offer, Work


class CancellableTurn:
    """The offers that were made for a turn, and what became of them."""

    def __init__(self, session: str, number: int, on_stopped: Callable[[int, Stopped], None]) -> None:
        """``on_stopped(turn, ack)`` is called once for each stage, as its answer comes after a cancel."""
        self.number = number
        self.cancelled = False
        self.acks: dict[str, Stopped] = {}
        self._session = session
        self._on_stopped = on_stopped
        self._offers: dict[str, str | None] = {}
        """Stage -> entry of its offer; None while the offer is on its way."""
        self._made: dict[str, Offer] = {}
        self._finished: set[str] = set()

    def offering(self, stage: str) -> None:
        """An offer for ``stage`` is about to be made."""
        self._offers[stage] = None

    def offered(self, stage: str, entry: str, offer: Offer) -> None:
        """The offer for ``stage`` stands as ``entry``."""
        self._offers[stage], self._made[stage] = entry, offer

    def open_offers(self) -> dict[str, Offer]:
        """Stage -> the offer that was made to it, where it has not done its work yet."""
        return {stage: offer for stage, offer in self._made.items() if stage not in self._finished}

    def finished(self, stage: str) -> None:
        """The stage has done its work: nothing of it can be stopped any more."""
        self._finished.add(stage)
        if self.cancelled:
            self.stopped(Stopped(self.number, stage, "finished"))

    def cancel(self) -> None:
        """From now on every stage is awaited; those that had finished count at once."""
        self.cancelled = True
        for stage in self._offers:
            if stage in self._finished:
                self.stopped(Stopped(self.number, stage, "finished"))

    def stopped(self, ack: Stopped) -> None:
        """A stage has stopped; a second word of the same stage changes nothing."""
        if ack.stage not in self.acks and self.cancelled:
            self.acks[ack.stage] = ack
            self._on_stopped(self.number, ack)

    @property
    def missing(self) -> list[str]:
        """The stages that have not answered."""
        return [stage for stage in ("playback", *self._offers) if stage not in self.acks]

    async def withdraw(self, work: dict[str, Work]) -> None:
        """Take back the offers that nobody has claimed."""
        for stage in self.missing:
            entry = self._offers.get(stage)
            if entry is not None and await work[stage].withdraw(self._session, entry):
                self.stopped(Stopped(self.number, stage, "never_started"))
