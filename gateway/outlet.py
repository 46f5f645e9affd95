"""What a session tells its client: the interface that every client protocol implements.

All calls return at once; an outlet keeps their order and does its own sending. Positions in milliseconds: of the
caller's audio since the session began, of the assistant's since its turn began.
"""

from __future__ import annotations

from typing import Protocol

from gateway.playback import Frame


class Outlet(Protocol):
    """One client, as the session sees it."""

    rate: int
    """Sample rate in Hz of the audio it is sent."""
    drops: bool
    """Whether it drops its buffer at ``held`` and is sent that part again after ``resumed``."""
    cancels_echo: bool
    """Whether what it plays does not come back in what it sends."""

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        """The caller began to speak; ``start_ms`` includes the pre-roll."""

    def speech_stopped(self, utterance: int, end_ms: int) -> None:
        """The utterance has ended; its text may still be on its way."""

    def partial(self, utterance: int, text: str) -> None:
        """The whole text of the utterance as understood so far."""

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None:
        """The utterance joined the conversation; empty text: nothing was understood, and nothing joined."""

    def turn_opened(self, turn: int, tag: str) -> None:
        """A turn began; ``tag`` is that of the request for it, if there was one."""

    def audio(self, frame: Frame) -> None:
        """A piece of the turn's audio, and the text it completes."""

    def text(self, turn: int, text: str) -> None:
        """A piece of the text of a turn without audio."""

    def held(self, turn: int, onset_ms: int) -> None:
        """Output is held; only sent to a client that ``drops``."""

    def resumed(self, turn: int, start_ms: float) -> None:
        """Output goes on from ``start_ms`` of the turn, which names a sample exactly."""

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        """A turn ended: ``outcome`` is completed, cancelled or failed. No audio of it follows."""

    def refused(self, code: str, message: str, tag: str) -> None:
        """A request could not be met."""

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None:
        """One moment of a turn, for timelines: milliseconds since the session began."""

    def ended(self, reason: str) -> None:
        """The session is over, by nobody's wish at this client's end."""
