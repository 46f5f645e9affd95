"""Make words20.nemo: synthesise the speech, train on one CPU core for about 15 minutes, save with the scripts' hash.

A CTC head leads the encoder through its first steps and is thrown away in the end; the transducer's loss is added once
that works. All four attention contexts are trained at once, as NVIDIA's model is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from nemo.utils import logging as nemo_logging

from tests.words20 import MODEL, RECORD, VOICES, file_hash, scripts_hash
from tests.words20.speech import RATE, Spoken, corpus
from tests.words20.tiny import config, saved, seeded, tokenizer, transducer

UTTERANCES = 2400
PIECES = 96
BATCH = 16
STAGES = ((2500, 2e-3, 0), (2800, 1.5e-3, 1))
"""(steps, learning rate, seed) of each: the second starts from what the first has found, with its rate up again."""
CTC_ALONE = 900
"""Steps after which the transducer's loss joins at the latest; it does once the CTC loss is below CTC_LOW."""
CTC_LOW = 1.2
CTC_SHARE = 0.3

Example = tuple[torch.Tensor, torch.Tensor]
"""Mel frames [mels, frames] and tokens."""


def transducer_loss(
    log_probs: torch.Tensor, targets: torch.Tensor, frames: torch.Tensor, lengths: torch.Tensor, blank: int
) -> torch.Tensor:
    """The mean loss per token. ``log_probs`` is [batch, frame, token + 1, vocabulary]; a loop over frames only."""
    size, longest, width, _ = log_probs.shape
    blanks = log_probs[..., blank]
    labels = log_probs[:, :, :-1].gather(-1, targets[:, None, :, None].expand(size, longest, width - 1, 1)).squeeze(-1)
    labels = labels.masked_fill((torch.arange(width - 1)[None] >= lengths[:, None])[:, None], -30.0)
    sums = F.pad(labels.cumsum(-1), (1, 0))
    alpha = sums[:, 0] + blanks[:, 0]
    finals = [alpha]
    for frame in range(1, longest):
        alpha = sums[:, frame] + torch.logcumsumexp(alpha - sums[:, frame], dim=-1) + blanks[:, frame]
        finals.append(alpha)
    ends = torch.stack(finals, 1)[torch.arange(size), frames - 1, lengths]
    return (-ends / (lengths.float() + 1)).mean()


def wordless(count: int) -> list[Spoken]:
    """Noise and digital silence, so that the model learns to stay quiet."""
    noise = np.random.default_rng(0)
    found = []
    for _ in range(count):
        samples = noise.standard_normal(int(noise.uniform(0.5, 4) * RATE)) * 10 ** noise.uniform(-6, -2)
        found.append(Spoken("", (samples * (noise.random() > 0.3)).astype(np.float32)))
    return found


@torch.no_grad()
def examples(model: Any, spoken: list[Spoken]) -> list[Example]:
    """The features and tokens of utterances, 32 of a length at a time."""
    spoken = sorted(spoken, key=lambda each: len(each.samples))
    found = []
    for start in range(0, len(spoken), 32):
        some = spoken[start : start + 32]
        lengths = torch.tensor([len(each.samples) for each in some])
        audio = torch.zeros(len(some), int(lengths.max()))
        for row, each in enumerate(some):
            audio[row, : len(each.samples)] = torch.from_numpy(each.samples)
        mel, frames = model.preprocessor(input_signal=audio, length=lengths)
        for row, each in enumerate(some):
            tokens = torch.tensor(model.tokenizer.text_to_ids(each.text), dtype=torch.long)
            found.append((mel[row, :, : int(frames[row])].clone(), tokens))
    return found


def batches(found: list[Example]) -> Callable[[], list[Example]]:
    """What gives batches of similar length; a fifth of the examples are two, one after the other."""
    pool: list[list[Example]] = []

    def one() -> Example:
        mel, tokens = random.choice(found)
        if random.random() < 0.2:
            more_mel, more = random.choice(found)
            mel, tokens = torch.cat([mel, more_mel], 1), torch.cat([tokens, more])
        return mel, tokens

    def take() -> list[Example]:
        if not pool:
            drawn = sorted((one() for _ in range(BATCH * 8)), key=lambda each: each[0].shape[1])
            pool.extend(drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH))
            random.shuffle(pool)
        return pool.pop()

    return take


def train(model: Any, found: list[Example], steps: int, rate: float, seed: int, *, warm: bool) -> None:
    """One stage. ``warm``: the model knows something already, so the transducer's loss counts from the start."""
    random.seed(seed)
    seeded(seed)
    blank = model.tokenizer.vocab_size
    head = torch.nn.Linear(model.cfg.encoder.d_model, blank + 1)
    parts = (model.encoder, model.decoder, model.joint, head)
    weights = [weight for part in parts for weight in part.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-3, betas=(0.9, 0.98))
    take, average, joined, began = batches(found), 0.0, warm, time.time()
    model.train()
    for step in range(1, steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, step / 100) * (0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02)
        some = take()
        frames = torch.tensor([mel.shape[1] for mel, _ in some])
        lengths = torch.tensor([len(tokens) for _, tokens in some])
        mels = torch.zeros(len(some), some[0][0].shape[0], int(frames.max()))
        targets = torch.zeros(len(some), max(1, int(lengths.max())), dtype=torch.long)
        for row, (mel, tokens) in enumerate(some):
            mels[row, :, : mel.shape[1]] = mel
            targets[row, : len(tokens)] = tokens
        if step > 200:
            mels = model.spec_augmentation(input_spec=mels, length=frames)
        encoded, spans = model.encoder(audio_signal=mels, length=frames)
        encoded = encoded.transpose(1, 2)
        log_probs = head(encoded).log_softmax(-1).transpose(0, 1)
        each = F.ctc_loss(log_probs, targets, spans, lengths, blank=blank, zero_infinity=True, reduction="none")
        loss = by_ctc = (each / (lengths.float() + 1)).mean()
        average = by_ctc.item() if step == 1 else 0.97 * average + 0.03 * by_ctc.item()
        joined = joined or average < CTC_LOW or step > CTC_ALONE
        if joined:
            predicted, _, _ = model.decoder(targets=targets, target_length=lengths)
            joint = model.joint.joint(encoded, predicted.transpose(1, 2)).log_softmax(-1)
            loss = transducer_loss(joint, targets, spans, lengths, blank) + CTC_SHARE * by_ctc
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 100 == 0:
            print(f"{time.time() - began:5.0f} s, step {step} of {steps}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.words20.train", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=MODEL, help="where the model goes (default: %(default)s)")
    out = parser.parse_args().out
    nemo_logging.setLevel(nemo_logging.ERROR)
    torch.set_num_threads(1)
    made_by = scripts_hash()
    spoken = corpus(1, UTTERANCES, VOICES)
    print(f"{sum(len(each.samples) for each in spoken) / RATE / 60:.0f} minutes of speech", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        base = config(tokenizer((each.text for each in spoken), Path(folder) / "tokenizer", PIECES))
        seeded()
        model = transducer(base)
        model.eval()  # no dither
        found = examples(model, spoken + wordless(UTTERANCES // 25))
        for number, (steps, rate, seed) in enumerate(STAGES):
            train(model, found, steps, rate, seed, warm=number > 0)
        saved(model, out)
    record = {"scripts": made_by, "model": file_hash(out)}
    out.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"{out}: {out.stat().st_size} bytes; {RECORD.name} beside it")


if __name__ == "__main__":
    main()
