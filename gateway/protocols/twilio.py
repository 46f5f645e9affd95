"""A phone call through Twilio's Media Streams, or a dialect of them: its messages become a session's calls.

Nothing can be answered to a message that is wrong: it is left out, with a log line, and the call goes on.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from bus.events import Said
from bus.foreign import read_json
from gateway.codecs import PCMU, Codec
from gateway.keys import PHONE
from gateway.limits import Limits
from gateway.own_tools import wanted
from gateway.protocols.connection import Connection
from gateway.protocols.dialect import ENCODINGS, Dialect
from gateway.protocols.realtime_aside import MakeSession
from gateway.protocols.twilio_outlet import TwilioOutlet
from gateway.resume import Taken
from gateway.session import Session
from gateway.settings import Profile

log = logging.getLogger(__name__)

START_LIMIT = 10.0
"""Seconds that the other end has to say which call it is."""
LONGEST_NAME = 128
"""Characters of a call's name."""
KEYS_PAUSE = 1.5
"""Seconds after a key of the phone within which another belongs to the same number; ``#`` ends it at once."""
MOST_KEYS = 64
LONGEST_VALUE = 2000
"""Characters of a custom parameter."""
OURS = ("greeting", "language", "instructions", "voice")
"""Custom parameters that set the session up; the model is told the others."""

Admit = Callable[[dict[str, str]], Awaitable[bool]]
"""Whether a call with these custom parameters may come in; it takes what is secret out of them."""

Recall = Callable[[str], Awaitable[tuple[str, Taken, str] | None]]
"""Called with the company's name for the call: its session, what that was doing, and what was saved as
``Profile.client``, when its stream had broken."""

HandedOver = Callable[[str, str], Awaitable[None]]
"""Called with the company's name for the call and the number that it is handed over to, before the line is given
back."""


class TwilioConnection(Connection):
    """One phone call."""

    def __init__(self, socket: WebSocket, session_id: str, profile: Profile, limits: Limits, dialect: Dialect) -> None:
        super().__init__(socket, session_id, limits)
        self._dialect = dialect
        self._codec: Codec = PCMU
        """How the caller's audio is written."""
        self._profile = replace(profile, duplex=replace(profile.duplex, settle=0.0))  # the network cancels echo
        self._outlet: TwilioOutlet
        self._session: Session
        self.returns = True
        self.call = ""
        """The phone company's name for the call."""
        self._about: dict[str, str] = {}
        self._handed_over: HandedOver
        self._keys = ""
        self._numbers = 0
        self._pause: asyncio.TimerHandle | None = None

    async def run(self, make_session: MakeSession, admit: Admit, recall: Recall, handed_over: HandedOver) -> None:
        """Serve the call to its end; ``handed_over`` is told of one that the model hands over."""
        try:
            async with asyncio.timeout(START_LIMIT):
                start = await self._start()
        except (TimeoutError, WebSocketDisconnect):
            await self.close(1008, "no start message")
            return
        dialect, form = self._dialect, start.get(self._dialect.form)
        encoding = form.get("encoding", "PCMU") if isinstance(form, dict) else "PCMU"
        if (codec := ENCODINGS.get(str(encoding))) is None:
            log.warning("%s: a call's audio comes as %.40s; expected PCMU or PCMA", self.session_id, encoding)
            await self.close(1003, "expected PCMU or PCMA")
            return
        self._codec = codec
        given = start.get(dialect.parameters)
        pairs = given.items() if isinstance(given, dict) else ()
        parameters = {str(name)[:100]: str(value)[:LONGEST_VALUE] for name, value in pairs}
        if not await admit(parameters):
            log.warning("%s: a call without a valid ticket was refused", self.session_id)
            await self.close(1008, "not admitted")
            return
        self.call, self._handed_over = str(start.get(dialect.call, ""))[:LONGEST_NAME], handed_over
        taken = None
        if (known := await recall(self.call)) is not None:
            self.session_id, taken, saved = known
            profile = replace(self._profile, **json.loads(saved), greeting="", client=saved)
            profile.own_tools = tuple(profile.own_tools)
            self._numbers = sum(said.item.startswith(f"item_{self.session_id}_k") for said in taken.found.messages)
        else:
            profile, self._about = self._set_up(parameters), parameters
            kept = {name: getattr(profile, name) for name in (*OURS, "own_tools") if name != "greeting"}
            profile.client = json.dumps(kept)
        profile.key = PHONE
        self._outlet = TwilioOutlet(self.session_id, str(start[dialect.stream]), self.queue, dialect)
        self._session = make_session(self._outlet, profile, PCMU.rate, taken=taken)
        self._outlet.heard_of, self._outlet.cut_at = self._session.played, self._session.truncate
        await self.serve(self._session)

    def begun(self) -> None:
        if self._about:
            told = ", ".join(f"{name}: {value}" for name, value in self._about.items())
            self._session.say(Said(f"item_{self.session_id}_call", "system", f"About this call: {told}"))

    async def take(self, raw: str | bytes) -> None:
        try:
            message = read_json(raw)
            kind = message["event"]
            if kind == "media":
                if message["media"].get("track", "inbound") == "inbound":
                    codes = base64.b64decode(message["media"]["payload"], validate=True)
                    self._session.audio(self._codec.decode(codes))
            elif kind == "mark":
                self._outlet.marked(str(message["mark"]["name"]))
            elif kind == "dtmf":
                self._pressed(str(message["dtmf"]["digit"]))
            elif kind == "error":
                log.warning("%s: the phone company says: %.200s", self.session_id, message.get("payload"))
            elif kind == "stop":
                await self.close(1000, "the call is over")
                self._session.ended.set()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: a message was left out: %s", self.session_id, type(error).__name__)
        except Exception:
            log.exception("%s: a message could not be handled", self.session_id)

    async def ending(self) -> None:
        if self._session.own_tools.goodbye:
            await self._handed_over(self.call, self._session.own_tools.goodbye)

    async def closing(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    async def _start(self) -> dict[str, Any]:
        """The start message. Raises WebSocketDisconnect."""
        while True:
            message = await self.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect()
            try:
                event = read_json(message.get("text") or message.get("bytes") or b"")
                if event["event"] == "start":
                    return {self._dialect.stream: event[self._dialect.stream], **event["start"]}
            except (ValueError, KeyError, TypeError):
                continue

    def _set_up(self, parameters: dict[str, str]) -> Profile:
        """The session's profile; what sets it up is taken out of the parameters."""
        profile = self._profile
        for name in OURS:
            value = parameters.pop(name, None)
            if value is not None:
                setattr(profile, name, value)
        if (asked := parameters.pop("own_tools", None)) is not None:
            profile.own_tools = tuple(wanted(asked))
        return profile

    def _pressed(self, key: str) -> None:
        """A key of the phone: whatever is being said stops, and the number is handed in when it is complete."""
        if len(key) != 1 or key not in "0123456789*#ABCD":
            raise ValueError("not a key")
        self._session.cancel("client_cancelled")
        self._keys = (self._keys + key)[-MOST_KEYS:]
        if self._pause is not None:
            self._pause.cancel()
        if key == "#":
            self._hand_in()
        else:
            self._pause = asyncio.get_running_loop().call_later(KEYS_PAUSE, self._hand_in)

    def _hand_in(self) -> None:
        self._pause = None
        self._numbers += 1
        keys, self._keys = self._keys, ""
        self._session.say(Said(f"item_{self.session_id}_k{self._numbers}", "user", f"(pressed on the phone: {keys})"))
        self._session.respond(waits=True)
