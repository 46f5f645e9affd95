"""The prompt: the instructions, then the conversation as it was heard, within the model's context.

What is too long loses its oldest exchanges. An exchange begins with what the user said (and system messages right
before it) and goes to the next; it leaves whole, so that no answer stands without its question. The instructions and
the newest exchange never leave.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol, TypeVar

from pydantic import Field

from bus.events import Said
from bus.settings import BusSettings
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.tools import Call, arranged

log = logging.getLogger(__name__)


class Spoken(Protocol):
    """What a message of any kind has."""

    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


M = TypeVar("M", bound=Spoken)

REMEMBERED = 1000
"""Sessions whose summary is kept."""
SUMMARISE = (
    "Summarise the conversation that follows, for yourself, in at most 80 words: names, facts, wishes and promises "
    "that matter later. Write nothing but the summary, in the language of the conversation."
)
SUMMARY = "What was said before, in short: "

Ask = Callable[[Sequence[Message], int], Awaitable[str]]
"""Ask the model once, for at most so many characters. Raises EngineError."""


class ContextSettings(BusSettings):
    """How much of a conversation the model is shown."""

    llm_context_tokens: int = Field(default=0, ge=0)
    """Tokens of the prompt at most, estimated as characters / 4; leave room for the answer. 0: no limit."""
    llm_context_policy: Literal["drop", "summarise"] = "drop"
    """What becomes of exchanges that leave the prompt, oldest first."""


def tokens(text: str) -> int:
    """An estimate: a token for every four characters, rounded up."""
    return -(-len(text) // 4)


def spoken(conversation: Sequence[Said]) -> list[Said]:
    """The messages that a model is shown: no backchannels, and each function call with what came of it."""
    return [said for said in arranged(conversation) if said.role != "user" or said.name != "backchannel"]


def messages(conversation: Sequence[Said]) -> list[Message]:
    """The same as messages of a prompt: the calls of a turn belong to its words."""
    found: list[Message] = []
    turn = -1
    for said in conversation:
        if said.role == "tool_call":
            call = Call(said.call_id, said.name, said.text)
            joins = bool(found) and found[-1].role == "assistant" and turn == said.turn
            before = found.pop() if joins else Message("assistant", "")
            found.append(Message("assistant", before.text, (*before.calls, call)))
        else:
            found.append(Message(said.role, said.text, call_id=said.call_id))
        turn = said.turn
    return found


def exchanges(messages: Sequence[M]) -> list[list[M]]:
    """Messages in whole exchanges; what comes before the first user message is one of its own."""
    groups: list[list[M]] = []
    system: list[M] = []
    for message in messages:
        if message.role == "system":
            system.append(message)
        elif message.role == "user" or not groups:
            groups.append([*system, message])
            system = []
        else:
            groups[-1] += [*system, message]
            system = []
    if system:
        groups = [*groups[:-1], [*groups[-1], *system]] if groups else [system]
    return groups


def within(groups: Sequence[Sequence[M]], budget: int) -> int:
    """How many exchanges must leave, oldest first, until the rest has at most ``budget`` tokens; never the newest."""
    sizes = [sum(tokens(message.text) for message in group) for group in groups]
    leaving = 0
    while leaving < len(groups) - 1 and sum(sizes[leaving:]) > budget:
        leaving += 1
    return leaving


def prompt(instructions: str, conversation: Sequence[Said], budget: int = 0, summary: str = "") -> list[Message]:
    """The messages for the model, of at most ``budget`` tokens where that is possible (0: no limit)."""
    head = [Message("system", text) for text in (instructions, summary and SUMMARY + summary) if text]
    groups = exchanges(spoken(conversation))
    if budget:
        groups = groups[within(groups, budget - sum(tokens(message.text) for message in head)) :]
    return head + messages([said for group in groups for said in group])


def halved(prompt: Sequence[Message]) -> list[Message]:
    """A prompt without the older half of its exchanges; unchanged when there is only one."""
    start = next((n for n, message in enumerate(prompt) if message.role != "system"), len(prompt))
    groups = exchanges(prompt[start:])
    leaving = min((len(groups) + 1) // 2, max(0, len(groups) - 1))
    return [*prompt[:start], *(message for group in groups[leaving:] for message in group)]


class Prompts:
    """Builds prompts, and keeps each session's summary of what has left; one that is lost is made again."""

    def __init__(self, settings: ContextSettings) -> None:
        self._budget = settings.llm_context_tokens
        self._summarises = settings.llm_context_policy == "summarise"
        self._summaries: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Session -> (item of the last message that the summary covers, summary)."""

    async def build(self, session: str, instructions: str, conversation: Sequence[Said], ask: Ask) -> list[Message]:
        """The messages for the model.

        When exchanges leave and are to be summarised, so many do that half of the budget is free again, so that the
        model is asked rarely: the turn waits for its summary. Without one they are dropped.
        """
        budget = self._budget
        if not (budget and self._summarises):
            return prompt(instructions, conversation, budget)
        rest, summary = self._uncovered(session, spoken(conversation))
        groups = exchanges(rest)
        room = budget - tokens(instructions) - (tokens(SUMMARY + summary) if summary else 0)
        if within(groups, room):
            longest = budget  # characters: a quarter of the budget in tokens
            leaving = within(groups, max(0, budget // 2 - tokens(instructions)))
            left = [said for group in groups[:leaving] for said in group]
            try:
                summary = (await ask(_request(left, summary), longest)).strip()[:longest]
                self._remember(session, left[-1].item, summary)
                rest = [said for group in groups[leaving:] for said in group]
            except EngineError as error:
                log.warning("%s: no summary of what left the prompt: %s", session, error)
        return prompt(instructions, rest, budget, summary)

    def _uncovered(self, session: str, messages: list[Said]) -> tuple[list[Said], str]:
        if session not in self._summaries:
            return messages, ""
        item, summary = self._summaries[session]
        covered = next((n for n, said in enumerate(messages, 1) if said.item == item), 0)
        return messages[covered:], summary if covered else ""

    def _remember(self, session: str, item: str, summary: str) -> None:
        self._summaries[session] = (item, summary)
        self._summaries.move_to_end(session)
        while len(self._summaries) > REMEMBERED:
            self._summaries.popitem(last=False)


def _request(left: Sequence[Said], summary: str) -> list[Message]:
    lines = [f"before: {summary}"] if summary else []
    lines += [f"{said.role}: {said.text}" for said in left]
    return [Message("system", SUMMARISE), Message("user", "\n".join(lines))]
