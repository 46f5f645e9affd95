"""The console: what goes on in every session, and what happened in one, for whoever runs this.

GET /console                              the page
GET /console/sessions                     every session, live or kept, as JSON
GET /console/sessions/{id}                one session's story (gateway/story.py) with the levels of both voices
GET /console/sessions/{id}/recording      its recording, once there is one

Where API keys are set, the data wants one of them; an ephemeral key, made for a single caller, will not do. A key shows
the sessions that were begun with it, an operator's (``OPERATORS``) all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from bus import sessions
from bus.archive import events, rows
from bus.keys import is_session, shard_of
from bus.outbox import OUTAGE
from gateway import levels
from gateway.door import Refused, given_key
from gateway.keys import EPHEMERAL, Caller
from gateway.story import Streams, story

if TYPE_CHECKING:
    from gateway.app import Gateway

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page" / "console" / "index.html"
KINDS = {".wav": "audio/wav", ".flac": "audio/flac"}
STREAMS = ("transcript", "reply", "history", "playback", "records", "inputs")

Handler = Callable[["Gateway", Request, Caller], Awaitable[Response]]


def guarded(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """The handler for those who may look, with an answer for what goes wrong."""

    async def answer(request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        try:
            if given_key(request).startswith(EPHEMERAL):
                raise Refused(401, "invalid_request_error", "invalid_api_key", "An ephemeral key opens no console.")
            caller = await gateway.door.caller(request)
            response = await handler(gateway, request, caller)
        except Refused as refused:
            return refused.response()
        except OUTAGE:
            return JSONResponse({"error": "redis does not answer"}, 503, headers={"Retry-After": "2"})
        response.headers["Cache-Control"] = "no-store"
        return response

    return answer


async def page(request: Request) -> Response:
    return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


async def listed(gateway: Gateway, request: Request, who: Caller) -> Response:
    found = [{**asdict(each), "recorded": recording(gateway, each.session) is not None}
             for each in await sessions.summaries(gateway.bus) if gateway.door.may(who, each.key)]  # fmt: skip
    return JSONResponse({"sessions": found})


async def told(gateway: Gateway, request: Request, who: Caller) -> Response:
    session = await _asked(gateway, request, who)
    if session is None or not await sessions.exists(gateway.bus, session):
        return _absent(request)
    kept = {name: await _events(gateway, session, name) for name in STREAMS}
    path = recording(gateway, session)
    if path is not None:
        caller, heard = await asyncio.to_thread(levels.of_recording, path)
    else:
        mic, speech = await _events(gateway, session, "mic"), await _events(gateway, session, "speech")
        caller = await asyncio.to_thread(levels.of_caller, mic)
        heard = await asyncio.to_thread(levels.of_heard, speech, kept["playback"])
    body: dict[str, Any] = {
        **asdict(await sessions.summary(gateway.bus, session)), "recorded": path is not None,
        "bar_ms": levels.BAR_MS, "levels": {"caller": caller, "assistant": heard},
        **await asyncio.to_thread(story, session, Streams(**kept)),
    }  # fmt: skip
    return JSONResponse(body)


async def recorded(gateway: Gateway, request: Request, who: Caller) -> Response:
    session = await _asked(gateway, request, who)
    path = recording(gateway, session) if session else None
    return FileResponse(path, media_type=KINDS[path.suffix]) if path else _absent(request)


def recording(gateway: Gateway, session: str) -> Path | None:
    """Where a session's recording lies, if there is one."""
    paths = (gateway.settings.recordings_dir / f"{session}{ending}" for ending in KINDS)
    return next((path for path in paths if path.is_file()), None)


async def _events(gateway: Gateway, session: str, name: str) -> list[Any]:
    return events(await rows(gateway.bus, session, name), name)


async def _asked(gateway: Gateway, request: Request, who: Caller) -> str | None:
    """The session that is asked for, if it is one and the caller's to see."""
    session = str(request.path_params["session_id"])
    if not is_session(session) or shard_of(session) >= gateway.bus.shards:
        return None
    return session if gateway.door.may(who, (await gateway.bus.config(session)).get("key")) else None


def _absent(request: Request) -> Response:
    return JSONResponse({"error": f"nothing is kept of {str(request.path_params['session_id'])[:60]}"}, 404)


ROUTES = [
    Route("/console", page),
    Route("/console/sessions", guarded(listed)),
    Route("/console/sessions/{session_id}", guarded(told)),
    Route("/console/sessions/{session_id}/recording", guarded(recorded)),
]
