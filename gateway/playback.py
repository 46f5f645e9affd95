"""Paced output, and the exact account of what was heard.

Audio leaves at most ``lead`` seconds ahead of the moment at which the client plays it, so what was heard is known and
a hold is heard at once. ``drained_at`` is the time at which the client's buffer runs empty; everything sent less what
is still in that buffer has been heard. A client that says itself what it played corrects the account.

Pure: time is passed in (seconds of any monotonic clock). Positions are samples of one turn at the output's ``rate``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FRAME_MS = 20
"""Audio leaves in multiples of this, but for a turn's end."""
LEAD = 0.2
ROOMY = 0.12
"""The lead in seconds from which on audio leaves two frames at a time: in half as many messages."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A piece of a turn's audio that is due now: 16-bit mono samples from ``start``, and the text it completes."""

    turn: int
    start: int
    pcm: bytes
    text: str


@dataclass(slots=True)
class _Track:
    """The audio of one turn, and how far it has got."""

    turn: int
    pcm: bytearray = field(default_factory=bytearray)
    base: int = 0
    """Position of the first sample still kept."""
    sent: int = 0
    texts: list[tuple[int, str]] = field(default_factory=list)
    """(position at which its sound is complete, text), in order."""
    told: int = 0
    """How many of the texts have left with a frame."""
    complete: bool = False
    started: bool = False

    @property
    def end(self) -> int:
        return self.base + len(self.pcm) // 2


