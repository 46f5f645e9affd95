"""Who is let in: by key, by the origin of the page, and how many at a time."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from bus.streams import Bus
from gateway.keys import PHONE, ApiKeys, Caller, issued
from gateway.settings import GatewaySettings

SUBPROTOCOL_KEY = "openai-insecure-api-key."
"""How a browser, which can set no header on a WebSocket, hands over its key."""


class Refused(Exception):
    """Somebody is not let in: the HTTP status, and the error as the Realtime protocol names it."""

    def __init__(self, status: int, kind: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "code": code, "message": message}

    def response(self) -> JSONResponse:
        """The answer to the request; some are worth trying again."""
        headers = {"Retry-After": "2"} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": self.error}, self.status, headers)


class Door:
    """Belongs to one gateway."""

    def __init__(self, settings: GatewaySettings, bus: Bus) -> None:
        self.keys = ApiKeys(settings.keys())
        self._settings = settings
        self._operators = settings.operating()
        self._bus = bus

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Who calls. Raises Refused, and what a lost server raises."""
        if not allowed(connection, self._settings.allowed_origins):
            message = "this origin may not connect; see ALLOWED_ORIGINS"
            raise Refused(403, "invalid_request_error", "origin_not_allowed", message)
        key = given_key(connection)
        if name := self.keys.name_of(key):
            return Caller(name)
        ephemeral = await issued(self._bus, key)
        if ephemeral is not None and ephemeral.name != PHONE:  # a phone call's ticket opens the phone's door alone
            return ephemeral
        if not self.keys.required:
            return Caller()
        problem = "Incorrect API key provided." if key else "No API key provided: expected Authorization: Bearer KEY."
        raise Refused(401, "invalid_request_error", "invalid_api_key", problem)

    def may(self, caller: Caller, key: str | None) -> bool:
        """Whether a session that was begun with the key of this name (None: not known) is the caller's to see or stop.

        Where no key is needed, every session is everybody's.
        """
        operates = caller.name in self._operators and not caller.ephemeral
        return operates or not self.keys.required or caller.name == key

    @property
    def most(self) -> int:
        """How many sessions at a time one key may have; 0: any number."""
        return self._settings.max_sessions_per_key if self.keys.required else 0


def given_key(connection: HTTPConnection) -> str:
    """The key that came with a request; empty for none."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(SUBPROTOCOL_KEY):
            return str(offered.removeprefix(SUBPROTOCOL_KEY))
    return ""


def allowed(connection: HTTPConnection, origins: str) -> bool:
    """A browser names the page's origin: only our own page, and those that were allowed, may connect."""
    origin = connection.headers.get("origin")
    if origin is None or origins == "*":
        return True
    known = {each.strip().rstrip("/") for each in origins.split(",")}
    try:
        return origin.rstrip("/") in known or urlsplit(origin).netloc == connection.headers.get("host")
    except ValueError:
        return False  # no address at all
