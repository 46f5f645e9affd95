"""A simulated client: plays its buffer out on virtual time and checks every sample it is sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bus.events import Said
from gateway.playback import Frame
from gateway.turns import TurnState
from tests.simulation.audio import RATE, Replies, Reply, speech
from tests.simulation.functions import Functions

if TYPE_CHECKING:
    from gateway.recovery import Recovered
    from gateway.session import Session
    from tests.simulation.world import World

TOLERANCE = RATE // 1000
"""Samples by which the paced clock may differ from what a client without a clock of its own has played: 1 ms, in
which positions are told."""


MOST_REPEATED = RATE * 14 // 10
"""Samples that may be heard once more after a break: a second, and what stood in a buffer since the last report."""
LOST = "lost"
"""The outcome of a turn that ended while the client was away."""


@dataclass(slots=True)
class Heard:
    """One turn as the client had it. Positions in samples."""

    number: int
    reply: Reply | None = None
    outcome: str = ""
    reason: str = ""
    end: int = 0
    """Position after the last sample in the buffer, or played."""
    furthest: int = 0
    """Position after the last sample ever sent."""
    drained_at: float = 0.0
    held: bool = False
    told: str = ""
    """The text that came with the audio."""
    possible: frozenset[str] = frozenset()
    """What the history may say of it."""

    def position(self, now: float) -> int:
        """How much has been played."""
        return self.end - max(0, round((self.drained_at - now) * RATE))


class Client:
    """An Outlet. ``drops``: it throws its buffer away when told to hold, and is sent that part again."""

    rate = RATE
    cancels_echo = True
    abilities: frozenset[str] = frozenset()

    def __init__(self, world: World, name: str, *, drops: bool, text_only: bool, replies: Replies) -> None:
        self.drops = drops
        self.session: Session | None = None
        self.functions = Functions(world, name)
        self.turns: dict[int, Heard] = {}
        self.asked_to_cancel: set[int] = set()
        self.utterances: dict[int, str | None] = {}
        """Utterance -> text; None while it goes on."""
        self.ended_by_gateway = False
        self.late: dict[int, set[str]] = {}
        """Turn -> stages that were said not to have answered its cancel."""
        self._world = world
        self._name = name
        self._text_only = text_only
        self._replies = replies
        self._open = 0
        self._returning = False
        """Whether the connection is new, and what goes on is told anew."""
        self._behind = False
        """Whether the gateway only has the account of before the break, which may be behind; or ahead, if it had not
        noticed that nobody listened."""
        self._rng: random.Random = world.rng(f"client/{name}")

    # -- the outlet

    @property
    def remembers(self) -> bool:
        return self.drops

    def turn_opened(self, turn: int, tag: str, text_only: bool) -> None:
        self._note(f"turn {turn} opened")
        if self._returning and turn == self._open:
            self.turns[turn].told, self._behind = "", not text_only
            return
        if self._open:
            self._fail(f"turn {turn} opened while turn {self._open} is open")
        if turn <= max(self.turns, default=0):
            self._fail(f"turn {turn} opened after turn {max(self.turns)}")
        self._open = turn
        self.turns[turn] = Heard(turn)

    def returned(self, found: Recovered) -> None:
        """The client is back on a new connection, and what was open goes on as ``found``.

        What its gateway had told last, and died before Redis had it, is decided anew.
        """
        self._returning = True
        state, turn = found.state, found.turn
        going_on = {utterance.number for utterance in state.utterances}
        self.utterances = {
            number: None if number in going_on else text
            for number, text in self.utterances.items()
            if number <= state.heard
        }
        newest = state.turn.number if state.turn else 0
        self.turns = {number: heard for number, heard in self.turns.items() if number <= newest}
        if self._open > newest:
            self._open = 0
        if not self._open and turn in self.turns:
            self._open, self.turns[turn].outcome = turn, ""
        if self._open not in (0, turn):
            self._note(f"turn {self._open} ended while nobody listened")
            self.turns[self._open].outcome = LOST
            self._open = 0

    def recalled(self, messages: Sequence[Said]) -> None:
        if len({message.item for message in messages}) != len(messages):
            self._fail("the conversation has a message twice")
        self.functions.recalled(messages)

    def continued(self, turn: int, text: str, start_ms: float) -> None:
        self._note(f"turn {turn} goes on from {start_ms} ms")
        heard, start = self.turns[turn], round(start_ms * RATE / 1000)
        position = heard.position(self._world.loop.now)
        if start > position + 1 or start < position - MOST_REPEATED:
            self._fail(f"turn {turn} goes on at sample {start}, of which {position} were played")
        if heard.reply is not None and text != heard.reply.text_until(start):
            self._fail(f"turn {turn} goes on after {text[-40:]!r} with sound from {start}")
        self._behind = False
        heard.end = heard.furthest = start
        heard.told, heard.drained_at = text, self._world.loop.now

    def lost(self, said: Said, at_ms: int, lost_ms: int) -> None:
        self._fail(f"{lost_ms} ms of what was said were lost")

    def audio(self, frame: Frame) -> None:
        now, heard = self._world.loop.now, self.turns.get(frame.turn)
        self._world.counts["frames"] += 1
        if heard is None or self._open != frame.turn:
            self._fail(f"a frame of turn {frame.turn} left the gateway, turn {self._open or 'none'} being open")
            return
        assert self.session is not None
        live = self.session.state.live
        if live is None or live.number != frame.turn or live.state is TurnState.HELD or heard.held:
            self._fail(f"a frame of turn {frame.turn} left the gateway while it was {live.state if live else 'over'}")
        count = len(frame.pcm) // 2
        if heard.reply is None:
            heard.reply = self._recognise(frame)
            if heard.reply is None:
                return
        if abs(frame.start - heard.end) > (1 if heard.end < heard.furthest else 0):
            self._fail(f"turn {frame.turn} went on at sample {frame.start} after sample {heard.end}")
        if frame.pcm != speech(heard.reply.number, frame.start, count):
            self._fail(f"turn {frame.turn}: samples {frame.start} to {frame.start + count} are not those of its reply")
        heard.drained_at = max(heard.drained_at, now) + count / RATE
        heard.end = frame.start + count
        heard.furthest = max(heard.furthest, heard.end)
        heard.told += frame.text
        if heard.told != heard.reply.text_until(heard.furthest):
            self._fail(f"turn {frame.turn}: told {heard.told[-40:]!r} with sound up to {heard.furthest}")
        self._world.trace(b"%d %d %d" % (frame.turn, frame.start, count))

    def text(self, turn: int, text: str) -> None:
        heard = self.turns.get(turn)
        if heard is None or self._open != turn:
            self._fail(f"text of turn {turn} left the gateway, turn {self._open or 'none'} being open")
            return
        heard.told += text
        heard.reply, _ = self._replies.find(heard.told.split()[0])
        if not heard.reply.text.startswith(heard.told):
            self._fail(f"turn {turn}: the text is not that of its reply: {heard.told[-60:]!r}")

    def calling(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None:
        if self._open != turn:
            self._fail(f"turn {turn} is calling, turn {self._open or 'none'} being open")
        self.functions.calling(call_id, arguments)

    def called(self, turn: int, item: str, call_id: str, name: str, arguments: str) -> None:
        self._note(f"turn {turn} calls {call_id}")
        if self._open != turn:
            self._fail(f"turn {turn} calls, turn {self._open or 'none'} being open")
        self.functions.called(call_id, arguments)

    def press(self, keys: str) -> None:
        self._fail("keys were pressed")

    def counted(self, turn: int, prompt_tokens: int, tokens: int, finish: str) -> None:
        if self._open != turn:
            self._fail(f"turn {turn} counted, turn {self._open or 'none'} being open")

    def not_transcribed(self, utterance: int, error: str) -> None:
        self._note(f"utterance {utterance} not transcribed: {error}")

    def held(self, turn: int, onset_ms: int) -> None:
        self._note(f"turn {turn} held")
        heard, now = self.turns[turn], self._world.loop.now
        if not self.drops or self._open != turn:
            self._fail(f"turn {turn} held at a client that does not drop, or after its end")
        heard.end = heard.position(now)
        heard.drained_at, heard.held = now, True
        if self._returning and self._rng.random() < 0.9:  # some are too slow
            position, session = heard.end * 1000 / RATE, self.session
            assert session is not None
            self._later(0.02, lambda: session.played(turn, position))

    def resumed(self, turn: int, start_ms: float) -> None:
        self._note(f"turn {turn} resumed from {start_ms} ms")
        heard = self.turns[turn]
        if not heard.held or abs(round(start_ms * RATE / 1000) - heard.end) > 1:
            self._fail(f"turn {turn} resumed from {start_ms} ms, having been heard up to sample {heard.end}")
        heard.held = False

    def turn_closed(self, turn: int, outcome: str, reason: str, heard_text: str, heard_ms: int) -> None:
        self._note(f"turn {turn} {outcome} ({reason}), {heard_ms} ms heard")
        heard = self.turns.get(turn)
        if heard is None:
            # It was begun on the guess that the caller was done, and nothing of it was ever told.
            if heard_text or heard_ms or outcome == "completed":
                self._fail(f"turn {turn} was {outcome} and heard, never having been opened")
            self._world.counts["guesses withdrawn"] += 1
            return
        if self._open != turn:
            self._fail(f"turn {turn} closed, turn {self._open or 'none'} being open")
        self._open = 0
        heard.outcome, heard.reason = outcome, reason
        if outcome == "completed":
            self._check_complete(heard)
        if self._text_only:
            heard.possible = frozenset((heard.told,))
            return
        position = heard.position(self._world.loop.now)
        if self._behind:
            position, self._behind = heard_ms * RATE // 1000, False
        if abs(heard_ms * RATE // 1000 - position) > TOLERANCE + 1:
            self._fail(f"turn {turn}: {heard_ms} ms counted as heard, sample {position} was")
        heard.possible = _texts(heard.reply, position)
        if heard_text not in heard.possible:
            self._fail(f"turn {turn}: {heard_text!r} counted as heard, {sorted(heard.possible)} was")
        if outcome == "cancelled" and not self.drops and reason != "session_ended" and self._rng.random() < 0.5:
            # What left the gateway stood in a device's own buffer, and the client says how much of it.
            really = max(0, position * 1000 // RATE - self._rng.randint(0, 150))
            self._later(self._rng.uniform(0.0, 0.4), lambda: self._truncate(heard, really))

    def speech_started(self, utterance: int, start_ms: int, onset_ms: int) -> None:
        self._note(f"utterance {utterance} started")
        if utterance in self.utterances and not (self._returning and self.utterances[utterance] is None):
            self._fail(f"utterance {utterance} started twice")
        self.utterances[utterance] = None

    def speech_stopped(self, utterance: int, end_ms: int) -> None:
        if utterance not in self.utterances:
            self._fail(f"utterance {utterance} stopped without having started")

    def partial(self, utterance: int, text: str) -> None:
        self._world.counts["partials"] += 1

    def committed(self, utterance: int, text: str, start_ms: int, end_ms: int) -> None:
        self._note(f"utterance {utterance} committed: {text!r}")
        if self.utterances.get(utterance, "") is not None:
            self._fail(f"utterance {utterance} committed twice, or without having started")
        self.utterances[utterance] = text

    def refused(self, code: str, message: str, tag: str) -> None:
        if code != "conversation_already_has_active_response":
            self._fail(f"refused: {code}: {message}")

    def step(self, turn: int, step: str, at_ms: float, detail: str = "") -> None:
        self._world.steps[step] += 1
        if step.startswith("late:"):
            self._note(f"turn {turn}: {step}")
            self.late.setdefault(turn, set()).add(step.removeprefix("late:"))

    def ended(self, reason: str) -> None:
        self.ended_by_gateway = True

    # -- what it knows

    def _recognise(self, frame: Frame) -> Reply | None:
        """Which answer the first frame of a turn belongs to."""
        for reply in self._replies.newest(400):
            if frame.pcm == speech(reply.number, 0, len(frame.pcm) // 2):
                if frame.start or reply.turn is not None:
                    self._fail(f"turn {frame.turn} begins at {frame.start} with the words of {reply.turn}")
                reply.turn = (self._name, frame.turn)
                return reply
        self._fail(f"turn {frame.turn}: its first {len(frame.pcm) // 2} samples begin no reply")
        return None

    def _check_complete(self, heard: Heard) -> None:
        if heard.reply is None:
            if heard.told or heard.furthest:
                self._fail(f"turn {heard.number} completed with sound of no reply")
        elif heard.told != heard.reply.text:
            self._fail(f"turn {heard.number} completed with {heard.told!r} of {heard.reply.text!r}")
        elif not self._text_only and heard.position(self._world.loop.now) != heard.reply.starts[-1]:
            self._fail(f"turn {heard.number} completed before its last sample was played")

    def _truncate(self, heard: Heard, position_ms: int) -> None:
        assert self.session is not None
        if self.session.ended.is_set() or self._world.closed(self._name):
            return
        holds = getattr(self.session, "holds", None)  # a line's connection, and with it this word, may be lost
        if holds is False:
            return
        self._note(f"truncates turn {heard.number} to {position_ms} ms")
        self.session.truncate(heard.number, position_ms)
        text = heard.reply.text_until(position_ms * RATE // 1000) if heard.reply else ""
        # A message that was never made is not made by shortening it.
        unchanged = heard.possible if holds else heard.possible & {""}
        heard.possible = unchanged | {text}

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, action)

    def _note(self, what: str) -> None:
        self._world.note(self._name, what)

    def _fail(self, what: str) -> None:
        self._world.fail(f"{self._name}: {what}")


def _texts(reply: Reply | None, position: int) -> frozenset[str]:
    """The texts that may count as heard at ``position``."""
    if reply is None:
        return frozenset(("",))
    return frozenset(reply.text_until(position + slack) for slack in (-TOLERANCE, 0, TOLERANCE))
