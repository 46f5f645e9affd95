"""Chatterbox's speech tokens into sound while they are being sampled: small pieces first, then larger ones.

A piece is decoded with 25 tokens of what came before it and, except for the last one, with three tokens of what comes
after it, which is how far S3Gen's encoder looks ahead. Two pieces overlap by 20 ms, in which one is faded into the
other. One token is 40 ms: the samples of all pieces together are exactly those of the whole, 960 a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from workers.tts.engines.threaded import Sound

RATE = 24_000
SAMPLES = 960
"""Samples of one token: 25 tokens a second."""
VOCABULARY = 6561
"""Tokens from this one on are marks without a sound."""
SIZES = (15, 25, 40, 50)
"""How many new tokens start the first pieces; the last size is that of all others."""
CONTEXT = 25
AHEAD = 3
FADE = 480
"""Samples of two pieces' overlap; at most those of AHEAD tokens."""


class PieceWise:
    """One sentence's tokens on their way into sound. Not thread-safe: it lives in the model's thread."""

    def __init__(
        self,
        decode: Callable[[list[int], int], Sound],
        emit: Callable[[Sound, bool], None],
        sizes: Iterable[int] = SIZES,
    ) -> None:
        """``decode(tokens, number)`` gives SAMPLES samples a token for each piece; ``emit(sound, last)`` takes it."""
        self.tokens: list[int] = []
        """What was sampled, without marks."""
        self.voiced = 0
        """Tokens whose sound was emitted."""
        self._decode = decode
        self._emit = emit
        self._sizes = iter(sizes)
        self._size = next(self._sizes)
        self._pieces = 0
        self._overlap: Sound | None = None
        """How the piece before went on after its end."""

    def add(self, token: int) -> None:
        """Take the token that was sampled; emits a piece when there are enough for one."""
        if token >= VOCABULARY:
            return
        self.tokens.append(token)
        if len(self.tokens) - self.voiced >= self._size:
            self._size = next(self._sizes, self._size)
            self._piece(len(self.tokens) - AHEAD)

    def finish(self, tokens: list[int] | None = None) -> None:
        """The sampling is over: emit the rest. ``tokens``, if given, are all there are, and begin with those added."""
        if tokens is not None:
            if tokens[: len(self.tokens)] != self.tokens:
                raise ValueError("the tokens at the end are not those that were sampled")
            self.tokens = list(tokens)
        if len(self.tokens) > self.voiced:
            self._piece(len(self.tokens), last=True)

    def _piece(self, end: int, *, last: bool = False) -> None:
        """Emit the sound of the tokens up to ``end``."""
        start = max(0, self.voiced - CONTEXT)
        sound = self._decode(self.tokens[start:], self._pieces)
        if len(sound) != (len(self.tokens) - start) * SAMPLES:
            raise ValueError(f"{len(self.tokens) - start} tokens became {len(sound)} samples; expected {SAMPLES} each")
        new = sound[(self.voiced - start) * SAMPLES : (end - start) * SAMPLES].copy()
        if self._overlap is not None:
            fade = min(FADE, len(new))
            rise = np.linspace(0.0, 1.0, fade, dtype=np.float32)
            new[:fade] = self._overlap[:fade] * (1 - rise) + new[:fade] * rise
        self._overlap = sound[(end - start) * SAMPLES :][:FADE].copy()
        self._pieces += 1
        self.voiced = end
        self._emit(new, last)
