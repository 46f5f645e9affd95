"""Any server with OpenAI's ``POST /v1/audio/speech``: one request a sentence, its answer passed on as it comes.

Asked for ``pcm``: 16-bit mono little-endian without a header, at TTS_HTTP_RATE unless a header names its rate. A
WAV of 16-bit mono is taken too, recognised by its header; its rate is converted to TTS_HTTP_RATE. Anything else is
refused. The interface knows no language: the voice implies it. A cancel closes the connection, which is how such a
server is told to stop, and what it still sends is never read; with TTS_CANCEL_URL it is told in words as well. Whether
its model has stopped is not known: the acknowledgement says what was done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import httpx2
from pydantic import Field, SecretStr

from bus.cancel import CancelToken
from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.servers import address_of, key_of, reason_in
from workers.tts.engine import Chunk, Waste
from workers.tts.engines.http_cancel import SESSION, CancelEndpoint
from workers.tts.engines.http_sound import HttpSound, Refused
from workers.tts.normalise import normalise
from workers.tts.words import SpokenWords

log = logging.getLogger(__name__)

PATH = "/audio/speech"
CHUNK_MS = 60
CONNECT_S = 5.0
RETRY_S = 0.25
"""Seconds between the two attempts."""
REASON_LIMIT = 1 << 14
"""Bytes of an error that are read."""

T = TypeVar("T")


class HttpSettings(BusSettings):
    """Where the voice is, and how long it may take."""

    tts_url: str = Field(default="", repr=False)
    """The server's address, with or without ``/v1``."""
    tts_model: str = "tts-1"
    """Which of the server's models."""
    tts_voice: str = ""
    """The voice of sessions that choose none; empty: ``alloy``, which such servers know."""
    tts_api_key: SecretStr = SecretStr("")
    """The key that the server asks for; empty: none."""
    tts_api_key_file: Path | None = None
    """A file whose first word is the key; used when TTS_API_KEY is empty."""
    tts_http_rate: int = Field(default=24_000, ge=8000, le=48_000)
    """Samples per second of ``pcm`` answers, and of every chunk."""
    tts_cancel_url: str = Field(default="", repr=False)
    """Where the server takes cancels, ``{session}`` in it being the call's id; see ``http_cancel``."""
    tts_first_audio_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds from the request to the first audio, a second attempt included."""
    tts_stall_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two pieces of audio, while one is waited for."""
    tts_repeatable: bool = False
    """Whether the server speaks a sentence twice alike, to the sample: one that is taken up again is then not heard
    twice."""
    tts_capacity: int = Field(default=32, ge=1, le=1000)
    """How many turns one worker speaks at once."""


