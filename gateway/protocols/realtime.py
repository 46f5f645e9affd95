"""The OpenAI Realtime GA protocol over a WebSocket: a client's events, validated, become a session's calls.

Whatever a client sends wrong is answered with an ``error`` event that says what was wrong and what was expected; the
session goes on. Shapes are checked against the ``openai`` package's own types.
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.websockets import WebSocket

from bus.events import MIC_RATE
from gateway.limits import Limits
from gateway.protocols.connection import Connection
from gateway.protocols.realtime_aside import Asides, MakeSession
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.protocols.realtime_error import ProtocolError
from gateway.protocols.realtime_events import event_id, parse
from gateway.protocols.realtime_outlet import RealtimeOutlet
from gateway.protocols.realtime_requests import Requests
from gateway.resume import Return

log = logging.getLogger(__name__)


class RealtimeConnection(Connection):
    """One client on one WebSocket."""

    def __init__(
        self,
        socket: WebSocket,
        session_id: str,
        config: RealtimeConfig,
        again: Return,
        *,
        extensions: bool,
        limits: Limits,
    ) -> None:
        super().__init__(socket, session_id, limits)
        self._again = again
        self.returns = extensions or again.taken is not None
        # Browsers and the page cancel echo themselves; a client that does not says so in its URL.
        cancels_echo = socket.query_params.get("echo") != "cancel"
        self.outlet = RealtimeOutlet(session_id, self.queue, extensions=extensions, cancels_echo=cancels_echo)
        self.outlet.streams_text = config.kind == "transcription"
        self.outlet.configure(config)
        self._config = config
        self._requests: Requests
        self._asides: Asides

    async def run(self, make_session: MakeSession) -> None:
        """Serve the client to its end."""
        rate, taken = self._config.codec("input").rate, self._again.taken
        session = make_session(self.outlet, self._config.profile(), rate, taken=taken)
        self._asides = Asides(session, self.outlet, make_session)
        self._requests = Requests(self.session_id, session, self.outlet, self._config, self._asides)
        self.outlet.emit("session.created", session=self._config.view(self.session_id))
        if self.outlet.drops:
            told: dict[str, Any] = {"resumed": taken is not None, "resume_s": self._again.seconds}
            if taken is not None:
                turn = taken.found.turn
                told |= {"audio_end_ms": _ms(taken.found.mic.position)}
                told |= {"response_id": self.outlet.response_id(turn) if turn else None}
            self.outlet.emit("bargein.session", session_id=self.session_id, **told)
            session.microphone.on_published = self._published
        await self.serve(session)

    async def take(self, raw: str | bytes) -> None:
        event: dict[str, Any] = {}
        try:
            self._measure(raw)
            event = parse(raw)
            await self._requests.handle(event)
        except ProtocolError as error:
            self.outlet.error(error.code, error.message, error.param, error.event_id or event_id(event))
        except RecursionError:
            self.outlet.error("invalid_value", "The event is nested too deeply.", event_id=event_id(event))
        except Exception:
            log.exception("%s: a client's event could not be handled", self.session_id)
            sorry = "The server had an error while processing your event."
            self.outlet.error("internal_error", sorry, event_id=event_id(event))

    def _published(self, position: int) -> None:
        self.outlet.emit("bargein.input.acknowledged", audio_end_ms=_ms(position))

    def begun(self) -> None:
        self._asides.broken(self._again.asides)

    def tell_end(self, code: str, message: str) -> None:
        self.outlet.error(code, message)

    async def closing(self) -> None:
        await self._asides.close()

    def _measure(self, raw: str | bytes) -> None:
        most = self.limits.message
        size = len(raw) if isinstance(raw, bytes) or raw.isascii() else len(raw.encode(errors="replace"))
        if size > most:
            problem = f"The message has {size} bytes; expected at most {most}. It was left out."
            raise ProtocolError("message_too_big", problem)


def _ms(samples: int) -> float:
    """Samples of the caller's audio in milliseconds that name one exactly."""
    return samples * 1000 / MIC_RATE
