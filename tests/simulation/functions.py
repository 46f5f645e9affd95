"""Functions that scripted models call: what with, what clients make of it, and whether all of it stands.

Every call has arguments that no other has: its own number, and that of the generation it came in.
"""

from __future__ import annotations

import contextvars
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bus.events import Said, ToolCall
from workers.llm.engine import Message
from workers.llm.tools import PENDING

if TYPE_CHECKING:
    from gateway.session import Session
    from tests.simulation.line import Line
    from tests.simulation.world import World

TAKES = (0.02, 3.0)
"""Seconds that a function takes."""


class Made:
    """Every call that any scripted model has made, and what came of it."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self.results: dict[str, str] = {}
        """Call id -> what the client made of it."""
        self._fail = fail
        self._calls = self._generations = 0
        self._ids: dict[str, str] = {}

    def generation(self) -> int:
        """The number of one more generation."""
        self._generations += 1
        return self._generations

    def arguments(self, generation: int) -> str:
        """Of one more call, in the generation of that number."""
        self._calls += 1
        return json.dumps({"call": self._calls, "generation": generation})

    def told(self, call_id: str, arguments: str) -> None:
        """A client is told of a call, which has one id and no other."""
        if self._ids.setdefault(arguments, call_id) != call_id:
            self._fail(f"the call with {arguments} is told as {self._ids[arguments]} and as {call_id}")

    def prompt(self, messages: Sequence[Message]) -> None:
        """A model is shown each call once, and right behind it what came of it, or that this will follow."""
        seen = Counter(call.call_id for message in messages for call in message.calls)
        seen.update(message.call_id for message in messages if message.role == "tool")
        expected: list[str] = []
        for message in messages:
            if expected and message.call_id != expected[0]:
                self._fail(f"the prompt has {message.role} {message.text[:40]!r} before the output of {expected[0]}")
                return
            del expected[:1]
            expected += [call.call_id for call in message.calls]
            if message.role == "tool" and message.text not in (PENDING, self.results.get(message.call_id)):
                self._fail(f"the prompt says {message.text!r} of {message.call_id}")
        if expected or any(times != 2 for times in seen.values()):
            self._fail(f"the prompt has calls without output, or twice: {expected} {seen}")


class Functions:
    """Those of one client: it carries each call out once, and says what came of it until that stands."""

    def __init__(self, world: World, name: str) -> None:
        self.session: Session | Line | None = None
        self.told: set[str] = set()
        """Every call that it knows of."""
        self.over = False
        """Whether it hangs up, and says nothing more."""
        self._world, self._name = world, name
        self._rng: random.Random = world.rng(f"functions/{name}")
        self._here: set[str] = set()
        """Those that it was told of on this connection."""
        self._shown: dict[str, str] = {}
        self._results: dict[str, str] = {}
        self._pending = 0
        self._context = contextvars.copy_context()
        """The caller's, whose functions go on when a gateway dies."""

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being carried out or to be said."""
        return not self._pending

    def calling(self, call_id: str, arguments: str) -> None:
        """The model is calling one: so much of its arguments is known."""
        before = self._shown.get(call_id, "")
        if call_id in self._here or not arguments.startswith(before) or arguments == before:
            self._fail(f"{call_id} is being called with {arguments!r} after {before!r}")
        self._shown[call_id] = arguments

    def called(self, call_id: str, arguments: str) -> None:
        """The model calls one."""
        if call_id in self._here:
            self._fail(f"{call_id} is told twice")
        if not arguments.startswith(self._shown.get(call_id, "")):
            self._fail(f"{call_id} has {arguments!r}, shown was {self._shown[call_id]!r}")
        self._here.add(call_id)
        self._world.made.told(call_id, arguments)
        self._begin(call_id)

    def recalled(self, messages: Sequence[Said]) -> None:
        """The client is back: what it never heard of it carries out now, and says what was lost on the way."""
        self._shown.clear()
        calls = {said.call_id: said.text for said in messages if said.role == "tool_call"}
        answered = {said.call_id for said in messages if said.role == "tool"}
        self._here = set(calls)
        for call_id, arguments in calls.items():
            self._world.made.told(call_id, arguments)
            self._begin(call_id)
        for call_id in sorted(self._results.keys() - answered):
            self._world.counts["results said again"] += 1
            self._later(0.02, lambda call_id=call_id: self._say(call_id))

    def _begin(self, call_id: str) -> None:
        if call_id in self.told:
            return
        self.told.add(call_id)
        self._world.counts["functions called"] += 1
        self._later(self._rng.uniform(*TAKES), lambda: self._done(call_id))

    def _done(self, call_id: str) -> None:
        text = f"what came of {call_id}"
        self._results[call_id] = self._world.made.results[call_id] = text
        self._say(call_id)

    def _say(self, call_id: str) -> None:
        session = self.session
        if self.over or session is None or session.ended.is_set():
            return
        if not getattr(session, "holds", True):
            return  # when it is back it is asked again
        self._world.note(self._name, f"says what came of {call_id}")
        session.say(Said(f"out_{call_id}", "tool", self._results[call_id], call_id=call_id))
        if self._rng.random() < 0.2:
            self._world.counts["results said twice"] += 1
            session.say(Said(f"again_{call_id}", "tool", "something else", call_id=call_id))
        if self._rng.random() < 0.9:
            session.respond()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._pending += 1

        def do() -> None:
            self._pending -= 1
            action()

        self._world.loop.call_later(seconds, do, context=self._context)

    def check(self, said: Sequence[Said], published: Sequence[ToolCall], completed: set[int], *, cut: bool) -> None:
        """After the call: the conversation has each call that the client knows of, once, and what came of it, once.

        ``published`` is what the models' workers wrote, ``completed`` the turns that were heard to their end, ``cut``
        whether the caller hung up in the midst of it.
        """
        calls = Counter(message.call_id for message in said if message.role == "tool_call")
        outputs = Counter(message.call_id for message in said if message.role == "tool")
        for what, counted in (("call", calls), ("output", outputs), ("published", _ids(published))):
            for call_id, times in counted.items():
                if times > 1:
                    self._fail(f"{what} {call_id} stands {times} times")
        for call_id in sorted(self.told - calls.keys()):
            self._fail(f"{call_id} was told and is not in the conversation")
        for message in said:
            if message.role == "tool" and message.text != self._results.get(message.call_id):
                self._fail(f"the conversation says {message.text!r} of {message.call_id}")
        if not cut and (lost := sorted(self._results.keys() - outputs.keys())):
            self._fail(f"what came of {lost} is lost")
        generations: dict[int, set[int]] = {}
        for event in published:
            generations.setdefault(event.turn, set()).add(json.loads(event.arguments)["generation"])
            if event.turn in completed and event.call_id not in self.told:
                self._fail(f"{event.call_id} of a completed turn was never told")
        if twice := [turn for turn, found in generations.items() if len(found) > 1]:
            self._fail(f"turns {twice} have calls of several generations")
        self._world.counts["outputs"] += len(outputs)

    def _fail(self, what: str) -> None:
        self._world.fail(f"{self._name}: {what}")


def _ids(published: Sequence[ToolCall]) -> Counter[str]:
    return Counter(event.call_id for event in published)