class Http:
    """Implements ``workers.tts.engine.TtsEngine``. Its voices are the server's: ``voices`` is empty."""

    name = "http"
    voices: tuple[str, ...] = ()
    own_speed = True

    def __init__(self) -> None:
        self.settings = load(HttpSettings)
        self.rate = self.settings.tts_http_rate
        self.capacity = self.settings.tts_capacity
        self.repeatable = self.settings.tts_repeatable
        self._client: httpx2.AsyncClient | None = None
        self._key = ""
        self._endpoint: CancelEndpoint | None = None
        self._waste: WeakKeyDictionary[CancelToken, Waste] = WeakKeyDictionary()

    async def load(self) -> None:
        """Make the client. A server that is down now is asked again at the next sentence. Raises EngineError."""
        settings = self.settings
        address = address_of(settings.tts_url, "TTS_URL", PATH)
        self._key = key_of(settings.tts_api_key, settings.tts_api_key_file, "TTS_API_KEY")
        self._client = httpx2.AsyncClient(
            base_url=address,
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None),
        )
        if self.settings.tts_cancel_url:
            self._endpoint = CancelEndpoint(self.settings.tts_cancel_url, self._client)
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request's whole address
        log.info("sentences are spoken by %s at %s", self.settings.tts_model, address)

    def wasted(self, cancel: CancelToken) -> Waste:
        """What was done about a cancelled turn's request, and answered to that."""
        return self._waste.get(cancel, Waste())

    async def speak(
        self, text: str, voice: str, language: str, cancel: CancelToken, *, speed: float = 1.0
    ) -> AsyncIterator[Chunk]:
        """Speak one sentence; see ``workers.tts.engine``. One retry where no chunk of it has left."""
        cancel.check()
        said = normalise(text, language, numbers=False)
        if not said.has_words:
            yield Chunk(b"", text, exact=False)  # such servers answer nothing, or an error
            return
        asked: dict[str, Any] = {
            "model": self.settings.tts_model,
            "input": said.text,
            "voice": voice or self.settings.tts_voice or "alloy",
            "response_format": "pcm",
        }
        if speed != 1.0:
            asked["speed"] = speed
        whole = False
        try:
            async with aclosing(self._attempts(text, asked, cancel)) as chunks:
                async for chunk in chunks:
                    yield chunk
            whole = True
        finally:
            if cancel.cancelled and not whole:
                await self._tell(cancel)

    async def _tell(self, cancel: CancelToken) -> None:
        detail = "connection closed, the server may be busy until its sentence ends"
        if self._endpoint is not None:
            detail = f"connection closed, {await self._endpoint.tell(cancel)}"
        self._waste[cancel] = Waste(detail=detail)

    async def _attempts(self, text: str, asked: dict[str, Any], cancel: CancelToken) -> AsyncGenerator[Chunk, None]:
        """Ask for ``asked``, and once more where nothing of it has left; ``text`` is what the chunks tell."""
        due = asyncio.get_running_loop().time() + self.settings.tts_first_audio_s
        for attempt in (1, 2):
            said = False
            try:
                async with aclosing(self._attempt(text, asked, cancel, due)) as chunks:
                    async for chunk in chunks:
                        cancel.check()
                        said = True
                        yield chunk
                return
            except EngineError as error:
                late = asyncio.get_running_loop().time() + RETRY_S >= due
                if said or attempt == 2 or late or isinstance(error, Refused):
                    raise
                log.warning("no audio came; asked once more: %s", error)
            await _Patience(cancel).until(asyncio.sleep(RETRY_S), due)

    async def _attempt(
        self, text: str, asked: dict[str, Any], cancel: CancelToken, due: float
    ) -> AsyncGenerator[Chunk, None]:
        """One request. ``due`` is the loop's time by which the first audio must have come."""
        if self._client is None:
            raise Refused("TTS_ENGINE=http was not loaded")
        settings, loop = self.settings, asyncio.get_running_loop()
        headers = {SESSION: cancel.session} if self._endpoint is not None else {}
        size, samples, pcm, words = self.rate * CHUNK_MS // 1000 * 2, 0, bytearray(), SpokenWords(text)
        waiting, limit, patience = "any audio", settings.tts_first_audio_s, _Patience(cancel)
        try:
            async with AsyncExitStack() as stack:
                opening = stack.enter_async_context(self._client.stream("POST", PATH, json=asked, headers=headers))
                answer = await patience.until(opening, due)
                pieces = await stack.enter_async_context(aclosing(answer.aiter_bytes()))
                if answer.status_code != 200:
                    raise await self._refusal(answer, pieces, asked["input"], due, patience)
                sound = HttpSound(answer.headers, self.rate)
                piece: bytes | None = b""
                while piece is not None:
                    piece = await patience.until(anext(pieces, None), due)
                    pcm += sound.take(piece) if piece is not None else sound.finish()
                    # A chunk is kept until the next has begun, so that the last one can carry what text remains.
                    while len(pcm) > size:
                        samples += size // 2
                        told = words.until(samples / self.rate, sound.seconds)
                        yield Chunk(bytes(pcm[:size]), told, exact=False)
                        del pcm[:size]
                    if pcm:
                        waiting, limit = "more audio", settings.tts_stall_s
                        due = loop.time() + limit
                if not pcm:
                    raise EngineError("the voice server sent no audio")
        except TimeoutError as error:
            raise Refused(f"the voice server did not send {waiting} within {limit:g} s") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            reason = f"{type(error).__name__} {str(error)[:200]}".strip()
            raise EngineError(f"the connection to the voice server failed: {reason}") from error
        yield Chunk(bytes(pcm), words.rest(), exact=False)

    async def _refusal(
        self, answer: httpx2.Response, pieces: AsyncGenerator[bytes, None], text: str, due: float, patience: _Patience
    ) -> EngineError:
        body = b""
        while len(body) < REASON_LIMIT and (piece := await patience.until(anext(pieces, None), due)) is not None:
            body += piece
        kind = EngineError if answer.status_code >= 500 else Refused
        reason = reason_in(body, answer.reason_phrase).replace(self._key or "\0", "***").replace(text, "...")[:200]
        return kind(f"the voice server answered {answer.status_code}: {reason}")


class _Patience:
    """How long each step of one request may take: until it is due, or its turn is cancelled."""

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._limit: asyncio.Timeout | None = None
        cancel.on_cancel(self._hurry)

    async def until(self, step: Awaitable[T], due: float) -> T:
        """The result of ``step``, which has ended when this returns or raises.

        Raises TimeoutError at the loop's time ``due``, and Cancelled as soon as the turn is cancelled.
        """
        try:
            async with asyncio.timeout_at(0.0 if self._cancel.cancelled else due) as self._limit:
                return await step
        except TimeoutError:
            self._cancel.check()
            raise
        finally:
            self._limit = None

    def _hurry(self) -> None:
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)
