"""Any OpenAI-compatible server (llama-server, vLLM, Ollama, OpenAI itself) through the ``openai`` package.

``LLM_URL`` is its address, with or without ``/v1``. Streaming ``/chat/completions``; closing the iterator closes the
HTTP response, which is how such servers are told to stop generating.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from bus.cancel import CancelToken
from bus.settings import BusSettings, load, masked
from workers.engines import EngineError
from workers.llm.engine import Message

log = logging.getLogger(__name__)

CONNECT_S = 5.0


class OpenAISettings(BusSettings):
    """Where the model is, and how long it may take."""

    llm_url: str = "http://127.0.0.1:8081/v1"
    llm_model: str = "default"
    llm_api_key: SecretStr = SecretStr("")
    llm_api_key_file: Path | None = None
    """A file whose first line is the key; used when LLM_API_KEY is empty."""
    llm_first_token_s: float = Field(default=10.0, gt=0, le=600)
    """From the request to the first word."""
    llm_stall_s: float = Field(default=5.0, gt=0, le=600)
    """Between two words."""
    llm_temperature: float | None = Field(default=None, ge=0, le=2)
    llm_max_tokens: int | None = Field(default=None, ge=1)
    llm_capacity: int = Field(default=32, ge=1, le=10_000)
    """How many turns one worker asks for at once."""


class OpenAI:
    """Implements ``workers.llm.engine.LlmEngine``."""

    name = "openai"

    def __init__(self) -> None:
        self.settings = load(OpenAISettings)
        self.capacity = self.settings.llm_capacity
        self._client: Any = None

    async def load(self) -> None:
        """Make the client. A server that is down now is asked again at the first turn. Raises EngineError."""
        import openai

        url = self.settings.llm_url.rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise EngineError(f"LLM_URL={masked(url)[:80]}: expected http://host:port/v1")
        if not url.endswith("/v1"):
            url += "/v1"
        timeout = openai.Timeout(self.settings.llm_first_token_s + 5, connect=CONNECT_S)
        # Retries are this engine's own: only where nothing was said yet.
        self._client = openai.AsyncOpenAI(api_key=self._key(), base_url=url, timeout=timeout, max_retries=0)
        log.info("model %s at %s", self.settings.llm_model, masked(url))

    async def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        """Stream the answer; see ``workers.llm.engine``. One retry where nothing was said yet."""
        for attempt in (1, 2):
            said = False
            stream = self._stream(messages)
            try:
                async for delta in stream:
                    said = True
                    yield delta
                return
            except EngineError as error:
                if said or attempt == 2:
                    raise
                log.warning("the model server failed before the first word; asked once more: %s", error)
            finally:
                await stream.aclose()

    async def _stream(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        import openai

        settings = self.settings
        options: dict[str, Any] = {}
        if settings.llm_temperature is not None:
            options["temperature"] = settings.llm_temperature
        if settings.llm_max_tokens is not None:
            options["max_tokens"] = settings.llm_max_tokens
        stream = None
        waiting, limit = "its first word", settings.llm_first_token_s
        due = asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(due):
                stream = await self._client.chat.completions.create(
                    model=settings.llm_model,
                    messages=[{"role": message.role, "content": message.text} for message in messages],
                    stream=True,
                    **options,
                )
            chunks = aiter(stream)
            while True:
                async with asyncio.timeout_at(due):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                # Usage and reasoning come in chunks without content: neither is spoken.
                delta = chunk.choices[0].delta.content if chunk.choices and chunk.choices[0].delta else None
                if delta:
                    yield delta
                    waiting, limit = "its next word", settings.llm_stall_s
                    due = asyncio.get_running_loop().time() + limit
        except TimeoutError as error:
            raise EngineError(f"the model server did not send {waiting} within {limit:g} s") from error
        except openai.APITimeoutError as error:
            raise EngineError(f"the model server did not answer within {CONNECT_S:g} s") from error
        except openai.APIStatusError as error:
            raise EngineError(f"the model server answered {error.status_code}: {_reason(error)}") from error
        except openai.APIError as error:
            raise EngineError(f"the model server failed: {type(error).__name__}: {str(error)[:200]}") from error
        except (ValueError, OSError) as error:
            raise EngineError(f"the model server's answer broke off: {type(error).__name__}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
                raise EngineError(f"the model server's answer broke off: {type(error).__name__}") from error
            raise
        finally:
            if stream is not None:
                await stream.close()

    def _key(self) -> str:
        settings = self.settings
        if key := settings.llm_api_key.get_secret_value():
            return key
        if settings.llm_api_key_file is None:
            return "none"
        try:
            lines = settings.llm_api_key_file.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise EngineError(f"LLM_API_KEY_FILE={settings.llm_api_key_file}: cannot be read: {error}") from error
        if not lines:
            raise EngineError(f"LLM_API_KEY_FILE={settings.llm_api_key_file}: is empty; expected the key")
        return lines[0]


def _reason(error: Any) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message", inner) if isinstance(inner, dict) else inner
    return " ".join(str(body or error.message).split())[:200]