class Playback:
    """The output of one session: one turn at a time."""

    def __init__(self, rate: int, lead: float = LEAD) -> None:
        """``rate`` in Hz is what the client is sent; ``lead`` in seconds bounds what it has buffered."""
        self.rate = rate
        self.lead = lead
        self._piece = rate * FRAME_MS * (2 if lead >= ROOMY else 1) // 1000
        """Samples that leave at a time, at least."""
        self.held = False
        self._track: _Track | None = None
        self._drained_at = 0.0

    @property
    def turn(self) -> int:
        """The turn whose audio this is; 0 when there is none."""
        return self._track.turn if self._track else 0

    @property
    def complete(self) -> bool:
        """Whether all of the turn's audio is here."""
        return self._track is not None and self._track.complete

    def begin(self, turn: int) -> None:
        """Make room for a turn's audio; what was left of another is dropped."""
        self._track = _Track(turn)
        self.held = False

    def push(self, turn: int, pcm: bytes, texts: list[tuple[int, str]]) -> None:
        """Take audio of ``turn`` as it is synthesised, and texts with the position (ms) at which each is complete.

        Audio of any other turn than the one that was begun is dropped: it is stale.
        """
        track = self._track
        if track is None or track.turn != turn:
            return
        track.pcm += pcm
        track.texts += [(position_ms * self.rate // 1000, text) for position_ms, text in texts]

    def finish(self, turn: int) -> None:
        """No more audio of ``turn`` follows."""
        if self._track is not None and self._track.turn == turn:
            self._track.complete = True

    def drop(self) -> int:
        """Forget everything not sent yet; how many samples that were."""
        dropped = self._track.end - self._track.sent if self._track else 0
        self._track = None
        self.held = False
        return dropped

    def pull(self, now: float) -> Frame | None:
        """The audio that is due at ``now``, in one frame; None when nothing is."""
        track = self._track
        if track is None or self.held or track.sent >= track.end:
            return None
        ahead = max(self._drained_at - now, 0.0)
        step = self.rate * FRAME_MS // 1000
        room = int((self.lead - ahead) * self.rate + 0.5) // step * step
        size = min(room, track.end - track.sent)
        if size < self._piece and not (track.complete and room >= self._piece):
            return None
        start = track.sent
        pcm = bytes(track.pcm[(start - track.base) * 2 : (start + size - track.base) * 2])
        track.sent += size
        track.started = True
        self._drained_at = max(self._drained_at, now) + size / self.rate
        text = ""
        while track.told < len(track.texts) and (
            track.texts[track.told][0] <= track.sent or (track.complete and track.sent == track.end)
        ):
            text += track.texts[track.told][1]
            track.told += 1
        self._forget(track, now)
        return Frame(track.turn, start, pcm, text)

    def next_due(self, now: float) -> float | None:
        """When to pull next: now or later; None when only new audio, a resume or an end can change anything."""
        track = self._track
        if track is None or self.held:
            return None
        if track.sent < track.end:
            waiting = track.end - track.sent >= self._piece or track.complete
            return max(now, self._drained_at - self.lead + self._piece / self.rate) if waiting else None
        return max(now, self._drained_at) if track.complete else None

    def played_out(self, now: float) -> bool:
        """Whether all of the turn's audio is there, was sent, and has been heard."""
        track = self._track
        if track is None or self.held or not track.complete:
            return False
        return track.sent >= track.end and self._drained_at <= now

    def heard(self, now: float) -> int:
        """How many samples of the turn have been heard."""
        if self._track is None:
            return 0
        return max(0, self._track.sent - round(max(self._drained_at - now, 0.0) * self.rate))

    def heard_text(self, now: float) -> str:
        """The text whose sound was completely heard."""
        return self.text_until(self.heard(now))

    def text_until(self, position: int) -> str:
        """The text whose sound is complete within the first ``position`` samples."""
        track = self._track
        if track is None:
            return ""
        return "".join(text for at, text in track.texts if at <= position or (track.complete and position >= track.end))

    def hold(self, now: float, *, client_drops: bool) -> int:
        """Send nothing more until ``resume``; the position heard.

        ``client_drops``: the client throws away what it has buffered, and is sent it again after a resume. Without
        that it plays its buffer (at most ``lead``) to the end.
        """
        self.held = True
        heard = self.heard(now)
        if client_drops:
            self._rewind(heard)
            self._drained_at = now
        return heard

    def correct(self, turn: int, position: int) -> None:
        """While held: the client says that it really played ``position`` samples of ``turn``."""
        track = self._track
        if track is not None and track.turn == turn and self.held:
            self._rewind(max(track.base, min(position, track.end)))

    def skip(self, position: int) -> None:
        """The turn's audio is here only from ``position`` on: nothing before it is kept any more."""
        if self._track is not None:
            self._track.base = self._track.sent = position

    @property
    def position(self) -> int:
        """The position from which audio is sent next."""
        return self._track.sent if self._track else 0

    def word_before(self, longest: int) -> int:
        """Where the word begins that is sent next, or is in the midst of being sent; at most ``longest`` before.

        Where a text of several words has one position, that of its end, a word's share of its time is its share of
        the letters.
        """
        track = self._track
        if track is None:
            return 0
        begin = max((at for at, _ in track.texts if at <= track.sent), default=0)
        end, text = next(((at, text) for at, text in track.texts if at > track.sent), (begin, ""))
        starts = (begin + (end - begin) * word.start() // len(text) for word in re.finditer(r"\S+", text))
        word = max((at for at in starts if at <= track.sent), default=begin)
        return max(word, track.base, track.sent - longest)

    def retell(self) -> str:
        """The texts that follow the position leave again with their frames; the text before it."""
        track = self._track
        if track is None:
            return ""
        track.told = sum(at <= track.sent for at, _ in track.texts)
        return "".join(text for _, text in track.texts[: track.told])

    def resume(self) -> int:
        """Go on after a hold; the position from which audio is sent."""
        self.held = False
        return self._track.sent if self._track else 0

    def _rewind(self, position: int) -> None:
        track = self._track
        if track is not None:
            track.sent = position  # texts already told stay told: a resume repeats sound, not words

    def _forget(self, track: _Track, now: float) -> None:
        # A client may have played less than the clock says, so a second more than the lead is kept for a rewind.
        keep_from = self.heard(now) - self.rate
        if keep_from - track.base > self.rate:
            del track.pcm[: (keep_from - track.base) * 2]
            track.base = keep_from
