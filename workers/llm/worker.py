"""The LLM worker: answers one turn per claim, from the conversation as heard to sentences on the reply stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from pydantic_settings import BaseSettings, SettingsConfigDict

from bus.cancel import Cancelled, CancelToken
from bus.events import ReplyBegun, ReplyEnd, Said, Sentence, Stopped, ToolArguments, ToolCall
from bus.history import read
from bus.keys import session_key
from bus.leases import Lease
from bus.offers import TurnOffer
from bus.settings import load, no_arguments
from bus.streams import Bus
from workers.engines import EngineError
from workers.llm.engine import ContextTooLong, Message
from workers.llm.prompt import ContextSettings, Prompts, halved, tokens
from workers.llm.sentences import SentenceSplitter
from workers.llm.tools import Call, CallPiece, Finish, Request, read_request
from workers.process import main
from workers.runtime import HandOver, Life, Worker, until_cancelled
from workers.writer import Writer

log = logging.getLogger(__name__)

SUMMARY_S = 5.0
"""Seconds that a turn waits for the summary of what left its prompt."""


class FallbackSettings(BaseSettings):
    """What is said when a turn fails before anything was said."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", use_attribute_docstrings=True
    )

    fallback_text: str = "Sorry, I lost my train of thought. Please say that again."
    """One sentence. Empty: nothing is said; here an empty value does not count as absent."""


class LlmWorker(Worker):
    """Answers turns. Its engine is an ``LlmEngine``."""

    stage: ClassVar[str] = "llm"

    def __init__(
        self,
        bus: Bus,
        engine: Any,
        life: Life | None = None,
        *,
        fallback: str | None = None,
        context: ContextSettings | None = None,
    ) -> None:
        """``fallback`` and ``context`` are taken from the environment when they are None."""
        super().__init__(bus, engine, life)
        self.fallback = (load(FallbackSettings).fallback_text if fallback is None else fallback).strip()
        self.prompts = Prompts(context or load(ContextSettings))

    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Answer a turn; a cancelled one is stopped at its source and acknowledged."""
        answer = _Answer(self, lease, token)
        if token.cancelled:
            self.acknowledge(lease, Stopped(lease.turn, self.stage, "never_started"))
            return
        took = await until_cancelled(token, answer.write())
        if took is not None:
            ack = Stopped(
                lease.turn, self.stage, "stopped", took, tokens=answer.tokens, last=answer.sentences - 1,
                detail="stream closed",
            )  # fmt: skip
            if not hasattr(self.engine, "confirm_stopped"):
                self.acknowledge(lease, ack)
                return
            # Beside the serving: watching a server stop takes up no capacity, so it delays no other turn.
            watching = asyncio.create_task(self._confirm(lease, token, ack))
            self._serving.add(watching)
            watching.add_done_callback(self._serving.discard)

    async def _confirm(self, lease: Lease, token: CancelToken, ack: Stopped) -> None:
        """Acknowledge with what the engine saw of its server's stop; ``took`` is until idle, else until closed."""
        loop = asyncio.get_running_loop()
        closed = loop.time()
        try:
            seen = await self.engine.confirm_stopped(token)
            idle = (loop.time() - closed) * 1000 if seen.idle else 0.0
            ack = replace(ack, detail=seen.detail, took=ack.took + idle)
        except Exception:
            log.exception("turn %d of %s: cannot see whether the model stopped", lease.turn, lease.session)
        finally:
            self.acknowledge(lease, ack)

    async def give_up(self, lease: Lease, error: str) -> None:
        """Tell the session that the turn has no answer, or no more of one."""
        await _Answer(self, lease, CancelToken(lease.session, lease.turn)).abandon(error)


