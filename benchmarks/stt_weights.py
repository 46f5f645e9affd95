"""Models for ``benchmarks.stt_capacity``: the production architecture with random weights, talking at a human pace.

Speed does not depend on what the weights are, only on how many tokens the transducer writes. So its blank is biased
until it writes 3 to 4 a second, as in speech.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.words20 import MODEL
from tests.words20.tiny import config, seeded, tokenizer, transducer
from workers.stt.engines.nemo_model import Model, load, serving
from workers.stt.engines.nemo_rows import Rows
from workers.stt.engines.nemo_stream import Stream
from workers.stt.engines.nemo_words import Transcript

PACE = (3.0, 4.0)
"""Tokens a second."""
RATE = 16_000
STREAMS = 4
"""By how many the pace is measured."""


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise as loud as syllables, 16-bit."""
    count = int(seconds * RATE)
    chance = np.random.default_rng(seed)
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE + chance.uniform(0, 6))
    return (chance.standard_normal(count) * envelope * 3000).clip(-32768, 32767).astype("<i2")


@dataclass(frozen=True)
class Weights:
    """A model in a file, and how its blank is to be biased."""

    path: Path
    blanks: dict[str, tuple[float, float]]
    """For each context: the bias, and the tokens a second it leaves."""

    def set(self, asr: Any, context: Sequence[int]) -> None:
        """Bias a model's blank for a context."""
        with torch.no_grad():
            asr.joint.joint_net[-1].bias[-1] = self.blanks[_name(context)][0]


def make(folder: Path, *, tiny: bool, device: str, dtype: str, contexts: Iterable[Sequence[int]]) -> Weights:
    """The architecture of nemotron-speech-streaming-en-0.6b (24 layers of 1024, 600 M parameters), or the 20-word
    model of the tests, biased for each context. If ``folder`` has them, they are those.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, noted = folder / "model.nemo", folder / "blanks.json"
    if noted.exists():
        return Weights(path, json.loads(noted.read_text()))
    if tiny:
        asr = load(str(MODEL), None, device=device, dtype=dtype).asr
    else:
        chance = random.Random(0)
        words = ("".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(20_000))
        base = config(
            tokenizer(words, folder / "tokenizer", 1024), width=1024, layers=24, mels=128, channels=256, heads=8,
            predictor=640, predictor_layers=2,
        )  # fmt: skip
        seeded()
        asr = transducer(base).eval().to(device=device, dtype=getattr(torch, dtype))
    blanks = {_name(context): _slow_down(serving(asr, "the benchmark's model", context)) for context in contexts}
    asr.save_to(str(path))
    noted.write_text(json.dumps(blanks) + "\n")
    return Weights(path, blanks)


def _name(context: Sequence[int]) -> str:
    return ",".join(map(str, context))


def _slow_down(model: Model) -> tuple[float, float]:
    """Bias a model's blank until its pace is PACE; the bias, and the pace reached."""
    bias = model.asr.joint.joint_net[-1].bias.data
    encoded = _encoded(model)
    before = float(bias[-1])
    low, high, pace = -50.0, 50.0, 0.0
    for _ in range(40):
        middle = (low + high) / 2
        bias[-1] = before + middle
        pace = _pace(model, encoded)
        if pace > PACE[1]:
            low = middle
        elif pace < PACE[0]:
            high = middle
        else:
            break
    return float(bias[-1]), pace


@torch.inference_mode()
def _encoded(model: Model, seconds: float = 12.0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """What the encoder makes of STREAMS streams of noise, chunk by chunk: frames, how many count, the rows."""
    model.reserve(STREAMS)
    streams = [Stream(model.grid) for _ in range(STREAMS)]
    for number, stream in enumerate(streams):
        stream.append(noise(seconds, number).tobytes())
    chunks = []
    while streams[0].ready:
        frames = model.grid.lookback + model.grid.chunk
        rows = Rows(STREAMS, STREAMS, frames)
        rows.fill([(number, number, not chunks, frames, stream.unborn) for number, stream in enumerate(streams)])
        table = torch.from_numpy(rows.table).to(model.asr.device)
        mel = model._mel(np.stack([(stream.window() * 32768).astype(np.int16) for stream in streams]))
        chunks.append((*model._encode(mel, table, 1), table))
        for stream in streams:
            stream.advance()
    return chunks


@torch.inference_mode()
def _pace(model: Model, encoded: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Tokens a second of them."""
    model._decoder.reserve(STREAMS)
    transcripts = [Transcript() for _ in range(STREAMS)]
    frames = encoded[0][0].shape[2]
    for chunk in encoded:
        transcripts = model._decoder.decode(*chunk, transcripts, [frames] * STREAMS)
    seconds = STREAMS * len(encoded) * model.grid.step / RATE
    return sum(len(each.tokens) for each in transcripts) / seconds
