"""What the gateway answers over plain HTTP: the page, whether it is alive and ready, metrics, a cancel by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from bus.events import CancelRequested
from bus.keys import is_session, session_key, shard_of
from bus.outbox import OUTAGE
from gateway.door import Refused
from gateway.metrics import CONTENT_TYPE
from gateway.scrape import scrape

if TYPE_CHECKING:
    from gateway.app import Gateway

PAGE = Path(__file__).parent / "page"
RETRY_AFTER = "2"


def gateway_of(connection: HTTPConnection) -> Gateway:
    """The gateway that a request or a WebSocket came to."""
    gateway: Gateway = connection.app.state.gateway
    return gateway


class Fresh(StaticFiles):
    """The page's files, asked for again each time: an upgrade never mixes old modules with new ones."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def page(request: Request) -> Response:
    return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


async def health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def ready(request: Request) -> Response:
    gateway = gateway_of(request)
    missing = await gateway.missing()
    stages: dict[str, Any] = {}
    if "redis" not in missing:
        for stage, records in (await gateway.staff()).items():
            stages[stage] = [{k: v for k, v in asdict(r).items() if k != "stage"} for r in records]
    body = {
        "gateway": gateway.name,
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
    gateway = gateway_of(request)
    return Response(gateway.metrics.text() + await scrape(gateway.bus), media_type=CONTENT_TYPE)


async def cancel(request: Request) -> Response:
    gateway, session_id = gateway_of(request), request.path_params["session_id"]
    try:
        caller = await gateway.door.caller(request)
    except Refused as refused:
        return refused.response()
    except OUTAGE:
        return JSONResponse({"error": "redis does not answer"}, 503, headers={"Retry-After": RETRY_AFTER})
    if not is_session(session_id):
        error = f"{session_id[:60]!r} is not a session id; expected s<shard>-<hex>"
        return JSONResponse({"error": error}, status_code=400)
    session = gateway.sessions.get(session_id)
    if session is not None and gateway.door.may(caller, session.profile.key):
        turn = session.cancel("client_cancelled")
        return JSONResponse({"session": session_id, "cancelled": turn or None})
    if session is None and shard_of(session_id) < gateway.bus.shards:
        try:
            key = (await gateway.bus.config(session_id)).get("key")
            held = await gateway.bus.commands.exists(session_key(session_id, "lease:gateway"))
            if held and gateway.door.may(caller, key):
                await gateway.bus.publish(session_key(session_id, "control"), CancelRequested(0, "client_cancelled"))
                return JSONResponse({"session": session_id, "forwarded": True}, status_code=202)
        except OUTAGE:
            return JSONResponse({"error": "redis does not answer"}, 503, headers={"Retry-After": RETRY_AFTER})
    # The same of a session that is somebody else's: whose it is is not told to who may not have it.
    return JSONResponse({"error": f"no live session {session_id}"}, status_code=404)


ROUTES: list[BaseRoute] = [
    Route("/", page),
    Route("/health", health),
    Route("/ready", ready),
    Route("/metrics", measured),
    Route("/cancel/{session_id}", cancel, methods=["POST"]),
    Mount("/page", Fresh(directory=PAGE)),
]
