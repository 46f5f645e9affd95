"""Any OpenAI-compatible server (llama-server, vLLM, Ollama, OpenAI itself) through the ``openai`` package.

``LLM_URL`` is its address, with or without ``/v1``. Streaming ``/chat/completions``; closing the iterator closes the
HTTP response, which is how such servers are told to stop generating. A llama-server is recognised by what it shows
beside ``/v1``, and then its slot is watched until it has stopped (``workers.llm.engines.llama``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import Field, SecretStr

from bus.cancel import CancelToken
from bus.settings import BusSettings, load, masked
from workers.engines import EngineError
from workers.llm.engine import ContextTooLong, Message, Observed
from workers.llm.engines.llama import NotYet, Slots, Watch, recognise
from workers.llm.engines.openai_bounds import bound
from workers.llm.engines.openai_calls import PartialCalls, options, wire
from workers.llm.tools import Call, CallPiece, Finish, Request

log = logging.getLogger(__name__)

CONNECT_S = 5.0
RETRIED = (408, 409, 429)
"""Refusals besides 5xx after which the same request may succeed."""
UNSEEN = 3
"""Turns answered by a server that does not answer what it is, after which it is taken for one without slots."""
CONNECTION_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2")


class OpenAISettings(BusSettings):
    """Where the model is, and how long it may take."""

    llm_url: str = "http://127.0.0.1:8081/v1"
    """An OpenAI-compatible server."""
    llm_model: str = "default"
    """Which of the server's models."""
    llm_api_key: SecretStr = SecretStr("")
    """The key that the server asks for; empty: none."""
    llm_api_key_file: Path | None = None
    """A file whose first word is the key; used when LLM_API_KEY is empty."""
    llm_first_token_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds from the request to the first word."""
    llm_stall_s: float = Field(default=5.0, gt=0, le=600)
    """Seconds between two words."""
    llm_temperature: float | None = Field(default=None, ge=0, le=2)
    """How much chance there is in a reply; absent: as the server has it."""
    llm_max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a reply at most; absent: as the server has it."""
    llm_prefill: bool = False
    """Whether the server goes on with a last message of the assistant's (llama-server, vLLM), so that a reply whose
    worker died is finished by another. OpenAI's own begins a new one."""
    llm_capacity: int = Field(default=32, ge=1, le=10_000)
    """How many turns one worker asks for at once."""


class Refused(EngineError):
    """The server understood the request and refused it: asking again would not help."""


