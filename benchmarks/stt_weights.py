"""Models for ``benchmarks.stt_capacity``: the production architecture with random weights, talking at a human pace.

Speed does not depend on what the weights are, only on how many tokens the transducer writes. So its blank is biased
until it writes 3 to 4 a second, as in speech.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from tests.words20 import MODEL
from tests.words20.tiny import config, saved, seeded, tokenizer, transducer
from workers.stt.engines.nemo_model import Job, Model, load

PACE = (3.0, 4.0)
"""Tokens a second."""
RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise as loud as syllables, 16-bit."""
    count = int(seconds * RATE)
    chance = np.random.default_rng(seed)
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE + chance.uniform(0, 6))
    return (chance.standard_normal(count) * envelope * 3000).clip(-32768, 32767).astype("<i2")


def make(folder: Path, *, tiny: bool, device: str, dtype: str) -> tuple[Path, float]:
    """A .nemo file and the tokens a second it writes for noise: the architecture of
    nemotron-speech-streaming-en-0.6b (24 layers of 1024, 600 M parameters), or the 20-word model of the tests.
    """
    path = folder / "model.nemo"
    if tiny:
        path.write_bytes(MODEL.read_bytes())
    else:
        chance = random.Random(0)
        words = ("".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(20_000))
        base = config(
            tokenizer(words, folder / "tokenizer", 1024), width=1024, layers=24, mels=128, channels=256, heads=8,
            predictor=640, predictor_layers=2,
        )  # fmt: skip
        seeded()
        saved(transducer(base), path)
    return path, _slow_down(path, device, dtype)


def _slow_down(path: Path, device: str, dtype: str) -> float:
    """Bias the blank of the model in a file until its pace is PACE; the pace reached."""
    model = load(str(path), None, device=device, dtype=dtype)
    bias = model.asr.joint.joint_net[-1].bias
    before = float(bias[-1])
    low, high, pace = -50.0, 50.0, 0.0
    for _ in range(40):
        middle = (low + high) / 2
        bias.data[-1] = before + middle
        pace = _pace(model)
        if pace > PACE[1]:
            low = middle
        elif pace < PACE[0]:
            high = middle
        else:
            break
    model.asr.save_to(str(path))
    return pace


def _pace(model: Model, seconds: float = 12.0) -> float:
    """Tokens a second of a few streams of noise."""
    model.reserve(4)
    hearings: list[Any] = [model.open() for _ in range(4)]
    for number, hearing in enumerate(hearings):
        hearing.stream.append(noise(seconds, number).tobytes())
    steps = 0
    while hearings[0].stream.ready:
        model.step([Job(hearing) for hearing in hearings])
        steps += 1
    tokens = sum(len(hearing.heard.transcript.tokens) for hearing in hearings)
    return tokens / (len(hearings) * steps * model.grid.step / RATE)
