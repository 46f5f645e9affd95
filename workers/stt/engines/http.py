"""Any server with OpenAI's ``POST /v1/audio/transcriptions``: whole utterances, one request each.

An utterance is collected and posted at its end, at every pause where ``STREAMING_STT`` is true, as a WAV of 16 kHz mono
16-bit. One that goes on after a pause is posted whole again, so its text is always of the whole utterance. There is no
text before the first pause.
"""

from __future__ import annotations

import asyncio
import io
import logging
import wave
from pathlib import Path

import httpx2
from pydantic import Field, SecretStr

from bus.foreign import read_json
from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.servers import TooLong, address_of, body_of, key_of, reason_in

log = logging.getLogger(__name__)

RATE = 16_000
PATH = "/audio/transcriptions"
CONNECT_S = 5.0
RETRY_S = 0.25
"""Seconds between the two attempts."""
LONGEST_ANSWER = 1 << 20
"""Bytes: hours of speech have fewer words."""
SHORTEST = RATE // 10
"""Samples up to which silence is appended: OpenAI refuses audio of less than 0.1 s."""


class HttpSettings(BusSettings):
    """Where the model is, and how long it may take."""

    stt_url: str = Field(default="", repr=False)
    """The server's address, with or without ``/v1``."""
    stt_model: str = "whisper-1"
    """Which of the server's models."""
    stt_api_key: SecretStr = SecretStr("")
    """The key that the server asks for; empty: none."""
    stt_api_key_file: Path | None = None
    """A file whose first word is the key; used when STT_API_KEY is empty."""
    stt_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """Seconds from the end of an utterance to its text, a second attempt included."""
    stt_max_utterance_s: float = Field(default=300.0, ge=1, le=750)
    """Seconds of an utterance; a longer one is not transcribed. 750 s are 24 MB; OpenAI takes 25."""
    stt_capacity: int = Field(default=32, ge=1, le=1000)
    """How many sessions one worker listens to at once."""


class Refused(EngineError):
    """The server understood the request and refused it, or sent no text: asking again would not help."""


class Http:
    """Implements ``workers.stt.engine.SttEngine``."""

    name = "http"

    def __init__(self) -> None:
        self.settings = load(HttpSettings)
        self.capacity = self.settings.stt_capacity
        self._client: httpx2.AsyncClient | None = None
        self._key = ""

    async def load(self) -> None:
        """Make the client. A server that is down now is asked again at the next utterance. Raises EngineError."""
        settings = self.settings
        address = address_of(settings.stt_url, "STT_URL", PATH)
        self._key = key_of(settings.stt_api_key, settings.stt_api_key_file, "STT_API_KEY")
        self._client = httpx2.AsyncClient(
            base_url=address,
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=None),
        )
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request's whole address
        log.info("utterances are transcribed by %s at %s", self.settings.stt_model, address)

    async def open(self, language: str) -> HttpRecognizer:
        """A recogniser for one session; the server is told the language (``en`` of ``en-US``)."""
        return HttpRecognizer(self, language.replace("_", "-").partition("-")[0].lower())

    async def transcribe(self, pcm: bytes, language: str) -> str:
        """The text of an utterance of 16 kHz mono 16-bit audio. One retry on lost connections and 5xx.

        Raises EngineError, also when it takes more than STT_TIMEOUT_S.
        """
        limit = self.settings.stt_timeout_s
        try:
            async with asyncio.timeout(limit):
                try:
                    return await self._post(pcm, language)
                except Refused:
                    raise
                except EngineError as error:
                    log.warning("asked once more: %s", error)
                await asyncio.sleep(RETRY_S)
                return await self._post(pcm, language)
        except TimeoutError as error:
            raise EngineError(f"the transcription server did not answer within {limit:g} s") from error

    async def _post(self, pcm: bytes, language: str) -> str:
        if self._client is None:
            raise EngineError("STT_ENGINE=http was not loaded")
        fields = {"model": self.settings.stt_model, "response_format": "json"}
        if language:
            fields["language"] = language
        try:
            files = {"file": ("utterance.wav", _as_wav(pcm), "audio/wav")}
            async with self._client.stream("POST", PATH, data=fields, files=files) as answer:
                body = await body_of(answer.aiter_bytes(), LONGEST_ANSWER)
        except TooLong as error:
            raise Refused(f"the transcription server sent {error}") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            reason = f"{type(error).__name__} {str(error)[:200]}".strip()
            raise EngineError(f"the connection to the transcription server failed: {reason}") from error
        if answer.status_code != 200:
            kind = EngineError if answer.status_code >= 500 else Refused
            reason = reason_in(body, answer.reason_phrase).replace(self._key or "\0", "***")[:200]
            raise kind(f"the transcription server answered {answer.status_code}: {reason}")
        try:
            text = read_json(body)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            kind_of_body = answer.headers.get("content-type", "no content type")[:60]
            raise Refused(f"the transcription server answered {kind_of_body}; expected a JSON object with a text")
        return " ".join(text.split())


class HttpRecognizer:
    """The recogniser of one session."""

    def __init__(self, engine: Http, language: str) -> None:
        self._engine = engine
        self._language = language
        self._pcm = bytearray()
        """The utterance so far."""
        self._samples = 0
        """How long it is; what is longer than the limit is not kept."""
        self._posted = 0
        """How many of them ``_text`` is the text of."""
        self._text = ""

    async def begin(self) -> None:
        """An utterance starts."""
        self._pcm.clear()
        self._samples = self._posted = 0
        self._text = ""

    async def feed(self, pcm: bytes) -> str:
        """Collect audio; "". Raises ValueError for half a sample."""
        if len(pcm) % 2:
            raise ValueError(f"{len(pcm)} bytes of audio; expected whole 16-bit samples")
        self._samples += len(pcm) // 2
        if self._samples <= self._engine.settings.stt_max_utterance_s * RATE:
            self._pcm += pcm
        else:
            self._pcm.clear()
        return ""

    async def flush(self) -> str:
        """Post the utterance; its text. Without new audio the text that is known. Raises EngineError."""
        limit = self._engine.settings.stt_max_utterance_s
        if self._samples > limit * RATE:
            raise EngineError(f"an utterance of {self._samples / RATE:.1f} s; STT_MAX_UTTERANCE_S allows {limit:g} s")
        if self._samples > self._posted:
            self._text = await self._engine.transcribe(bytes(self._pcm), self._language)
            self._posted = self._samples
        return self._text

    async def close(self) -> None:
        """Forget the utterance."""
        await self.begin()


def _as_wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(pcm.ljust(2 * SHORTEST, b"\0"))
    return file.getvalue()
