"""What a language model must offer: the interface of every LLM engine."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bus.cancel import CancelToken


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the prompt: ``role`` is system, user or assistant; ``text`` what was said and heard."""

    role: str
    text: str


class LlmEngine(Protocol):
    """One model server. Constructed once per process; checks what it can in ``load``."""

    name: str
    capacity: int
    """How many turns one process answers at once (>= 1)."""

    def load(self) -> Awaitable[None]:
        """Prepare. Raises EngineError with the remedy. A model server that is merely down is not an error here."""

    def reply(self, messages: Sequence[Message], language: str, cancel: CancelToken) -> AsyncIterator[str]:
        """Stream the answer as text deltas of any size.

        Closing the iterator must stop the generation at its source before ``aclose`` returns. Raises EngineError
        when the model fails, stalls or refuses; what was yielded before stands.
        """
