"""The gateway as an ASGI app: the page, the Realtime WebSocket, health, and cancelling by hand.

GET  /                       the page
GET  /health                 alive
GET  /ready                  200 when every stage has a live worker; who they are, as JSON
WS   /v1/realtime            the OpenAI Realtime protocol
GET  /console                what happens in every session
GET  /metrics                for Prometheus
POST /v1/realtime/client_secrets   an ephemeral key for a browser
POST /twilio/voice           TwiML for a phone call
WS   /twilio                 its audio
POST /cancel/{session_id}    stop what the assistant is saying
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from bus import tracing
from bus.events import CancelRequested, TurnRecord
from bus.keys import is_session, new_session, session_key, shard_of
from bus.leases import Work
from bus.logs import concern, start_logging
from bus.outbox import OUTAGE
from bus.registry import WorkerRecord, workers
from bus.settings import CONFIGURATION_ERROR, load, masked
from bus.streams import Bus, connector
from gateway import console, metrics, phone, reconnect
from gateway.assertion import Assertion
from gateway.client_secrets import client_secrets
from gateway.door import Door, Refused
from gateway.keys import Caller
from gateway.own_tools import wanted
from gateway.protocols.connection import Connection
from gateway.protocols.realtime import RealtimeConnection
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.resume import Return, Taken
from gateway.scrape import scrape
from gateway.session import Session
from gateway.settings import GatewaySettings, Profile
from gateway.speech import Probability, silero
from gateway.sweeper import Sweeper
from gateway.tasks import enqueue_recording

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
STAGES = ("stt", "llm", "tts")
TRANSCRIPTION = "transcription"
RETRY_AFTER = "2"
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

        ``again``: the caller comes back to a session that is live here, which has its place.
        """
        try:
            caller = await self.door.caller(socket)
        except OUTAGE:
            raise Refused(503, "server_error", "unavailable", "not ready: redis does not answer") from None
        if not again:
            await self.vacancy(stages)
        return caller

    async def vacancy(self, stages: Sequence[str] = STAGES) -> None:
        """Raise Refused unless one more call that needs ``stages`` can be served now."""
        missing = [each for each in await self.missing() if each in (*stages, "redis")]
        if missing:
            message = f"not ready, no live worker for: {', '.join(missing)}"
            raise Refused(503, "server_error", "unavailable", message)
        if self.full():
            raise Refused(503, "server_error", "unavailable", "every line is busy")

    async def gone(self, connection: Connection) -> None:
        """A connection is over: its session is forgotten here, and written down if it has ended and is recorded."""
        session_id, session = connection.session_id, connection.session
        if session is None:
            return
        if self.sessions.get(session_id) is session:
            del self.sessions[session_id]
        if session.resumption is not None:
            self.metrics.lost(session.resumption.lost_ms / 1000)
        if session.pen.lost or connection.resting:
            log.info("%s: %s", session_id, "taken over" if session.pen.lost else "rests until its client is back")
            return
        log.info("%s: ended", session_id)
        if session.profile.record:
            await enqueue_recording(self.settings, session_id)

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

    def full(self) -> bool:
        """Whether no more sessions fit: MAX_SESSIONS, or as many as the recognisers there are can listen to."""
        places = sum(record.capacity for record in self._staff.get("stt", ()))
        return len(self.sessions) >= min(self.settings.max_sessions, places)

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
        print(f"bargein is ready: open http://{_shown(self.settings)}/ and talk", flush=True)


