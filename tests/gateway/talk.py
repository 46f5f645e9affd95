"""A conversation of the turn logic under test."""

from gateway.conductor import policy
from gateway.duplex import Duplex
from gateway.floor import Conversation
from gateway.inputs import (
    FirstAudio,
    SetTimer,
    SpeechEnded,
    SpeechPaused,
    SpeechStarted,
    StopTimer,
    Words,
)  # fmt: skip
from gateway.turns import TurnState


class Talk:
    """A conversation under test: inputs in, the actions that matter out."""

    def __init__(self, rules=None):
        self.state = Conversation(rules=rules or Duplex())
        self.now = 0.0

    def __call__(self, kind, *fields, after=0.0, quiet=True):
        self.now += after
        self.state, actions = policy(self.state, kind(self.now, *fields))
        return [action for action in actions if not (quiet and isinstance(action, SetTimer | StopTimer))]

    def utterance(self, text, number):
        """The caller says something, to its end and its text."""
        actions = self(SpeechStarted, 0, after=1)
        actions += self(SpeechPaused, 16_000, after=0.5)
        actions += self(Words, number, 1, text, True, after=0.1)
        return actions + self(SpeechEnded, 20_000, after=0.2)

    def speaking(self):
        """Bring the conversation to the first turn being heard."""
        self.utterance("hello", 1)
        assert self(FirstAudio, 1, after=0.5) == []
        assert self.state.turn.state is TurnState.SPEAKING
        return self
