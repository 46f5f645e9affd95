"""POST /v1/realtime/client_secrets: an ephemeral key for a browser, with the session that it may begin."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bus.foreign import read_json
from bus.outbox import OUTAGE
from gateway.door import Refused, given_key
from gateway.keys import EPHEMERAL, issue
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError

DEFAULT_S, SHORTEST_S, LONGEST_S = 600, 10, 7200
LONGEST_BODY = 256 << 10


async def client_secrets(request: Request) -> Response:
    """As OpenAI's endpoint of that name: ``{"expires_after": {"seconds": 600}, "session": {...}}``, both optional."""
    gateway = request.app.state.gateway
    try:
        if given_key(request).startswith(EPHEMERAL):
            raise Refused(401, "invalid_request_error", "invalid_api_key", "An ephemeral key issues no other.")
        caller = await gateway.door.caller(request)
        asked = await _body(request)
        seconds = _seconds(asked.get("expires_after") or {})
        session = asked.get("session") or {}
        if not isinstance(session, dict):
            raise ProtocolError("invalid_value", "session: expected an object", "session")
        kind = session.get("type", "realtime")
        given = session.get("model")
        model = given if isinstance(given, str) else "bargein"
        config = RealtimeConfig(
            gateway.settings.profile(), model, gateway.voices(), kind if kind == "transcription" else "realtime"
        )
        config.update(session)
        key, expires_at = await issue(gateway.bus, caller, session, seconds)
    except Refused as refused:
        return refused.response()
    except ProtocolError as wrong:
        error = {"type": "invalid_request_error", "code": wrong.code, "message": wrong.message, "param": wrong.param}
        return JSONResponse({"error": error}, 400)
    except OUTAGE:
        return Refused(503, "server_error", "unavailable", "redis does not answer").response()
    view = config.view(key.removeprefix(EPHEMERAL)[:12])
    body = {"value": key, "expires_at": expires_at, "session": view}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def _body(request: Request) -> dict[str, Any]:
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > LONGEST_BODY:
            raise ProtocolError("invalid_value", f"the body has more than {LONGEST_BODY} bytes")
    try:
        body = read_json(raw or b"{}")
    except ValueError:
        raise ProtocolError("invalid_json", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise ProtocolError("invalid_value", "the body: expected a JSON object")
    return body


def _seconds(after: Any) -> int:
    seconds = after.get("seconds", DEFAULT_S) if isinstance(after, dict) else None
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not SHORTEST_S <= seconds <= LONGEST_S:
        where = "expires_after.seconds"
        raise ProtocolError("invalid_value", f"{where}: expected {SHORTEST_S} to {LONGEST_S}", where)
    return seconds