class Fresh(StaticFiles):
    """The page's files, asked for again each time: an upgrade never mixes old modules with new ones."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _shown(settings: GatewaySettings) -> str:
    host = settings.gateway_host
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{host}:{settings.gateway_port}"


def _gateway(connection: Request | WebSocket) -> Gateway:
    gateway: Gateway = connection.app.state.gateway
    return gateway


async def page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> Response:
    gateway = _gateway(request)
    missing = await gateway.missing()
    stages: dict[str, Any] = {}
    if "redis" not in missing:
        for stage, records in (await gateway.staff()).items():
            stages[stage] = [{k: v for k, v in asdict(r).items() if k != "stage"} for r in records]
    body = {
        "ready": not missing,
        "missing": missing,
        "sessions": len(gateway.sessions),
        "stages": stages,
        "key_required": gateway.door.keys.required,
    }
    return JSONResponse(body, status_code=503 if missing else 200)


async def measured(request: Request) -> Response:
    gateway = _gateway(request)
    return Response(gateway.metrics.text() + await scrape(gateway.bus), media_type=metrics.CONTENT_TYPE)


async def cancel(request: Request) -> Response:
    gateway, session_id = _gateway(request), request.path_params["session_id"]
    try:
        await gateway.door.caller(request)
    except Refused as refused:
        return refused.response()
    except OUTAGE:
        return JSONResponse({"error": "redis does not answer"}, 503, headers={"Retry-After": RETRY_AFTER})
    if not is_session(session_id):
        error = f"{session_id[:60]!r} is not a session id; expected s<shard>-<hex>"
        return JSONResponse({"error": error}, status_code=400)
    session = gateway.sessions.get(session_id)
    if session is not None:
        turn = session.cancel("client_cancelled")
        return JSONResponse({"session": session_id, "cancelled": turn or None})
    if shard_of(session_id) < gateway.bus.shards:
        try:
            if await gateway.bus.commands.exists(session_key(session_id, "lease:gateway")):
                await gateway.bus.publish(session_key(session_id, "control"), CancelRequested(0, "client_cancelled"))
                return JSONResponse({"session": session_id, "forwarded": True}, status_code=202)
        except OUTAGE:
            return JSONResponse({"error": "redis does not answer"}, 503, headers={"Retry-After": RETRY_AFTER})
    return JSONResponse({"error": f"no live session {session_id}"}, status_code=404)


async def realtime(socket: WebSocket) -> None:
    gateway = _gateway(socket)
    try:
        transcribes = socket.query_params.get("intent") == TRANSCRIPTION
        again = reconnect.wanted(socket) in gateway.sessions
        caller = await gateway.admit(socket, ("stt",) if transcribes else STAGES, again=again)
        gateway.door.enter(caller)
    except Refused as refused:
        gateway.metrics.refused(refused.error["code"])
        await socket.send_denial_response(refused.response())
        return
    try:
        await _serve(socket, gateway, caller)
    finally:
        gateway.door.leave(caller)


async def _serve(socket: WebSocket, gateway: Gateway, caller: Caller) -> None:
    settings = gateway.settings
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
    if "realtime=v1" in socket.headers.get("openai-beta", ""):
        message = "The beta shape of the Realtime API is not supported here; use the GA shape, without OpenAI-Beta."
        error = {"type": "invalid_request_error", "code": "beta_api_shape_disabled", "message": message}
        await socket.send_json({"type": "error", "event_id": "event_1", "error": error})
        await socket.close(4000, "beta_api_shape_disabled")
        return
    query = socket.query_params
    model = query.get("model") or "bargein"
    extensions = "bargein" in query.get("extensions", "").split(",")
    taken = None
    if session_id := reconnect.wanted(socket):
        found = await reconnect.meet(socket, gateway, session_id, caller)
        if found is None:
            return
        taken, config = found
    else:
        session_id = new_session(gateway.bus.shards)
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
    begins, kind = "goes on" if taken else "begins", "extended" if extensions else config.kind
    log.info("%s: %s (%s%s)", session_id, begins, kind, _by(caller))
    again = Return(taken, settings.resume_s)
    connection = RealtimeConnection(socket, session_id, config, again, extensions=extensions, limits=settings.limits())
    try:
        await connection.run(gateway.make_session)
    finally:
        await gateway.gone(connection)


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
        sweeper = Sweeper(own, resume=settings.resume_s, retention=settings.retention_s, ended=gateway.swept)
        tasks = [asyncio.create_task(gateway.announce()), asyncio.create_task(sweeper.run())]
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
        Route("/", page),
        Route("/health", health),
        Route("/ready", ready),
        Route("/metrics", measured),
        Route("/v1/realtime/client_secrets", client_secrets, methods=["POST"]),
        *console.ROUTES,
        Route("/cancel/{session_id}", cancel, methods=["POST"]),
        WebSocketRoute("/v1/realtime", realtime),
        Route("/twilio/voice", phone.voice, methods=["POST"]),
        Route("/twilio/after", phone.after, methods=["POST"]),
        WebSocketRoute("/twilio", phone.media),
        Mount("/page", Fresh(directory=PAGE)),
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
    log.info("gateway on %s, redis at %s", _shown(settings), masked(settings.redis_url))
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(max(logging.WARNING, logging.getLogger().level))
    # uvicorn takes a refused handshake, which was answered, for an unanswered one.
    uvicorn_log.addFilter(lambda record: "without completing handshake" not in record.getMessage())
    config = uvicorn.Config(
        create_app(settings),
        host=settings.gateway_host,
        port=settings.gateway_port,
        # Compressing audio saves 41 % of its bytes for 0.42 ms of CPU per 100 ms.
        ws_per_message_deflate=False,
        # Larger frames than a client may send, so that it is told what was wrong instead of being cut.
        ws_max_size=2 * settings.max_message_bytes,
        timeout_graceful_shutdown=3,
        access_log=False,
        log_config=None,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
