"""Memory stays flat: sessions come and go, one after the other and many at once."""

import asyncio
import gc
from pathlib import Path

import pytest

pytest.importorskip("tests.workers.stt.nemo_world", reason="NeMo is not installed: make install-nemo")

import torch

from tests.words20 import MODEL
from tests.workers.stt.nemo_world import speech
from workers.stt.engines.nemo import Nemo

pytestmark = pytest.mark.nemo

FRAME = 2560
"""Bytes of 80 ms."""
FLAT = 1.01
"""What memory may grow to after a warm-up."""


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def call(engine, number):
    """A session of two utterances; every seventh hangs up in the middle of the second."""
    recognizer = await engine.open("en-US")
    for each in (speech()[number % 24], speech()[(number * 5 + 1) % 24]):
        await recognizer.begin()
        pcm = each.pcm if number % 7 else each.pcm[: len(each.pcm) // 4 * 2]
        for at in range(0, len(pcm), FRAME):
            await recognizer.feed(pcm[at : at + FRAME])
        if number % 7:
            await recognizer.flush()
    await recognizer.close()


async def soaked(monkeypatch, tmp_path, device, memory, one_by_one, at_once, rounds):
    """Memory (bytes) after the warm-up, and the most there was after it."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "STT_MODEL": MODEL, "STT_DEVICE": device, "STT_CAPACITY": at_once, "STT_ATT_CONTEXT": "70,6", "STT_THREADS": 1,
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    engine = Nemo()
    await engine.load()

    async def many(first):
        await asyncio.gather(*(call(engine, first + number) for number in range(at_once)))

    for number in range(one_by_one // 4):
        await call(engine, number)
    for number in range(2 * rounds):
        # Batches of every size must have been there: torch keeps what it prepared for each.
        await many(number)
    warm = memory()
    marks = []
    for number in range(one_by_one):
        await call(engine, number)
        if number % 10 == 9:
            marks.append(memory())
    for number in range(rounds):
        await many(number)
        marks.append(memory())
    assert len(engine._model._free) == at_once
    return warm, max(marks)


async def test_memory_is_flat_in_short(monkeypatch, tmp_path):
    """40 sessions one after the other, and three times 12 at once: no more than 1 % over the warmed-up process."""
    warm, most = await soaked(monkeypatch, tmp_path, "cpu", resident, 40, 12, 3)
    assert most <= FLAT * warm


@pytest.mark.slow
async def test_memory_is_flat(monkeypatch, tmp_path):
    """500 sessions one after the other and 50 at once."""
    warm, most = await soaked(monkeypatch, tmp_path, "cpu", resident, 500, 50, 4)
    assert most <= FLAT * warm


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA: torch sees no GPU here")
async def test_gpu_memory_is_flat(monkeypatch, tmp_path):
    """500 sessions one after the other and 50 at once: what torch has allocated after them is what it had before."""
    warm, most = await soaked(monkeypatch, tmp_path, "cuda", torch.cuda.memory_allocated, 500, 50, 4)
    assert most <= FLAT * warm
