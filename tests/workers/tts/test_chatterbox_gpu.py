"""On a GPU: a cancel stops the model before its next block, and the next sentence is whole. Skipped without one."""

import random

import pytest

pytest.importorskip("chatterbox", reason="chatterbox-tts is not installed here: make test-chatterbox")

import numpy as np
import torch

from tests.workers.tts.test_chatterbox import OTHER, SENTENCE, caches, leave, loaded, say

pytestmark = [
    pytest.mark.chatterbox,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA: torch sees no GPU here"),
]


@pytest.mark.parametrize("variant", ["english", "turbo"])
def test_a_synthesis_left_on_the_gpu_leaves_nothing_behind(variant):
    """20 cancels anywhere: no block ends after them, no cache lives, the next sentence is what it would have been."""
    model = loaded(variant, "cuda")
    reference, _ = say(model, OTHER, limit=25)
    _, watch = say(model, SENTENCE)
    chance, phases = random.Random(3), set()
    for _ in range(20):
        left = leave(model, chance.randrange(1, watch.blocks))
        phases.add(left.phase)
        assert (left.watch.late, left.finished_after) == (0, 0)
        assert caches() == 0
    assert phases == {"t3", "s3gen"}
    again, _ = say(model, OTHER, limit=25)
    assert np.array_equal(again, reference)


def test_memory_of_the_gpu_is_flat():
    """100 cancels later torch has allocated what it had."""
    model = loaded("english", "cuda")
    _, watch = say(model, SENTENCE)
    chance = random.Random(4)
    leave(model, watch.blocks // 2)
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        leave(model, chance.randrange(1, watch.blocks))
    assert torch.cuda.memory_allocated() <= 1.01 * before
