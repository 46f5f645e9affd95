"""A phone company's doors: markup that connects a call, and the WebSocket that it is connected to.

POST /twilio/voice   what to do with a call: connect it to /twilio, with a ticket for one call
WS   /twilio         the call's audio
POST /twilio/after   what to do with a call that was given back: dial whom it is handed over to, or hang up

The same under /telnyx: ``gateway.carriers`` has what is different.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape, quoteattr

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from bus.keys import call_key, handover_key, live_key, new_session, shard_of
from bus.outbox import OUTAGE
from gateway import reconnect
from gateway.carriers import CARRIERS, Carrier
from gateway.door import Refused
from gateway.keys import PHONE, Caller, issue, issued
from gateway.protocols.twilio import LONGEST_NAME, TwilioConnection
from gateway.resume import NotThere, Taken

if TYPE_CHECKING:
    from gateway.app import Gateway

log = logging.getLogger(__name__)

TICKET_S = 120
"""Seconds in which a ticket has to be used."""
LONGEST_CALL_S = 86_400
"""Seconds for which it is known which session a call has."""
LONGEST_FORM = 64 << 10
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
TOLD = ("From", "To", "CallerName", "FromCity", "FromCountry")
"""Fields of the company's request that the call brings along, if they are set."""


async def voice(carrier: Carrier, request: Request) -> Response:
    """Markup for a call that has come in. The query's parameters become the call's custom parameters."""
    gateway: Gateway = request.app.state.gateway
    signed = await _signed(carrier, request, gateway)
    if isinstance(signed, Response):
        return signed
    return await _connect(carrier, request, gateway, *signed)


async def _connect(
    carrier: Carrier, request: Request, gateway: Gateway, url: str, fields: list[tuple[str, str]]
) -> Response:
    """Markup that connects a call to its audio."""
    try:
        await gateway.vacancy()
        ticket, _ = await issue(gateway.bus, Caller(PHONE), {}, TICKET_S)
    except (Refused, *OUTAGE):
        return Response(_markup("<Say>Please call again in a moment.</Say>"), media_type="text/xml")
    caller = [(name, value) for name, value in fields if name in TOLD and value]
    parameters = [("ticket", ticket), *request.query_params.items(), *caller]
    root = url.partition(f"{carrier.path}/")[0] + carrier.path
    inner = "".join(f"<Parameter name={quoteattr(n)} value={quoteattr(v)}/>" for n, v in parameters)
    told = carrier.connect(root.replace("http", "ws", 1), f"{root}/after", inner)
    return Response(_markup(told), media_type="text/xml")


async def after(carrier: Carrier, request: Request) -> Response:
    """Markup for a call whose audio has ended."""
    gateway: Gateway = request.app.state.gateway
    signed = await _signed(carrier, request, gateway)
    if isinstance(signed, Response):
        return signed
    url, fields = signed
    number, resting, call = None, None, dict(fields).get("CallSid", "")[:LONGEST_NAME]
    with suppress(*OUTAGE):
        number = await gateway.bus.commands.getdel(handover_key(call))
        resting = await _session_of(gateway, call)
    if resting and not number:  # its stream broke: the call goes on
        return await _connect(carrier, request, gateway, url, fields)
    said = f"<Dial>{escape(number.decode())}</Dial>" if number else "<Hangup/>"
    return Response(_markup(said), media_type="text/xml")


async def media(carrier: Carrier, socket: WebSocket) -> None:
    """A call's audio."""
    gateway: Gateway = socket.app.state.gateway
    settings = gateway.settings
    try:
        await gateway.vacancy()
    except Refused as refused:
        gateway.metrics.refused(refused.error["code"])
        await socket.send_denial_response(refused.response())
        return
    await socket.accept()
    closed = gateway.door.keys.required or bool(carrier.secret(settings))

    async def admit(parameters: dict[str, str]) -> bool:
        ticket, key = parameters.pop("ticket", ""), parameters.pop("key", "")
        if not closed or gateway.door.keys.name_of(key):
            return True
        try:
            return await issued(gateway.bus, ticket, once=True) is not None
        except OUTAGE:
            return False

    async def handed_over(call: str, number: str) -> None:
        try:
            await gateway.bus.commands.set(handover_key(call), number, ex=TICKET_S)
        except OUTAGE:
            log.warning("%s: redis does not answer: the call is not handed over", session_id)

    async def recall(call: str) -> tuple[str, Taken, str] | None:
        if not call:
            return None
        try:
            if (known := await _session_of(gateway, call)) is not None:
                taken, config = await reconnect.take_up(gateway, known, Caller(PHONE))
                log.info("%s: goes on (phone)", known)
                return known, taken, config["client"]
            await gateway.bus.commands.set(call_key(call), session_id, ex=LONGEST_CALL_S)
        except NotThere:
            await gateway.bus.commands.set(call_key(call), session_id, ex=LONGEST_CALL_S)
        except OUTAGE:
            log.warning("%s: redis does not answer: should its stream break, the call is over", session_id)
        log.info("%s: begins (phone)", session_id)
        return None

    session_id = new_session(gateway.bus.shards)
    try:
        await gateway.place(session_id, Caller())
    except Refused:
        await socket.close(1013, "every line is busy")
        return
    connection = TwilioConnection(socket, session_id, settings.profile(), settings.limits(), carrier.dialect)
    try:
        await connection.run(gateway.make_session, admit, recall, handed_over)
    finally:
        await gateway.places.give_back(session_id)
        await gateway.gone(connection)


async def _session_of(gateway: Gateway, call: str) -> str | None:
    """The session of a call that has not ended. Raises what a lost server raises."""
    known = await gateway.bus.commands.get(call_key(call))
    session = known.decode() if known else ""
    live = session and await gateway.bus.commands.sismember(live_key(shard_of(session)), session)
    return session if live else None


async def _signed(carrier: Carrier, request: Request, gateway: Gateway) -> tuple[str, list[tuple[str, str]]] | Response:
    """(public URL, fields) of a request that the company has signed, where that can be known; else what to answer."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_FORM:
            return PlainTextResponse("too long\n", 413)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True)
    except (UnicodeDecodeError, ValueError):
        return PlainTextResponse("expected a form\n", 400)
    secret = carrier.secret(gateway.settings)
    url = f"{_public(request, gateway.settings.public_url)}{request.url.path}"
    url += f"?{request.url.query}" if request.url.query else ""
    if secret:
        if not carrier.signed(secret, request.headers, url, body, time.time()):
            told = "a request with a wrong signature; are %s and PUBLIC_URL right? expected to be called at: %s"
            log.warning(told, carrier.variable, url)
            return PlainTextResponse("wrong signature\n", 403)
    elif gateway.door.keys.required:
        return PlainTextResponse(f"{carrier.variable} is not set, so nobody can know who asks\n", 403)
    return url, fields


def _public(request: Request, public_url: str) -> str:
    """Scheme and host under which the company calls."""
    if public_url:
        parts = urlsplit(public_url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return f"{request.url.scheme}://{request.url.netloc}"


def _markup(inner: str) -> str:
    """A whole document; what callers bring along may hold characters that XML cannot."""
    inner = _NO_XML.sub("", inner)
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{inner}</Response>'


ROUTES: list[BaseRoute] = [
    route
    for carrier in CARRIERS
    for route in (
        Route(f"{carrier.path}/voice", partial(voice, carrier), methods=["POST"]),
        Route(f"{carrier.path}/after", partial(after, carrier), methods=["POST"]),
        WebSocketRoute(carrier.path, partial(media, carrier)),
    )
]
