"""What a session tells its client: the interface that every client protocol implements.

All calls return at once; an outlet keeps their order and does its own sending. Positions in milliseconds: of the
caller's audio since the session began, of the assistant's since its turn began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bus.events import Said
from gateway.playback import Frame


class Outlet(Protocol):
    """One client, as the session sees it."""

    drops: bool
    """Whether it drops its buffer at ``held`` and is sent that part again after ``resumed``."""
    remembers: bool
    """Whether, back after a break, it answers ``held`` with how much of the turn it had played."""
    abilities: frozenset[str]
    """Which of the gateway's own tools this end can do."""
    cancels_echo: bool
    """Whether what it plays does not come back in what it sends."""

    @property
    def rate(self) -> int:
        """Sample rate in Hz of the audio that it is sent, from the next turn on."""

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        """The caller began to speak; ``start_ms`` includes the pre-roll."""

    def speech_stopped(self, utterance: int, end_ms: int) -> None:
        """The utterance has ended; its text may still be on its way."""

    def partial(self, utterance: int, text: str) -> None:
        """The whole text of the utterance as understood so far."""

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None:
        """The utterance joined the conversation; empty text: nothing was understood, and nothing joined."""

    def not_transcribed(self, utterance: int, error: str) -> None:
        """The recogniser failed on the utterance."""

    def stayed_silent(self, utterance: int, start_ms: int, end_ms: int) -> None:
        """Nobody spoke for so long that the assistant is about to; the silence is an utterance without words."""

    def turn_opened(self, turn: int, tag: str, text_only: bool) -> None:
        """A turn began; ``tag`` is that of the request for it, if there was one; ``text_only``: it has no audio."""

    def audio(self, frame: Frame) -> None:
        """A piece of the turn's audio, and the text it completes."""

    def text(self, turn: int, text: str) -> None:
        """A piece of the text of a turn without audio."""

    def calling(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None:
        """The model is calling a function: ``arguments`` so far, the beginning of what ``called`` will have.

        A turn that ends without that has not called it.
        """

    def called(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None:
        """The turn calls a function; ``arguments`` is JSON text, ``item`` the call's name in the conversation."""

    def press(self, keys: str) -> None:
        """Let the other end hear the phone's keys; only where ``abilities`` has ``send_dtmf``."""

    def counted(self, turn: int, prompt_tokens: int, tokens: int, finish: str) -> None:
        """The turn's text is complete: what it cost, and ``length`` when its limit ended it."""

    def held(self, turn: int, onset_ms: int) -> None:
        """Output is held; only sent to a client that ``drops``."""

    def resumed(self, turn: int, start_ms: float) -> None:
        """Output goes on from ``start_ms`` of the turn, which names a sample exactly."""

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        """A turn ended: ``outcome`` is completed, cancelled or failed. No audio of it follows."""

    def recalled(self, messages: Sequence[Said]) -> None:
        """A client has come back: the conversation so far, as it was heard. What goes on is told anew after it."""

    def continued(self, turn: int, text: str, start_ms: float) -> None:
        """The turn that was opened goes on: ``text`` was heard of it, its audio follows from ``start_ms``."""

    def lost(self, said: Said, at_ms: int, lost_ms: int) -> None:
        """So much of the caller's audio is missing at ``at_ms``; ``said``, a message of the conversation, says so."""

    def refused(self, code: str, message: str, tag: str) -> None:
        """A request could not be met."""

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None:
        """One moment of a turn, for timelines: milliseconds since the session began."""
