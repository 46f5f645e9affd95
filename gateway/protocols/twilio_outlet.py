"""What a session tells a phone line of Twilio's Media Streams, or of a dialect of them.

The other end plays what it is sent in order and sends a mark back when everything before it was played, or cleared.
Heard is what a mark says that came back before the next ``clear`` was sent; marks that were still out then count for
nothing, as they come back without having been played.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from bus.events import Said
from gateway import tones
from gateway.codecs import PCMU
from gateway.playback import Frame
from gateway.protocols.dialect import TWILIO, Dialect

Send = Callable[[dict[str, Any]], None]
MARK_MS = 80
"""Audio between two marks at most; the end of a word has one too."""


class TwilioOutlet:
    """Implements ``gateway.outlet.Outlet``."""

    rate = PCMU.rate
    abilities = frozenset(("end_call", "transfer", "send_dtmf"))
    drops = True
    remembers = False
    cancels_echo = True

    def __init__(self, session: str, stream: str, send: Send, dialect: Dialect = TWILIO) -> None:
        """``stream`` is the phone company's name for the call's audio; ``send`` queues one message for it."""
        self.session = session
        self._address = {dialect.stream: stream} if dialect.addressed else {}
        self._shortest = dialect.shortest
        self.heard_of: Callable[[int, float], object] = lambda turn, ms: None
        """Called with (turn, milliseconds) that were really heard of a turn that is held."""
        self.cut_at: Callable[[int, int], object] = lambda turn, ms: None
        """The same for a turn that was cancelled."""
        self._send = send
        self._turn, self._open = 0, False
        self._heard = 0
        """Samples of the turn that marks say were played."""
        self._out: dict[str, int] = {}
        """Marks that have not come back: name -> samples of the turn before it."""
        self._marked = 0
        self._names = 0

    def marked(self, name: str) -> None:
        """A mark came back."""
        position = self._out.pop(name, None)
        if position is not None:
            self._heard = max(self._heard, position)

    @property
    def heard_ms(self) -> int:
        """What marks say was heard of the newest turn."""
        return self._heard * 1000 // self.rate

    # -- gateway.outlet.Outlet

    def turn_opened(self, turn: int, tag: str, text_only: bool) -> None:
        self._turn, self._open, self._heard, self._marked = turn, True, 0, 0
        self._out.clear()

    def audio(self, frame: Frame) -> None:
        self._media(frame.pcm)
        end = frame.start + len(frame.pcm) // 2
        if frame.text or end - self._marked >= MARK_MS * self.rate // 1000:
            self._names += 1
            name = f"{frame.turn}.{self._names}"
            self._out[name], self._marked = end, end
            self._send({"event": "mark", **self._address, "mark": {"name": name}})

    def held(self, turn: int, onset_ms: int) -> None:
        self._clear()
        self.heard_of(turn, self._heard * 1000 / self.rate)

    def resumed(self, turn: int, start_ms: float) -> None:
        self._marked = round(start_ms * self.rate / 1000)

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        self._open = False
        if outcome != "completed":
            self._clear()
        if outcome == "cancelled" and self.heard_ms < heard_ms:
            self.cut_at(turn, self.heard_ms)

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        if self._out and not self._open:
            self._clear()  # the turn is over by the clock, yet its last sounds are still on their way

    def speech_stopped(self, utterance: int, end_ms: int) -> None: ...

    def partial(self, utterance: int, text: str) -> None: ...

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None: ...

    def not_transcribed(self, utterance: int, error: str) -> None: ...

    def stayed_silent(self, utterance: int, start_ms: int, end_ms: int) -> None: ...

    def text(self, turn: int, text: str) -> None: ...

    def calling(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None: ...

    def called(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None: ...

    def press(self, keys: str) -> None:
        self._media(tones.keys(keys, self.rate))

    def counted(self, turn: int, prompt_tokens: int, tokens: int, finish: str) -> None: ...

    def recalled(self, messages: Sequence[Said]) -> None: ...

    def continued(self, turn: int, text: str, start_ms: float) -> None:
        self._heard = self._marked = round(start_ms * self.rate / 1000)

    def lost(self, said: Said, at_ms: int, lost_ms: int) -> None: ...

    def refused(self, code: str, message: str, tag: str) -> None: ...

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None: ...

    # -- to the other end

    def _media(self, pcm: bytes) -> None:
        # Only the last piece of a turn is shorter than 20 ms: silence after it changes no position.
        codes = PCMU.encode(pcm.ljust(2 * self._shortest, b"\0"))
        self._send({"event": "media", **self._address, "media": {"payload": base64.b64encode(codes).decode()}})

    def _clear(self) -> None:
        self._out.clear()
        self._send({"event": "clear", **self._address})
