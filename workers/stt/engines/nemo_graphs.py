"""Work for the GPU, recorded once for each shape and started anew with one call: no Python between its kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

SIZES = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""How many rows a recorded batch may have; a smaller one is filled up."""


def size_for(count: int) -> int:
    """The next of SIZES. Raises StopIteration above the last."""
    return next(size for size in SIZES if size >= count)


class Graphs:
    """Recorded work. Where ``enabled`` is false it is simply done, as on a CPU. One thread owns it.

    All recordings share their memory: what one returns holds until the next one of any kind starts, so it must have
    gone elsewhere by then, unless it was recorded before that.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Sequence[torch.Tensor], Any]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def clear(self) -> None:
        """Forget what was recorded: the tensors it works on are about to be others."""
        self._recorded.clear()
        self._pool = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._recorded

    def __call__(self, key: Hashable, work: Callable[..., Any], *inputs: torch.Tensor) -> Any:
        """What ``work`` makes of the inputs: anew if nothing is recorded under ``key``, else by the recording."""
        recorded = self._recorded.get(key)
        if recorded is None:
            return work(*inputs)
        graph, given, result = recorded
        for into, each in zip(given, inputs, strict=True):
            into.copy_(each)
        graph.replay()
        return result

    def record(self, key: Hashable, work: Callable[..., Any], *inputs: torch.Tensor) -> None:
        """Record ``work``, which is done twice meanwhile, with these inputs of the shape to come."""
        if not self.enabled or key in self._recorded:
            return
        self._stream = self._stream or torch.cuda.Stream()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        given = [each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            work(*given)
            work(*given)
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work(*given)
            finally:
                graph.capture_end()
        torch.cuda.synchronize()
        self._recorded[key] = (graph, given, result)
