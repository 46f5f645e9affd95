"""Twilio's two doors: TwiML that connects a call, and the WebSocket that it is connected to.

POST /twilio/voice   what to do with a call: connect it to /twilio, with a ticket for one call
WS   /twilio         the call's audio
POST /twilio/after   what to do with a call that was given back: dial whom it is handed over to, or hang up
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape, quoteattr

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.websockets import WebSocket

from bus.keys import call_key, handover_key, live_key, new_session, shard_of
from bus.outbox import OUTAGE
from gateway import reconnect
from gateway.door import Refused
from gateway.keys import Caller, issue, issued
from gateway.protocols.twilio import KEY, TwilioConnection
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
"""Fields of Twilio's request that the call brings along, if they are set."""


def signature(token: str, url: str, fields: list[tuple[str, str]]) -> str:
    """What Twilio signs a request with: base64 of HMAC-SHA1 over the URL and the sorted fields."""
    text = url + "".join(name + value for name, value in sorted(set(fields)))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode()


async def voice(request: Request) -> Response:
    """TwiML for a call that has come in. The query's parameters become the call's custom parameters."""
    gateway: Gateway = request.app.state.gateway
    signed = await _signed(request, gateway)
    if isinstance(signed, Response):
        return signed
    return await _connect(request, gateway, *signed)


async def _connect(request: Request, gateway: Gateway, url: str, fields: list[tuple[str, str]]) -> Response:
    """TwiML that connects a call to its audio."""
    try:
        await gateway.vacancy()
        ticket, _ = await issue(gateway.bus, Caller("twilio"), {}, TICKET_S)
    except (Refused, *OUTAGE):
        return Response(_twiml("<Say>Please call again in a moment.</Say>"), media_type="text/xml")
    told = [(name, value) for name, value in fields if name in TOLD and value]
    parameters = [("ticket", ticket), *request.query_params.items(), *told]
    root = url.partition("/twilio/")[0] + "/twilio"
    after, socket = quoteattr(f"{root}/after"), quoteattr(root.replace("http", "ws", 1))
    inner = "".join(f"<Parameter name={quoteattr(n)} value={quoteattr(v)}/>" for n, v in parameters)
    return Response(
        _twiml(f"<Connect action={after}><Stream url={socket}>{inner}</Stream></Connect>"), media_type="text/xml"
    )


async def after(request: Request) -> Response:
    """TwiML for a call whose audio has ended."""
    gateway: Gateway = request.app.state.gateway
    signed = await _signed(request, gateway)
    if isinstance(signed, Response):
        return signed
    url, fields = signed
    number, resting, call = None, None, dict(fields).get("CallSid", "")
    with suppress(*OUTAGE):
        number = await gateway.bus.commands.getdel(handover_key(call))
        resting = await _session_of(gateway, call)
    if resting and not number:  # its stream broke: the call goes on
        return await _connect(request, gateway, url, fields)
    said = f"<Dial>{escape(number.decode())}</Dial>" if number else "<Hangup/>"
    return Response(_twiml(said), media_type="text/xml")


async def media(socket: WebSocket) -> None:
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
    closed = gateway.door.keys.required or bool(settings.twilio_auth_token.get_secret_value())

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
                taken, config = await reconnect.take_up(gateway, known, Caller(KEY))
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
    connection = TwilioConnection(socket, session_id, settings.profile(), settings.limits())
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


async def _signed(request: Request, gateway: Gateway) -> tuple[str, list[tuple[str, str]]] | Response:
    """(public URL, fields) of a request that Twilio has signed, where its token is known; else what to answer."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_FORM:
            return PlainTextResponse("too long\n", 413)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True)
    except (UnicodeDecodeError, ValueError):
        return PlainTextResponse("expected a form\n", 400)
    settings = gateway.settings
    token = settings.twilio_auth_token.get_secret_value()
    url = f"{_public(request, settings.public_url)}{request.url.path}"
    url += f"?{request.url.query}" if request.url.query else ""
    if token:
        given = request.headers.get("x-twilio-signature", "")
        if not hmac.compare_digest(given.encode(), signature(token, url, fields).encode()):
            log.warning("a request with a wrong signature; is PUBLIC_URL what Twilio calls? expected: %s", url)
            return PlainTextResponse("wrong signature\n", 403)
    elif gateway.door.keys.required:
        return PlainTextResponse("TWILIO_AUTH_TOKEN is not set, so nobody can know that this is Twilio\n", 403)
    return url, fields


def _public(request: Request, public_url: str) -> str:
    """Scheme and host under which Twilio calls."""
    if public_url:
        parts = urlsplit(public_url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return f"{request.url.scheme}://{request.url.netloc}"


def _twiml(inner: str) -> str:
    """A whole document; what callers bring along may hold characters that XML cannot."""
    inner = _NO_XML.sub("", inner)
    return f'<?xml version="1.0" encoding="UTF-8"?><Response>{inner}</Response>'
