"""What a language model must offer: the interface of every LLM engine."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bus.cancel import CancelToken
from workers.engines import EngineError
from workers.llm.tools import Call


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the prompt: ``role`` is system, user or assistant; ``text`` what was said and heard.

    An assistant's message may have ``calls`` of functions; each is followed by a message of role ``tool`` with its
    ``call_id``, whose text is what came of it.
    """

    role: str
    text: str
    calls: tuple[Call, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What an engine saw of a generation after its stream was closed: ``detail`` in words for the record.

    ``idle`` is true only when the server itself showed that it no longer works on it.
    """

    idle: bool
    detail: str


class ContextTooLong(EngineError):
    """The server refused the prompt for its length, before the first word: a shorter one may succeed."""


class LlmEngine(Protocol):
    """One model server. Constructed once per process; checks what it can in ``load``.

    An engine that can see whether its server has really stopped also offers ``async confirm_stopped(cancel) ->
    Observed``: called once after the iterator of a cancelled turn was closed, with the token that ``reply`` was
    given. It has limits of its own, raises nothing, and is never waited for by another turn.

    An engine with a true ``prefills`` goes on with a reply that was begun: the last message is then the assistant's,
    and what the iterator yields follows its text. One without is never asked to.

    An engine whose model can call functions, or that counts tokens, also offers ``respond(messages, language, cancel,
    request: Request) -> AsyncIterator[str | CallPiece | Call | Finish]``, which is then used instead of ``reply``: the
    same, and calls, whole, in the order in which they began, and a Finish at the end. Pieces of a call may come before
    it; whoever generates anew after some begins at ``number`` 0 again.
    """

    name: str
    capacity: int
    """How many turns one process answers at once (>= 1)."""

    def load(self) -> Awaitable[None]:
        """Prepare. Raises EngineError with the remedy. A model server that is merely down is not an error here."""

    def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        """Stream the answer as text deltas of any size.

        Closing the iterator must stop the generation at its source before ``aclose`` returns. Raises EngineError
        when the model fails, stalls or refuses; what was yielded before stands. Raises ContextTooLong when the
        prompt is longer than the model takes. ``cancel`` names the session and the turn.
        """
