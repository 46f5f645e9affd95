"""The gateway as an ASGI app: the page, the Realtime WebSocket, health, and cancelling by hand.

GET  /                       the page
GET  /health                 alive
GET  /ready                  200 when every stage has a live worker; who they are, as JSON
WS   /v1/realtime            the OpenAI Realtime protocol
GET  /console                what happens in every session
GET  /metrics                for Prometheus
POST /v1/realtime/client_secrets   an ephemeral key for a browser
POST /twilio/voice           TwiML for a phone call, and the same for /telnyx/voice
WS   /twilio, /telnyx        its audio
POST /cancel/{session_id}    stop what the assistant is saying
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bus import tracing
from bus.events import TurnRecord
from bus.heap import Leftovers
from bus.keys import new_session
from bus.leases import Work
from bus.logs import concern, start_logging
from bus.outbox import OUTAGE
from bus.registry import WorkerRecord, workers
from bus.settings import CONFIGURATION_ERROR, load, masked, no_arguments
from bus.streams import Bus, connector
from gateway import console, metrics, phone, reconnect, web
from gateway.assertion import Assertion
from gateway.client_secrets import client_secrets
from gateway.door import Door, Refused
from gateway.drain import run
from gateway.keys import Caller
from gateway.own_tools import wanted
from gateway.places import Places
from gateway.protocols.connection import Connection
from gateway.protocols.realtime import RealtimeConnection
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.resume import Return, Taken
from gateway.session import Session
from gateway.settings import GatewaySettings, Profile
from gateway.speech import Probability, silero
from gateway.sweeper import Sweeper
from gateway.tasks import enqueue_recording

log = logging.getLogger(__name__)

STAGES = ("stt", "llm", "tts")
TRANSCRIPTION = "transcription"
LONGEST_GREETING = 1000
"""Characters of a greeting that a client may ask for."""


class Gateway:
    """What the routes share: the bus, the live sessions, who works."""

    def __init__(self, settings: GatewaySettings, bus: Bus, detector: Callable[[], Probability]) -> None:
        """``detector`` makes the voice activity model of one session."""
        self.settings = settings
        self.detector = detector
        self.bus = bus
        self.door = Door(settings, bus)
        self.name = f"gateway-{secrets.token_hex(4)}"
        self.sessions: dict[str, Session] = {}
        self.departed = asyncio.Event()
        """Set when a session has ended."""
        self._leftovers = Leftovers()
        self.places = Places(bus)
        self.draining = False
        """Whether it is about to end: it takes no new sessions."""
        self.metrics = metrics.Metrics(lambda: len(self.sessions))
        self.work = {stage: Work(bus, stage) for stage in STAGES}
        self._staff: dict[str, list[WorkerRecord]] = {}
        self._staff_at = -1e9

    async def staff(self) -> dict[str, list[WorkerRecord]]:
        """The live workers of each stage, at most half a second old. Raises what a lost server raises."""
        now = asyncio.get_running_loop().time()
        if now - self._staff_at > 0.5 or not all(self._staff.values()):
            self._staff = {stage: await workers(self.bus, stage) for stage in STAGES}
            self._staff_at = now
        return self._staff

    async def admit(self, socket: WebSocket, stages: Sequence[str] = STAGES, *, again: bool = False) -> Caller:
        """Who calls, once a call that needs ``stages`` can be served. Raises Refused.

        ``again``: the caller comes back to a session, which has its place.
        """
        self.stay()
        try:
            caller = await self.door.caller(socket)
        except OUTAGE:
            raise Refused(503, "server_error", "unavailable", "not ready: redis does not answer") from None
        if not again:
            await self.vacancy(stages)
        return caller

    async def vacancy(self, stages: Sequence[str] = STAGES) -> None:
        """Raise Refused unless one more call that needs ``stages`` can be served now."""
        self.stay()
        missing = [each for each in await self.missing() if each in (*stages, "redis")]
        if missing:
            message = f"not ready, no live worker for: {', '.join(missing)}"
            raise Refused(503, "server_error", "unavailable", message)
        if len(self.sessions) >= self.settings.max_sessions or await self.places.taken() >= self.capacity():
            raise Refused(503, "server_error", "unavailable", "every line is busy")

    def stay(self) -> None:
        """Raise Refused if this gateway is about to end."""
        if self.draining:
            raise Refused(503, "server_error", "unavailable", "this gateway is about to end; try again")

    async def place(self, call: str, caller: Caller) -> None:
        """Take a place among those that all gateways share; a session that has one keeps it. Raises Refused."""
        await self.missing()  # who works here may never have been looked up
        await self.places.take(call, self.capacity(), caller.name, self.door.most)

    async def gone(self, connection: Connection) -> bool:
        """A connection is over: its session is forgotten here, and written down if it has ended and is recorded.

        Whether the session goes on elsewhere, or may.
        """
        session_id, session = connection.session_id, connection.session
        if session is None:
            return False
        if self.sessions.get(session_id) is session:
            del self.sessions[session_id]
            self.departed.set()
            self._leftovers.add()
        if session.resumption is not None:
            self.metrics.lost(session.resumption.lost_ms / 1000)
        if session.pen.lost or connection.resting:
            log.info("%s: %s", session_id, "taken over" if session.pen.lost else "rests until its client is back")
            return True
        log.info("%s: ended", session_id)
        if session.profile.record:
            await enqueue_recording(self.settings, session_id)
        return False

    async def swept(self, session_id: str, config: Mapping[str, str]) -> None:
        """A session whose gateway died was ended here: it is written down if it was to be."""
        self.metrics.swept()
        if config.get("record") == "1":
            await enqueue_recording(self.settings, session_id)

    async def missing(self) -> list[str]:
        """What keeps a call from being served: stages without a live worker, or redis."""
        try:
            async with asyncio.timeout(2):
                return [stage for stage, records in (await self.staff()).items() if not records]
        except OUTAGE:
            return ["redis"]

    def capacity(self) -> int:
        """How many sessions the recognisers there are can listen to, over all gateways."""
        return sum(record.capacity for record in self._staff.get("stt", ()))

    def voices(self) -> frozenset[str]:
        """The voices that some TTS worker has."""
        return frozenset(voice for record in self._staff.get("tts", ()) for voice in record.voices.split(",") if voice)

    def make_session(
        self, outlet: RealtimeOutlet, profile: Profile, rate: int, *, listens: bool = True, taken: Taken | None = None
    ) -> Session:
        """A session for a client that has connected, or come back to one that was ``taken``; one that listens is a
        call, and known as such."""
        concern(outlet.session)
        session = Session(
            self.bus, outlet.session, outlet, profile,
            input_rate=rate, probability=self.detector() if listens else (lambda window: 0.0), work=self.work,
            owner=self.name, listens=listens, on_record=lambda record: self._settled(outlet.session, record),
            taken=taken,
        )  # fmt: skip
        if listens:
            self.sessions[session.id] = session
            (self.metrics.resumed if taken else self.metrics.call)()
        return session

    def _settled(self, session: str, record: TurnRecord) -> None:
        reason = f" ({record.reason})" if record.reason else ""
        told = "%s: turn %d %s%s, %d ms heard"
        log.info(told, session, record.turn, record.outcome, reason, record.heard, extra={"turn": record.turn})
        self.metrics.record(record)
        tracing.turn(session, record)

    async def announce(self) -> None:
        """Say where the page is, once a call can be served."""
        told = ""
        while missing := ", ".join(await self.missing()):
            if missing != told:
                log.info("waiting for: %s", missing)
                told = missing
            await asyncio.sleep(0.2)
        print(f"bargein is ready: open http://{self.settings.shown}/ and talk", flush=True)


async def realtime(socket: WebSocket) -> None:
    gateway, again = web.gateway_of(socket), reconnect.wanted(socket)
    call = again or new_session(gateway.bus.shards)
    try:
        transcribes = socket.query_params.get("intent") == TRANSCRIPTION
        caller = await gateway.admit(socket, ("stt",) if transcribes else STAGES, again=bool(again))
        await gateway.place(call, caller)
    except Refused as refused:
        gateway.metrics.refused(refused.error["code"])
        await socket.send_denial_response(refused.response())
        return
    kept = bool(again)
    try:
        kept = await _serve(socket, gateway, caller, call)
    finally:
        await gateway.places.give_back(call, kept=kept)


async def _serve(socket: WebSocket, gateway: Gateway, caller: Caller, session_id: str) -> bool:
    """Serve a client that was let in; whether its session goes on elsewhere, or may."""
    settings = gateway.settings
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
    if "realtime=v1" in socket.headers.get("openai-beta", ""):
        message = "The beta shape of the Realtime API is not supported here; use the GA shape, without OpenAI-Beta."
        error = {"type": "invalid_request_error", "code": "beta_api_shape_disabled", "message": message}
        await socket.send_json({"type": "error", "event_id": "event_1", "error": error})
        await socket.close(4000, "beta_api_shape_disabled")
        return False
    query = socket.query_params
    model = query.get("model") or "bargein"
    extensions = "bargein" in query.get("extensions", "").split(",")
    again = Return(None, settings.resume_s)
    if reconnect.wanted(socket):
        found = await reconnect.meet(socket, gateway, session_id, caller)
        if found is None:
            return True
        again, config = found
    else:
        profile = settings.profile()
        profile.key = caller.name
        profile.greeting = query.get("greeting", profile.greeting)[:LONGEST_GREETING]
        profile.language = query.get("language", profile.language)
        profile.record |= settings.record_calls == "ask" and query.get("record") == "true"
        asked = query.get("own_tools")
        names = profile.own_tools if asked is None else wanted(asked)
        profile.own_tools = tuple(name for name in names if name in RealtimeOutlet.abilities)
        kind = TRANSCRIPTION if TRANSCRIPTION in (caller.session.get("type"), query.get("intent")) else "realtime"
        config = RealtimeConfig(profile, model, gateway.voices(), kind)
        if caller.session:
            config.update(caller.session)
    begins, kind = "goes on" if again.taken else "begins", "extended" if extensions else config.kind
    log.info("%s: %s (%s%s)", session_id, begins, kind, _by(caller))
    connection = RealtimeConnection(socket, session_id, config, again, extensions=extensions, limits=settings.limits())
    try:
        await connection.run(gateway.make_session)
    finally:
        kept = await gateway.gone(connection)
    return kept


def _by(caller: Caller) -> str:
    return f", key {caller.name}" if caller.name else ""


def create_app(
    settings: GatewaySettings, bus: Bus | None = None, detector: Callable[[], Probability] = silero
) -> Starlette:
    """The ASGI app; ``bus`` is made from the settings when none is given; ``detector`` as in Gateway."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        own = bus or Bus(connector(settings.address()), shards=settings.bus_shards)
        app.state.gateway = gateway = Gateway(settings, own, detector)
        own.on_return(Assertion(own, gateway.sessions, gateway.work).run)
        sweeper = Sweeper(
            own, resume=settings.resume_s, retention=settings.retention_s, ended=gateway.swept, served=gateway.sessions
        )
        tasks = [asyncio.create_task(gateway.announce()), asyncio.create_task(sweeper.run())]
        tasks.append(asyncio.create_task(gateway.places.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for session in list(gateway.sessions.values()):
                session.ended.set()
            if bus is None:
                await own.close()

    routes = [
        *web.ROUTES,
        Route("/v1/realtime/client_secrets", client_secrets, methods=["POST"]),
        *console.ROUTES,
        WebSocketRoute("/v1/realtime", realtime),
        *phone.ROUTES,
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def main() -> None:
    settings = load(GatewaySettings)
    start_logging(settings.log_level, settings.log_format)
    try:
        if settings.tracing:
            tracing.start("bargein-gateway")
    except tracing.NoTracing as missing:
        print(missing, file=sys.stderr)
        sys.exit(CONFIGURATION_ERROR)
    log.info("gateway on %s, redis at %s", settings.shown, masked(settings.redis_url))
    run(create_app(settings), settings)


if __name__ == "__main__":
    no_arguments("gateway.app", __doc__)
    main()
