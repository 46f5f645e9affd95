"""What the tests of the nemo engine share: models, speech, NeMo's own answer for a whole recording."""

from __future__ import annotations

import contextlib
import functools
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

from tests.words20 import HELD_OUT, MODEL, VOICES
from tests.words20.speech import Spoken, corpus, say
from tests.words20.tiny import config, ctc, hybrid, saved, seeded
from tests.words20.train import examples
from workers.stt.engines.nemo_model import Hearing, Job, Model, load

CONTEXTS = ([70, 13], [70, 6], [70, 1], [70, 0])
SESSIONS = 24

torch.set_num_threads(1)


@functools.cache
def model(frames: tuple[int, int] = (70, 13), path: str = str(MODEL), continuous: bool = True) -> Model:
    """A model on the CPU with places for SESSIONS sessions; the trained one unless told otherwise."""
    loaded = load(path, frames, device="cpu", dtype="float32", continuous=continuous)
    loaded.reserve(SESSIONS + 1)
    return loaded


@functools.cache
def speech(seed: int = 7, count: int = SESSIONS, longest: int = 4) -> tuple[Spoken, ...]:
    """Utterances in voices that the model has never heard, no word following itself."""
    return tuple(corpus(seed, count, HELD_OUT, longest, repeats=False))


def spoken(words: str, voice: str = HELD_OUT[0], before: float = 0.3, after: float = 0.2) -> bytes:
    """16-bit audio of the words, with seconds of silence around them as a gateway's pre-roll and pause leave it."""
    samples = say(words, voice) * 0.8
    loud = np.nonzero(np.abs(samples) > 0.02)[0]
    silences = [np.zeros(int(seconds * 16_000), np.float32) for seconds in (before, after)]
    return (np.concatenate([silences[0], samples[: loud[-1] + 1], silences[1]]) * 32767).astype("<i2").tobytes()


def padded(pcm: bytes, model: Model, silence: int = 0) -> bytes:
    """Audio and ``silence`` samples after it, up to a whole number of steps."""
    step = 2 * model.grid.step
    return pcm.ljust(-(-(len(pcm) + 2 * silence) // step) * step, b"\0")


@contextlib.contextmanager
def untouched(asr: Any) -> Iterator[None]:
    """While it lasts, the encoder's layers are NeMo's own."""
    ours = {part: part.__dict__.pop("forward") for part in asr.encoder.layers.modules() if "forward" in vars(part)}
    assert len(ours) == 3 * len(asr.encoder.layers)
    try:
        yield
    finally:
        for part, forward in ours.items():
            part.forward = forward


def whole_file(model: Model, pcm: bytes) -> list[str]:
    """The text after each step as NeMo has it when it is given the whole recording at once."""
    with torch.inference_mode(), untouched(model.asr):
        return _whole_file(model, pcm)


def _whole_file(model: Model, pcm: bytes) -> list[str]:
    asr = model.asr
    buffer = CacheAwareStreamingAudioBuffer(model=asr, online_normalization=False, pad_and_drop_preencoded=True)
    buffer.append_audio(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    channel, past, length = asr.encoder.get_initial_cache_state(batch_size=1)
    texts, before, tokens = [], None, None
    for frames, lengths in buffer:
        tokens, said, channel, past, length, before = asr.conformer_stream_step(
            processed_signal=frames,
            processed_signal_length=lengths,
            cache_last_channel=channel,
            cache_last_time=past,
            cache_last_channel_len=length,
            keep_all_outputs=False,
            previous_hypotheses=before,
            previous_pred_out=tokens,
            drop_extra_pre_encoded=asr.encoder.streaming_cfg.drop_extra_pre_encoded,
            return_transcription=True,
        )
        texts.append(said[0] if isinstance(said[0], str) else said[0].text)
    return texts


def live(model: Model, hearing: Hearing, pcm: bytes, seed: int = 0) -> list[str]:
    """The text after each step when the audio comes in pieces of 20 to 80 ms."""
    chance, at, texts = random.Random(seed), 0, []
    while at < len(pcm):
        size = 2 * chance.randint(320, 1280)
        hearing.stream.append(pcm[at : at + size])
        at += size
        while hearing.stream.ready:
            texts += [heard.text for heard in model.step([Job(hearing)])]
    return texts


def flushed(model: Model, hearing: Hearing) -> str:
    """The text with the last word."""
    (heard,) = model.step([Job(hearing, flush=True)])
    return heard.text


def grafted(folder: Path) -> dict[str, str]:
    """.nemo files with the trained encoder: a ``hybrid`` with its transducer, a ``ctc`` with a head fitted to it."""
    trained = model().asr
    (folder / "tokenizer.model").write_bytes(trained.tokenizer.tokenizer.serialized_model_proto())
    (folder / "vocab.txt").write_text("\n".join(trained.tokenizer.vocab) + "\n")
    base = config(folder)
    paths = {}
    for name, make in {"ctc": ctc, "hybrid": hybrid}.items():
        seeded()
        made = make(base)
        made.load_state_dict(trained.state_dict(), strict=False) if name == "hybrid" else _fit(made, trained)
        paths[name] = str(saved(made, folder / f"{name}.nemo"))
    return paths


def _fit(made: Any, trained: Any) -> None:
    """Give a CTC model the trained encoder, and fit its head: a few seconds."""
    made.encoder.load_state_dict(trained.encoder.state_dict())
    made.eval()
    found = examples(trained, corpus(3, 120, VOICES))
    with torch.no_grad():
        encoded = [made.encoder(audio_signal=mel[None], length=torch.tensor([mel.shape[1]]))[0] for mel, _ in found]
    optimiser = torch.optim.Adam(made.decoder.parameters(), lr=0.03)
    spans = torch.tensor([each.shape[2] for each in encoded])
    frames = torch.zeros(len(encoded), encoded[0].shape[1], int(spans.max()))
    for row, each in enumerate(encoded):
        frames[row, :, : each.shape[2]] = each
    targets, lengths = torch.cat([tokens for _, tokens in found]), torch.tensor([len(tokens) for _, tokens in found])
    blank = made.decoder.num_classes_with_blank - 1
    for _ in range(150):
        log_probs = made.decoder(encoder_output=frames).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, targets, spans, lengths, blank=blank, zero_infinity=True)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def word_errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """The fewest words to be inserted, left out or replaced."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        diagonal, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            diagonal, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, diagonal + (word != other))
    return row[-1]
