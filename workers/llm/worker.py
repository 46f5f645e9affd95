"""The LLM worker: answers one turn per claim, from the conversation as heard to sentences on the reply stream."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import ClassVar

from bus.cancel import CancelToken
from bus.events import ReplyEnd, Said, Sentence, Stopped, ToolCall, TurnOffer
from bus.history import read
from bus.keys import session_key
from bus.leases import Lease
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.sentences import SentenceSplitter
from workers.process import main
from workers.runtime import Worker, Writer, until_cancelled

log = logging.getLogger(__name__)


class LlmWorker(Worker):
    """Answers turns. Its engine is an ``LlmEngine``."""

    stage: ClassVar[str] = "llm"

    async def serve(self, lease: Lease, token: CancelToken) -> None:
        """Answer a turn; a cancelled one is stopped at its source and acknowledged."""
        answer = _Answer(self, lease, token)
        if token.cancelled:
            self.acknowledge(lease, Stopped(lease.turn, self.stage, "never_started"))
            return
        took = await until_cancelled(token, answer.write())
        if took is not None:
            ack = Stopped(lease.turn, self.stage, "stopped", took=took, tokens=answer.tokens, last=answer.sentences - 1)
            self.acknowledge(lease, ack)

    async def give_up(self, lease: Lease, error: str) -> None:
        """Tell the session that the turn has no answer, or no more of one."""
        end = ReplyEnd(lease.turn, lease.fence, "failed", 0, error=error)
        await self.bus.post_guarded(lease.session, "reply", end, stage=self.stage, turn=lease.turn, fence=lease.fence)


class _Answer:
    """One turn's answer on its way."""

    def __init__(self, worker: LlmWorker, lease: Lease, token: CancelToken) -> None:
        self.sentences = 0
        self.tokens = 0
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
        language = config.get("language", "en-US")
        messages = prompt(
            offer.instructions or config.get("instructions", ""), await read(bus, lease.session, offer.history)
        )
        splitter = SentenceSplitter(language)
        try:
            async with aclosing(self._worker.engine.reply(messages, language, self._token)) as deltas:
                async for delta in deltas:
                    self.tokens += 1
                    for sentence in splitter.push(delta):
                        self._sentence(sentence)
            for sentence in splitter.finish():
                self._sentence(sentence)
            self._end("done")
        except EngineError as error:
            log.error("turn %d of %s: %s", lease.turn, lease.session, error)
            for sentence in splitter.finish():
                self._sentence(sentence)
            self._end("failed", str(error))

    async def _resolved(self) -> bool:
        """Whether a worker before this one has got so far that nothing may be generated again."""
        lease = self._lease
        entries = await self._worker.bus.replay(session_key(lease.session, "reply"))
        written = [entry.event for entry in entries if getattr(entry.event, "turn", 0) == lease.turn]
        if any(isinstance(event, ReplyEnd) for event in written):
            return True
        self.sentences = sum(isinstance(event, Sentence) for event in written)
        if self.sentences or any(isinstance(event, ToolCall) for event in written):
            self._end("failed", "the worker that answered died in mid-reply; what it had said stands")
            return True
        return False

    def _sentence(self, text: str) -> None:
        lease = self._lease
        self._writer.write("reply", Sentence(lease.turn, lease.fence, self.sentences, text))
        self.sentences += 1

    def _end(self, reason: str, error: str = "") -> None:
        lease = self._lease
        end = ReplyEnd(lease.turn, lease.fence, reason, self.sentences, self.tokens, error)
        self._writer.write("reply", end)


def prompt(instructions: str, conversation: list[Said]) -> list[Message]:
    """The messages for the model: the instructions, then the conversation as it was heard."""
    messages = [Message("system", instructions)] if instructions else []
    for said in conversation:
        if said.role in ("system", "user", "assistant") and said.name != "backchannel":
            messages.append(Message(said.role, said.text))
    return messages


if __name__ == "__main__":
    main(LlmWorker)