class _Answer:
    """One turn's answer on its way."""

    def __init__(self, worker: LlmWorker, lease: Lease, token: CancelToken) -> None:
        self.sentences = 0
        self.tokens = 0
        self._calls = 0
        """Calls that were published."""
        self._begun = 0
        """Calls of which something was published, by this worker or one before it."""
        self._places: dict[int, int] = {}
        """A call's number in this generation -> its index in the turn."""
        self._shown = 0
        """Tokens of the prompt."""
        self._finish = Finish()
        self._said: list[str] = []
        """Sentences that a worker before this one has published: the model goes on after them."""
        self._language = "en-US"
        self._splitter = SentenceSplitter(self._language)
        self._worker = worker
        self._lease = lease
        self._token = token
        self._writer = Writer(worker.bus, lease, token)

    async def write(self) -> None:
        """Generate, and write each sentence as soon as it is complete; then the end."""
        lease, bus = self._lease, self._worker.bus
        if lease.fence > 1 and await self._resolved():
            return
        offer = lease.offer
        assert isinstance(offer, TurnOffer)
        config = await bus.config(lease.session)
        self._language = config.get("language", self._language)
        self._splitter = SentenceSplitter(self._language)
        instructions = offer.instructions or config.get("instructions", "")
        request, given = read_request(offer.request)
        conversation = await read(bus, lease.session, offer.history) if given is None else given
        if offer.said:
            conversation.append(Said("", "user", offer.said))
        try:
            messages = list(await self._worker.prompts.build(lease.session, instructions, conversation, self._ask))
            if self._said:
                messages.append(Message("assistant", " ".join(self._said)))
            try:
                await self._generate(messages, request)
            except ContextTooLong as error:
                shorter = halved(messages)
                if self.tokens or len(shorter) == len(messages):
                    raise
                log.warning("turn %d of %s: asked again with half the history: %s", lease.turn, lease.session, error)
                await self._generate(shorter, request)
            self._flush()
            self._end("done")
        except EngineError as error:
            log.error("turn %d of %s: %s", lease.turn, lease.session, error)
            self._fail(str(error))
        except (Cancelled, HandOver):
            raise
        except Exception as error:
            log.exception("turn %d of %s failed", lease.turn, lease.session)
            self._fail(f"{type(error).__name__}: {error}")

    async def abandon(self, error: str) -> None:
        """End the turn as failed, unless a worker before this one has ended it."""
        if not await self._resolved():
            self._fail(error)
        if self._writer.last is not None:
            await self._writer.last

    async def _generate(self, messages: Sequence[Message], request: Request) -> None:
        self._shown = sum(tokens(message.text) for message in messages)
        async with aclosing(self._deltas(messages, request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Finish):
                    self._finish = delta
                    continue
                if not self.tokens:
                    self._writer.write("reply", ReplyBegun(self._lease.turn, self._lease.fence))
                self.tokens += 1
                if isinstance(delta, CallPiece | Call):
                    self._flush()
                    self._piece(delta) if isinstance(delta, CallPiece) else self._call(delta)
                    continue
                for sentence in self._splitter.push(delta):
                    self._sentence(sentence)
                    if self._worker.draining.is_set() and self._continues and not self._begun:
                        raise HandOver

    @property
    def _continues(self) -> bool:
        """Whether the model goes on with an answer that was begun."""
        return bool(getattr(self._worker.engine, "prefills", False))

    def _deltas(self, messages: Sequence[Message], request: Request) -> Any:
        engine = self._worker.engine
        if hasattr(engine, "respond"):
            return engine.respond(messages, self._language, self._token, request)
        if request.tools:
            log.warning("the engine %s cannot call functions: the turn is answered without", engine.name)
        return engine.reply(messages, self._language, self._token)

    async def _ask(self, messages: Sequence[Message], longest: int) -> str:
        """Ask the model for at most ``longest`` characters. Raises EngineError.

        As a session of its own, so that a server which keeps a cache per session keeps the conversation's.
        """
        token = CancelToken(f"{self._lease.session}:summary", self._lease.turn)
        self._token.on_cancel(token.cancel)
        text = ""
        try:
            async with (
                asyncio.timeout(SUMMARY_S),
                aclosing(self._worker.engine.reply(messages, self._language, token)) as deltas,
            ):
                async for delta in deltas:
                    text += delta
                    if len(text) >= longest:
                        break
        except TimeoutError as error:
            raise EngineError(f"it was not ready within {SUMMARY_S:g} s") from error
        if not text.strip():
            raise EngineError("it was empty")
        return text

    async def _resolved(self) -> bool:
        """Whether a worker before this one has got so far that nothing may be generated again."""
        lease = self._lease
        entries = await self._worker.bus.replay(session_key(lease.session, "reply"))
        written = [entry.event for entry in entries if getattr(entry.event, "turn", 0) == lease.turn]
        if any(isinstance(event, ReplyEnd) for event in written):
            return True
        said = [event.text for event in written if isinstance(event, Sentence)]
        self.sentences = len(said)
        self._begun = max((event.index + 1 for event in written if isinstance(event, ToolArguments)), default=0)
        if any(isinstance(event, ToolCall) for event in written):
            self._end("done")  # what was called is whole, and what comes of it is another turn
            return True
        if self.sentences and self._continues and not self._token.cancelled:
            self._said = said
        elif self.sentences:
            self._end("failed", "the worker that answered died in mid-reply; what it had said stands")
            return True
        return False

    def _flush(self) -> None:
        for sentence in self._splitter.finish():
            self._sentence(sentence)

    def _fail(self, error: str) -> None:
        """End the turn as failed after what was said; when that is nothing, after the fallback."""
        self._flush()
        if not self.sentences and not self._calls and self._worker.fallback:
            self._sentence(self._worker.fallback)
        self._end("failed", error)

    def _sentence(self, text: str) -> None:
        lease = self._lease
        self._writer.write("reply", Sentence(lease.turn, lease.fence, self.sentences, text))
        self.sentences += 1

    def _piece(self, piece: CallPiece) -> None:
        """A piece from the beginning is a call of its own, whatever became of one of that number before."""
        lease, (index, call_id) = self._lease, self._name(piece.number, anew=not piece.start)
        told = ToolArguments(lease.turn, lease.fence, index, call_id, piece.name, piece.start, piece.text)
        self._writer.write("reply", told)

    def _call(self, call: Call) -> None:
        lease, (index, call_id) = self._lease, self._name(self._calls)
        self._writer.write("reply", ToolCall(lease.turn, lease.fence, index, call_id, call.name, call.arguments))
        self._calls += 1

    def _name(self, number: int, *, anew: bool = False) -> tuple[int, str]:
        """A call's index and its id, which is the turn's own: servers give the same one twice."""
        if anew or number not in self._places:
            self._places[number], self._begun = self._begun, self._begun + 1
        index, session = self._places[number], self._lease.session.replace("-", "_")
        return index, f"call_{session}_{self._lease.turn}_{index}"

    def _end(self, reason: str, error: str = "") -> None:
        lease, finish = self._lease, self._finish
        end = ReplyEnd(
            lease.turn, lease.fence, reason, self.sentences, finish.tokens or self.tokens, error,
            finish.prompt_tokens or self._shown, "length" if finish.reason == "length" else "",
        )  # fmt: skip
        self._writer.write("reply", end)


if __name__ == "__main__":
    no_arguments("workers.llm.worker", __doc__)
    main(LlmWorker)
