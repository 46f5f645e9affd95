"""One live session: joins client, conductor and bus; the only place where the three meet.

What comes in (audio, requests, streams, timers) becomes an input of the turn logic, whose actions are carried out in
``gateway.stagehand``. Inputs are handled one after the other; one that arises from an action waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bus.events import Played, Said, TurnRecord
from bus.keys import session_key, shard_of
from bus.leases import Work
from bus.outbox import OUTAGE
from bus.streams import Bus
from gateway import inputs
from gateway.backlog import Backlog
from gateway.echo import canceller
from gateway.floor import Conversation
from gateway.inlet import STREAMS, Inlet
from gateway.journal import Journal, closing
from gateway.microphone import Microphone
from gateway.moves import SESSION_ENDED
from gateway.outlet import Outlet
from gateway.output import Output
from gateway.own_tools import OwnTools
from gateway.pen import Pen
from gateway.request import Request
from gateway.resume import Resumption, Taken
from gateway.settings import Profile
from gateway.speech import Probability
from gateway.stagehand import Stagehand
from gateway.turns import TurnState
from gateway.upkeep import Upkeep, keep_late

log = logging.getLogger(__name__)


PIECE_MS = 60
"""The caller's audio is heard in pieces of at most this length: less than a pause, so that what follows one in the same
message of a client is not taken for what came before it."""


class Session:
    """One call. Belongs to one event loop, whose time is its clock."""

    def __init__(
        self,
        bus: Bus,
        session: str,
        outlet: Outlet,
        profile: Profile,
        *,
        input_rate: int,
        probability: Probability,
        work: dict[str, Work],
        owner: str,
        listens: bool = True,
        on_record: Callable[[TurnRecord], None] = lambda record: None,
        taken: Taken | None = None,
    ) -> None:
        """``input_rate`` in Hz is what the client sends; ``owner`` names the gateway; ``work`` makes the offers.

        One that does not listen has no recogniser: it only answers. ``on_record`` is called with the record of each
        turn once it is settled. ``taken``: a session that was there before, and is gone on with.
        """
        self._listens = listens
        self.id = session
        self.profile = profile
        self.state = Conversation(rules=profile.rules)
        self.ended = asyncio.Event()
        """Set when somebody outside asks for the session's end, or has taken it."""
        self.moved = asyncio.Event()
        """Set when the gateway is about to end: the client is to come back to another, if it can."""
        self.bus = bus
        self.pen = taken.pen if taken else Pen(bus, session, f"{owner}-{secrets.token_hex(4)}")
        self.pen.on_lost = self._lost
        self._journal = Journal(lambda entry: self.pen.post(session_key(session, "inputs"), entry))
        self._outlet = outlet
        self._work = work
        self._on_record = on_record
        self._upkeep = Upkeep(self)
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._canceller = canceller(profile.echo_cancellation, outlet, input_rate, self._loop.time)
        self.microphone = Microphone(
            self.pen, session, input_rate, probability, keep_all=profile.record, streaming=profile.streaming_stt,
            canceller=self._canceller, end_of_turn=profile.end_of_turn,
            backlog=Backlog(bus, session, profile.mic_buffer, outlet),
        )  # fmt: skip
        self.output = Output(
            outlet,
            self._loop.time,
            lead=profile.lead,
            report=self._report,
            on_played_out=self._played_out,
            on_starved=lambda turn: self.inlet.fail(turn, "tts", "the voice fell silent"),
            away=lambda seconds: bus.shaken(shard_of(session), seconds),
            played=self._canceller.played if self._canceller else None,
        )
        self.own_tools = OwnTools(self, outlet)
        self.stagehand = Stagehand(self, outlet, work)
        self.inlet = Inlet(self, outlet)
        self.resumption = Resumption(self, outlet, taken) if taken else None
        self._inbox: deque[inputs.Input] = deque()
        self._handling = False
        self._tasks: list[asyncio.Task[None]] = []
        if taken:
            self.state, self._born = taken.found.state, self._born - taken.found.at

    @property
    def now(self) -> float:
        """Seconds since the session began, to the microsecond."""
        return round(self._loop.time() - self._born, 6)

    # -- life

    async def start(self) -> None:
        """Take the session, offer it to the recognisers, and say the greeting; or go on with one that was taken."""
        if self.resumption is None:
            await self.pen.seize(existing=False)
        else:
            self._journal.resumed(self.now)
            self.state = replace(self.state, rules=self.profile.rules)
        self._journal.rules(self.now, self.state.rules)
        self.microphone.by_hand = self.profile.by_hand
        self.microphone.endpoint(self.profile.endpointing, self.profile.pre_roll_ms)
        if self._canceller is not None:
            await asyncio.to_thread(self._canceller.load)
        await self.bus.configure(self.id, self.profile.shared())
        if self._listens:
            self.stagehand.effects.later(lambda: self._upkeep.offer(self._work["stt"]))
        if self.resumption is not None:
            self.resumption.begin()
        jobs = [self._upkeep.run(), self.output.run(), self.stagehand.effects.run()]
        jobs += [self.inlet.follow(name) for name in STREAMS]
        self._tasks = [asyncio.create_task(job, name=f"{self.id}-{n}") for n, job in enumerate(jobs)]
        if self.resumption is None and self.profile.greeting:
            self.feed(inputs.ResponseAsked(self.now, self.profile.greeting))

    async def rest(self) -> None:
        """The client is gone and may come back: let go of the session, which goes on from its streams."""
        self.output.hold()
        try:
            async with asyncio.timeout(2):
                await self.stagehand.effects.idle()
                await self.bus.outbox.drain()
                await self.pen.let_go(ended=False)
        except (*OUTAGE, TimeoutError):
            log.warning("%s: redis did not answer; the session is let go of when its lease expires", self.id)
        await self._stop()

    async def close(self) -> None:
        """End the session: cancel what is live, tell the recogniser, let go of the keys."""
        if self.pen.lost:
            await self._stop()
            return
        self._journal.closing(self.now)
        self.state = closing(self.state)
        self.feed(inputs.CancelAsked(self.now, 0, SESSION_ENDED))
        self.microphone.hang_up()
        upkeep = self._tasks[:1]  # it would take again what is let go of
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)
        try:
            async with asyncio.timeout(2):
                await self.stagehand.effects.idle()
                self.stagehand.recorder.flush()
                await self.bus.outbox.drain()
                if await self.pen.let_go(ended=True):
                    await self.bus.keep(self.id, self.profile.retention)
                    keep_late(self.bus, self.id, self.profile.retention)
        except (*OUTAGE, TimeoutError):
            log.warning("%s: redis did not answer at the session's end; its keys expire by themselves", self.id)
        await self._stop()

    async def _stop(self) -> None:
        if self.resumption is not None:
            self.resumption.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.stagehand.close()

    # -- from the client

    def audio(self, pcm: bytes) -> None:
        """The caller's audio as it comes: mono 16-bit at ``input_rate``."""
        if self.resumption is not None:
            pcm = self.resumption.heard(pcm)
        size = self.microphone.rate * PIECE_MS // 1000 * 2
        for start in range(0, len(pcm), size):
            muted = not self.state.rules.hears(self.state.live is not None and self.state.live.audible)
            for found in self.microphone.hear(pcm[start : start + size], self.now, muted=muted):
                self.feed(found)

    def commit(self) -> bool:
        """The client says that the utterance ends here; false when there is none."""
        ends = self.microphone.commit(self.now)
        for found in ends:
            self.feed(found)
        return bool(ends)

    def clear(self) -> None:
        """The client takes back the audio since the last utterance."""
        self.feed(self.microphone.clear(self.now))

    def respond(
        self, tag: str = "", request: Request | None = None, *, interruptible: bool = True, waits: bool = False
    ) -> None:
        """The client asks for a turn; ``tag`` comes back with it. ``waits``: after the turn that goes on.

        One that is to tell what came of a function call waits for a turn that is going on; others are refused then.
        """
        self.stagehand.requested(tag, request or Request())
        self.feed(inputs.ResponseAsked(self.now, "", tag, interruptible, waits or self.stagehand.calls.unseen))

    def cancel(self, reason: str, turn: int = 0) -> int:
        """Cancel the live turn or the one that waits, or ``turn`` if that is live; which was cancelled, 0 if none."""
        live, waits = self.state.live, self.state.asked is not None
        number = live.number if live is not None else self.state.next_turn if waits else 0
        if turn not in (0, number) or (live is not None and live.state is TurnState.SPECULATIVE):
            return 0
        self.feed(inputs.CancelAsked(self.now, turn, reason))
        return number

    def played(self, turn: int, position_ms: float) -> None:
        """A client that was told to hold says how much it had really played."""
        self.output.correct(turn, round(position_ms * self.output.playback.rate / 1000))
        self.stagehand.step("silent", f"{position_ms:.0f} ms played", turn)
        if self.resumption is not None:
            self.resumption.played(turn)

    def continues(self, start_ms: float) -> None:
        """A client that has come back says where in the session's audio begins what it sends next."""
        if self.resumption is not None:
            self.resumption.continues(start_ms)

    def truncate(self, turn: int, position_ms: int) -> str | None:
        """A client says how much of a turn it really played: the history keeps that much; the text of it if known."""
        return self.stagehand.truncate(turn, position_ms)

    def say(self, message: Said, after: str = "") -> None:
        """The client adds a message to the conversation, as ``Said.after`` has it.

        A second output of the same function call changes nothing.
        """
        message = replace(message, after=after)
        if message.role in ("tool", "tool_call"):
            self.stagehand.calls.add(message)
        else:
            self.stagehand.history.say(message)

    def forget(self, item: str) -> None:
        """The client removes a message from the conversation."""
        self.stagehand.history.amend(item, "")

    def configure(self, profile: Profile) -> None:
        """The client changes settings; they hold from now on, also for a turn that is going on."""
        if self.profile.by_hand and not profile.by_hand:
            self.clear()  # nobody would ever say where that utterance ends
        self.profile = profile
        self.state = replace(self.state, rules=profile.rules)
        self._journal.rules(self.now, profile.rules)
        self.microphone.by_hand = profile.by_hand
        self.microphone.endpoint(profile.endpointing, profile.pre_roll_ms)

        async def write() -> None:
            await self.bus.configure(self.id, profile.shared())

        self.stagehand.effects.later(write)

    def reformat(self, rate: int) -> None:
        """From now on the client's audio comes at ``rate`` Hz, and it is sent audio at its outlet's rate."""
        self._canceller = canceller(self.profile.echo_cancellation, self._outlet, rate, self._loop.time)
        self.output.played_by(self._canceller.played if self._canceller else None)
        for found in self.microphone.reformat(rate, self._canceller, self.now):
            self.feed(found)
        if self._canceller is not None:
            self._loop.run_in_executor(None, self._canceller.load)

    # -- from the turn logic's point of view

    def feed(self, event: inputs.Input) -> None:
        """Let the turn logic see an input, and carry out what it answers."""
        self._inbox.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                self.state, actions = self._journal.decide(self.state, event)
                for action in actions:
                    self.stagehand.do(action)
        finally:
            self._handling = False

    def at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back at ``when`` seconds after the session began."""
        return self._loop.call_at(self._born + when, callback)

    # -- from the stagehand and the output

    def settled(self, record: TurnRecord) -> None:
        """A turn is settled: its record is kept with the session, and counted."""
        self.pen.post(session_key(self.id, "records"), record)
        self._on_record(record)

    def _report(self, turn: int, start: int, end: int) -> None:
        mic = self.microphone.arrived - (end - start) * 16
        self.pen.post(session_key(self.id, "playback"), Played(turn, start, end, max(0, mic)))

    def _played_out(self, turn: int) -> None:
        failed, error = self.inlet.failure
        if turn == failed:
            self.inlet.fail(turn, "reply", error)
        else:
            self.feed(inputs.PlayedOut(self.now, turn))

    def _lost(self) -> None:
        log.warning("%s: another gateway, or another connection, has this session now", self.id)
        self.output.drop()
        self.ended.set()
