"""A client that comes back to its session: which one it asks for, and whether it is its own.

A Realtime client names it by the query parameter ``session_id`` or the header ``X-Bargein-Session``, with or without
the ``sess_`` of ``session.created``. A session belongs to the API key that it was begun with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from bus.keys import is_session, shard_of
from bus.outbox import OUTAGE
from gateway.keys import Caller
from gateway.microphone import PRE_ROLL_MS
from gateway.protocols.realtime_aside import ASIDES
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.resume import NotThere, Return, Taken, take

if TYPE_CHECKING:
    from gateway.app import Gateway

HEADER = "x-bargein-session"
NOT_FOUND = 4404
"""Close code: the session that the client asked for is not there (any more), or is not its own."""
TRY_AGAIN = 1013
"""Close code, of RFC 6455's registry: the session may be there, but nobody can tell just now."""


def wanted(connection: HTTPConnection) -> str:
    """The session that a client asks for, as it says; empty for a new one."""
    told = connection.query_params.get("session_id") or connection.headers.get(HEADER, "")
    return told.strip().removeprefix("sess_")


async def take_up(gateway: Gateway, session: str, caller: Caller) -> tuple[Taken, dict[str, str]]:
    """Take a session for its client: (what it was doing, its config). Raises NotThere, with what to tell the client,
    and what a lost server raises."""
    if not is_session(session) or "." in session or shard_of(session) >= gateway.bus.shards:
        raise NotThere(f"session_id is {session[:60]!r}; expected s<shard>-<hex>, as session.created has it")
    config = await gateway.bus.config(session)
    # Whose it is is not told to who may not have it.
    gone = f"there is no session {session} (any more) that could be gone on with"
    if not config.get("client") or config.get("key", "") != caller.name:
        raise NotThere(gone)
    try:
        return await take(gateway.bus, session, gateway.name, gateway.work, PRE_ROLL_MS), config
    except NotThere:
        raise NotThere(gone) from None


async def meet(
    socket: WebSocket, gateway: Gateway, session: str, caller: Caller
) -> tuple[Return, RealtimeConfig] | None:
    """Take a session for its Realtime client; None when that cannot be done, and the client was told so."""
    try:
        taken, kept = await take_up(gateway, session, caller)
    except (NotThere, *OUTAGE) as error:
        gone = isinstance(error, NotThere)
        code, message = ("session_not_found", str(error)) if gone else ("unavailable", "redis does not answer")
        told = {"type": "invalid_request_error", "code": code, "message": message}
        await socket.send_json({"type": "error", "event_id": "event_1", "error": told})
        await socket.close(NOT_FOUND if gone else TRY_AGAIN, code)
        return None
    again = Return(taken, gateway.settings.resume_s, kept.get(ASIDES, "{}"))
    return again, RealtimeConfig.again(gateway.settings.profile(), gateway.voices(), kept["client"])