class OpenAI:
    """Implements ``workers.llm.engine.LlmEngine``, ``confirm_stopped`` and ``respond`` included."""

    name = "openai"

    def __init__(self) -> None:
        self.settings = load(OpenAISettings)
        self.capacity = self.settings.llm_capacity
        self.prefills = self.settings.llm_prefill
        self._client: Any = None
        self._root = ""
        self._options: dict[str, Any] = {}
        self._slots: Slots | None = None
        self._recognised = False
        self._unseen = 0
        self._key = ""
        self._watches: WeakKeyDictionary[CancelToken, Watch] = WeakKeyDictionary()

    async def load(self) -> None:
        """Make the client. A server that is down now is asked again at the first turn. Raises EngineError."""
        import openai

        settings = self.settings
        self._key = self._read_key()
        url = settings.llm_url.strip().rstrip("/")
        self._root = url.removesuffix("/v1")
        timeout = openai.Timeout(settings.llm_first_token_s + 5, connect=CONNECT_S)
        try:
            # Retries are this engine's own: only where nothing was said yet.
            self._client = openai.AsyncOpenAI(
                api_key=self._key, base_url=f"{self._root}/v1", timeout=timeout, max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bound]}, timeout=timeout),
            )  # fmt: skip
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except Exception:
            usable = False
        if not usable or len(url.split()) != 1:
            raise EngineError(f"LLM_URL={masked(url)[:80]}: expected http://host:port/v1")
        # These log every request's whole address, every look at a slot included.
        for library in CONNECTION_LIBRARIES:
            logging.getLogger(library).setLevel(logging.WARNING)
        wanted = {"temperature": settings.llm_temperature, "max_tokens": settings.llm_max_tokens}
        self._options = {name: value for name, value in wanted.items() if value is not None}
        await self._recognise()
        kind = f"llama-server, slots: {self._slots.count}" if self._slots else "no slots to watch"
        log.info(
            "model %s at %s (%s)", settings.llm_model, masked(url), kind if self._recognised else "does not answer"
        )

    async def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        """The words of ``respond``."""
        async with aclosing(self.respond(messages, language, cancel, Request())) as deltas:
            async for delta in deltas:
                if isinstance(delta, str):
                    yield delta

    async def respond(
        self, messages: Sequence[Message], language: str, cancel: CancelToken, request: Request
    ) -> AsyncGenerator[str | CallPiece | Call | Finish, None]:
        """Stream the answer; see ``workers.llm.engine``. One retry where nothing was said or called yet."""
        for attempt in (1, 2):
            said = False
            stream = self._stream(messages, cancel, request)
            try:
                async for delta in stream:
                    said = said or not isinstance(delta, CallPiece)
                    yield delta
                return
            except (Refused, ContextTooLong):
                raise
            except EngineError as error:
                if said or attempt == 2:
                    raise
                log.warning("the model server failed before the first word; asked once more: %s", error)
            finally:
                await stream.aclose()

    async def confirm_stopped(self, cancel: CancelToken) -> Observed:
        """What a llama-server's slot showed after the turn's stream was closed; other servers show nothing."""
        watch = self._watches.pop(cancel, None)
        if watch is None or self._slots is None:
            return Observed(False, "stream closed")
        return await self._slots.idle(watch)

    async def _stream(
        self, messages: Sequence[Message], cancel: CancelToken, request: Request
    ) -> AsyncGenerator[str | CallPiece | Call | Finish, None]:
        import openai

        settings = self.settings
        stream = watch = None
        waiting, limit = "its first word", settings.llm_first_token_s
        clock = asyncio.get_running_loop().time
        due = clock() + limit
        finish, usage, calls = "", None, PartialCalls()
        try:
            async with asyncio.timeout_at(due):
                extra: dict[str, Any] = {}
                if (slots := await self._recognise()) is not None:
                    watch = self._watches[cancel] = await slots.begin(cancel.session)
                    extra = {"return_progress": True}
                    if watch.slot is not None:
                        extra["id_slot"] = watch.slot
                elif self.prefills and messages[-1].role == "assistant":
                    extra = {"continue_final_message": True, "add_generation_prompt": False}  # as vLLM has it
                stream = await self._client.chat.completions.create(
                    model=settings.llm_model,
                    messages=[wire(message) for message in messages],
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_body=extra or None,
                    **{**self._options, **options(request)},
                )
            chunks = aiter(stream)
            while True:
                async with asyncio.timeout_at(due):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                choice = chunk.choices[0] if chunk.choices else None
                finish = (choice and choice.finish_reason) or finish
                # Usage, progress and reasoning come in chunks without content: none of them is spoken.
                usage = chunk.usage or usage
                delta = choice.delta.content if choice is not None and choice.delta else None
                called, pieces = calls.add(choice.delta.tool_calls if choice is not None and choice.delta else None)
                if watch is not None and slots is not None:
                    progress = "prompt_progress" in (chunk.model_extra or {})
                    slots.sent(watch, progress=progress, word=bool(delta) or called)
                if delta:
                    yield delta
                for piece in pieces:
                    yield piece
                if delta or called:
                    waiting, limit = "its next word", settings.llm_stall_s
                    due = clock() + limit
            if not self._recognised:
                self._unseen += 1
                self._recognised = self._unseen >= UNSEEN
            if waiting == "its first word" and finish != "stop":
                raise EngineError(_wordless(finish))
            for call in calls.whole():
                yield call
            shown, written = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            yield Finish(finish, shown or 0, written or 0)
        except TimeoutError as error:
            if not finish:
                raise EngineError(f"the model server did not send {waiting} within {limit:g} s") from error
        except openai.APITimeoutError as error:
            raise EngineError(f"the model server did not answer within {CONNECT_S:g} s") from error
        except openai.APIStatusError as error:
            raise self._refusal(error) from error
        except openai.APIConnectionError as error:
            raise EngineError(f"the model server cannot be reached: {_cause(error)}") from error
        except openai.APIError as error:
            raise EngineError(f"the model server failed: {self._reason(error)}") from error
        except (ValueError, OSError) as error:
            raise EngineError(f"the model server's answer broke off: {type(error).__name__}") from error
        except (AttributeError, LookupError, RecursionError, TypeError) as error:
            # The package takes any JSON for a chunk, and reads it when it is looked at.
            raise EngineError(f"the model server sent what is no piece of an answer: {type(error).__name__}") from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] in CONNECTION_LIBRARIES:
                raise EngineError(f"the model server's answer broke off: {type(error).__name__}") from error
            raise
        finally:
            if watch is not None and slots is not None:
                slots.end(watch)
            if stream is not None:
                await stream.close()

    async def _recognise(self) -> Slots | None:
        """The server's slots, if it is a llama-server; asked until it has answered once."""
        if not self._recognised:
            try:
                slots = await recognise(self._get)
            except NotYet:
                return None
            self._slots, self._recognised = self._slots or slots, True
        return self._slots

    async def _get(self, path: str, limit: float) -> tuple[int, Any]:
        import openai

        try:
            async with asyncio.timeout(limit):
                return 200, await self._client.get(self._root + path, cast_to=object)
        except openai.APIStatusError as error:
            return error.status_code, None
        except (openai.APIError, EngineError, TimeoutError, ValueError, OSError, RecursionError):
            return 0, None

    def _read_key(self) -> str:
        settings = self.settings
        if key := settings.llm_api_key.get_secret_value().strip():
            return _printable(key, "LLM_API_KEY")
        if settings.llm_api_key_file is None:
            return "none"
        try:
            words = settings.llm_api_key_file.read_text().split()
        except UnicodeDecodeError as error:
            raise EngineError(f"LLM_API_KEY_FILE={settings.llm_api_key_file}: is not text; expected the key") from error
        except OSError as error:
            raise EngineError(f"LLM_API_KEY_FILE={settings.llm_api_key_file}: {error.strerror}") from error
        if not words:
            raise EngineError(f"LLM_API_KEY_FILE={settings.llm_api_key_file}: is empty; expected the key")
        return _printable(words[0], f"LLM_API_KEY_FILE={settings.llm_api_key_file}")

    def _refusal(self, error: Any) -> EngineError:
        reason = self._reason(error)
        text = f"the model server answered {error.status_code}: {reason}"
        if error.status_code == 400 and "context" in f"{reason} {error.code}".lower():
            return ContextTooLong(text)
        return EngineError(text) if error.status_code >= 500 or error.status_code in RETRIED else Refused(text)

    def _reason(self, error: Any) -> str:
        """What the server said, in one line of at most 200 characters, without the key that it may repeat."""
        body = error.body
        if isinstance(body, dict):
            inner = body.get("error", body)
            body = inner.get("message", inner) if isinstance(inner, dict) else inner
        text = " ".join(str(body or error.message).split())
        return (text.replace(self._key, "***") if len(self._key) > 4 else text)[:200]


def _printable(key: str, source: str) -> str:
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EngineError(f"{source}: not a key; expected printable ASCII without spaces")
    return key


def _cause(error: BaseException) -> str:
    """The last cause's kind: its text may hold the address, and with it a password."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}{f' ({error.strerror})' if isinstance(error, OSError) and error.strerror else ''}"


def _wordless(finish: str) -> str:
    if finish == "length":
        return "the model server used up its tokens without a word; raise LLM_MAX_TOKENS or turn its reasoning off"
    return f"the model server's answer ended without a word ({finish or 'it broke off'})"
