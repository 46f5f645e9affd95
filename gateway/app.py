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
from bus.outbox import OUTAGE
from bus.registry import WorkerRecord, workers
from bus.settings import CONFIGURATION_ERROR, load, masked, start_logging
from bus.streams import Bus, connector
from gateway import console, metrics, phone
from gateway.client_secrets import client_secrets
from gateway.door import Door, Refused
from gateway.drain import Server, listen
from gateway.keys import Caller
from gateway.own_tools import wanted
from gateway.places import Places
from gateway.protocols.realtime import RealtimeConnection
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_outlet import RealtimeOutlet
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
        self.departed = asyncio.Event()
        """Set when a session has ended."""
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

    async def admit(self, socket: WebSocket, stages: Sequence[str] = STAGES) -> Caller:
        """Who calls, once a call that needs ``stages`` can be served. Raises Refused."""
        try:
            caller = await self.door.caller(socket)
        except OUTAGE:
            raise Refused(503, "server_error", "unavailable", "not ready: redis does not answer") from None
        await self.vacancy(stages)
        return caller

    async def vacancy(self, stages: Sequence[str] = STAGES) -> None:
        """Raise Refused unless one more call that needs ``stages`` can be served now."""
        if self.draining:
            raise Refused(503, "server_error", "unavailable", "this gateway is about to end; try again")
        missing = [each for each in await self.missing() if each in (*stages, "redis")]
        if missing:
            message = f"not ready, no live worker for: {', '.join(missing)}"
            raise Refused(503, "server_error", "unavailable", message)
        try:
            full = len(self.sessions) >= self.settings.max_sessions or await self.places.taken() >= self.capacity()
        except OUTAGE:
            raise Refused(503, "server_error", "unavailable", "not ready: redis does not answer") from None
        if full:
            raise Refused(503, "server_error", "unavailable", "every line is busy")

    async def place(self, call: str, caller: Caller) -> None:
        """Take a place among those that all gateways share. Raises Refused."""
        try:
            await self.places.take(call, self.capacity(), caller.name, self.door.most)
        except OUTAGE:
            raise Refused(503, "server_error", "unavailable", "not ready: redis does not answer") from None

    async def gone(self, session_id: str) -> None:
        """A session has ended: it is forgotten, and written down if calls are recorded."""
        session = self.sessions.pop(session_id, None)
        self.departed.set()
        log.info("%s: ended", session_id)
        if session is not None and session.profile.record:
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

    def capacity(self) -> int:
        """How many sessions the recognisers there are can listen to, over all gateways."""
        return sum(record.capacity for record in self._staff.get("stt", ()))

    def voices(self) -> frozenset[str]:
        """The voices that some TTS worker has."""
        return frozenset(voice for record in self._staff.get("tts", ()) for voice in record.voices.split(",") if voice)

    def make_session(self, outlet: RealtimeOutlet, profile: Profile, rate: int, *, listens: bool = True) -> Session:
        """A session for a client that has connected; one that listens is a call, and known as such."""
        session = Session(
            self.bus, outlet.session, outlet, profile,
            input_rate=rate, probability=self.detector() if listens else (lambda window: 0.0), work=self.work,
            owner=self.name, listens=listens, on_record=lambda record: self._settled(outlet.session, record),
        )  # fmt: skip
        if listens:
            self.sessions[session.id] = session
            self.metrics.call()
        return session

    def _settled(self, session: str, record: TurnRecord) -> None:
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
        "ready": not missing and not gateway.draining,
        "draining": gateway.draining,
        "missing": missing,
        "sessions": len(gateway.sessions),
        "stages": stages,
        "key_required": gateway.door.keys.required,
    }
    if body["ready"]:
        return JSONResponse(body)
    return JSONResponse(body, 503, headers={"Retry-After": RETRY_AFTER})


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
    gateway, call = _gateway(socket), secrets.token_hex(8)
    try:
        transcribes = socket.query_params.get("intent") == TRANSCRIPTION
        caller = await gateway.admit(socket, ("stt",) if transcribes else STAGES)
        await gateway.place(call, caller)
    except Refused as refused:
        gateway.metrics.refused(refused.error["code"])
        await socket.send_denial_response(refused.response())
        return
    try:
        await _serve(socket, gateway, caller)
    finally:
        await gateway.places.give_back(call)


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
    session_id = new_session(gateway.bus.shards)
    profile = settings.profile()
    profile.greeting = query.get("greeting", profile.greeting)[:LONGEST_GREETING]
    profile.language = query.get("language", profile.language)
    profile.record |= settings.record_calls == "ask" and query.get("record") == "true"
    asked = query.get("own_tools")
    names = profile.own_tools if asked is None else wanted(asked)
    profile.own_tools = tuple(name for name in names if name in RealtimeOutlet.abilities)
    kind = caller.session.get("type") or query.get("intent")
    config = RealtimeConfig(profile, model, gateway.voices(), TRANSCRIPTION if kind == TRANSCRIPTION else "realtime")
    if caller.session:
        config.update(caller.session)
    log.info("%s: begins (%s%s)", session_id, "extended" if extensions else config.kind, _by(caller))
    connection = RealtimeConnection(socket, session_id, config, extensions=extensions, limits=settings.limits())
    try:
        await connection.run(gateway.make_session)
    finally:
        await gateway.gone(session_id)


def _by(caller: Caller) -> str:
    return f", key {caller.name}" if caller.name else ""


def create_app(
    settings: GatewaySettings, bus: Bus | None = None, detector: Callable[[], Probability] = silero
) -> Starlette:
    """The ASGI app; ``bus`` is made from the settings when none is given; ``detector`` as in Gateway."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        own = bus or Bus(connector(settings.redis_url), shards=settings.bus_shards)
        app.state.gateway = gateway = Gateway(settings, own, detector)
        sweeper = Sweeper(own, resume=settings.resume_s, retention=settings.retention_s, ended=gateway.swept)
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
    start_logging(settings.log_level)
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
    shared = settings.gateway_shares_port
    server = Server(config, settings.drain_s, shares_port=shared)
    try:
        listener = listen(settings.gateway_host, settings.gateway_port, shared=shared)
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", settings.gateway_host, settings.gateway_port, error.strerror or error)
        sys.exit(3)
    server.run([listener])
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
