"""Leaving Chatterbox in the middle of a model step: hooks that raise.

Forward pre-hooks on the blocks of T3 and S3Gen ask whether the synthesis is still wanted, and raise ``Aborted`` where
it is not: at most the one block that was running when the cancel came is finished. The library is not changed.

T3's transformer runs once per speech token; its layers are hooked too, so that the long first pass stops within.
S3Gen's flow calls its estimator's ``forward`` directly, past any hook on it: its children are hooked instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SPY = "attention_forward_hook"
"""The name of the hooks that Multilingual adds at every generate, on three layers, and never removes."""


class Aborted(Exception):
    """The synthesis was no longer wanted; the model has been left."""


@dataclass(slots=True)
class Watch:
    """One synthesis as its hooks see it. Its fields belong to the model's thread."""

    wanted: Callable[[], bool]
    """Asked before every block; from the model's thread."""
    on_token: Callable[[int], None] = field(default=lambda token: None)
    """Called with each speech token as it is sampled, before the next one is begun."""
    blocks: int = 0
    """Blocks begun."""
    late: int = 0
    """Blocks begun though the synthesis was no longer wanted."""
    sampled: int = 0
    """Speech tokens sampled."""
    total: int | None = None
    """How many there will be; None while they are being sampled."""
    voiced: int = 0
    """Of those, the ones whose sound was given out."""


class AbortHooks:
    """The hooks of one loaded model: installed once, idle between syntheses. One synthesis at a time."""

    def __init__(self, t3: Any, s3gen: Any) -> None:
        """``t3`` and ``s3gen`` are those of a ChatterboxTTS, its Multilingual or its Turbo sister."""
        self._t3 = t3
        self._watch: Watch | None = None
        self._one_at_a_time = threading.Lock()
        self.blocks = _blocks(t3, s3gen)
        """The hooked modules."""
        self._handles = [block.register_forward_pre_hook(self._check) for block in self.blocks]
        # A hook of its own, after the one that raises: what it counts was really begun.
        self._handles += [block.register_forward_pre_hook(self._count) for block in self.blocks]
        self._handles.append(t3.speech_emb.register_forward_hook(self._tap))

    def run(self, watch: Watch, work: Callable[[], None]) -> bool:
        """Let ``watch`` decide about everything the model does in ``work``; whether it came to its end.

        Afterwards nothing of the synthesis is left in the model: no hook that it added, and no exception whose frames
        would hold the key-value cache.
        """
        with self._one_at_a_time:
            self._watch = watch
            try:
                work()
            except Aborted:
                return False
            finally:
                self._watch = None
                self._heal()
        return True

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()

    def _check(self, module: Any, arguments: Any) -> None:
        if self._watch is not None and not self._watch.wanted():
            raise Aborted

    def _count(self, module: Any, arguments: Any) -> None:
        if self._watch is not None:
            self._watch.blocks += 1
            self._watch.late += not self._watch.wanted()

    def _tap(self, module: Any, arguments: Any, output: Any) -> None:
        # The embedding of one token is that of the token sampled last; prompts are longer, or start marks.
        if self._watch is not None and arguments[0].numel() == 1:
            self._watch.on_token(int(arguments[0]))

    def _heal(self) -> None:
        """Remove what version 0.1.7 leaves behind after every generate: its backend, and Multilingual's three spies."""
        if self._t3._modules.get("patched_model") is not None:
            self._t3.patched_model = None
        for layer in getattr(self._t3.tfmr, "layers", ()):
            hooks = layer.self_attn._forward_hooks
            for key in [key for key, hook in hooks.items() if getattr(hook, "__name__", "") == SPY]:
                del hooks[key]


def _blocks(t3: Any, s3gen: Any) -> list[Any]:
    """Every module between whose forwards there is time to stop, in no particular order."""
    transformer, flow, vocoder = t3.tfmr, s3gen.flow, s3gen.mel2wav
    blocks = [transformer, *(getattr(transformer, "layers", None) or transformer.h)]
    estimator = flow.decoder.estimator
    for part in (*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks):
        blocks += [part[0], *part[1]]
    blocks += [flow.encoder, *flow.encoder.encoders, *flow.encoder.up_encoders]
    blocks += [vocoder.f0_predictor, *vocoder.ups, *vocoder.resblocks, *vocoder.source_resblocks]
    return blocks
