"""A streaming NeMo model and the caches of every session that uses it. One thread owns it.

A step takes the next chunk of any sessions, first ones, middle ones and last ones alike, through one call of NeMo's
``conformer_stream_step``: every window has the same shape, with the frames before the first chunk set to zero and what
the encoder makes of them dropped, as NeMo's ``pad_and_drop_preencoded`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel, EncDecRNNTModel
from nemo.utils import logging as nemo_logging

from workers.engines import EngineError
from workers.stt.engines.nemo_decoder import Ctc, Decoder, Transducer, set_decoding
from workers.stt.engines.nemo_features import Features
from workers.stt.engines.nemo_graphs import SIZES, Graphs, size_for
from workers.stt.engines.nemo_greedy import Greedy
from workers.stt.engines.nemo_layers import hasten
from workers.stt.engines.nemo_rows import Rows
from workers.stt.engines.nemo_stream import Grid, Stream
from workers.stt.engines.nemo_words import START, Heard, Vocabulary

RATE = 16_000
KNOWN = "nvidia/nemotron-speech-streaming-en-0.6b"
"""A model that streams: what errors recommend."""
SILENCE = 40 * RATE // 100
"""Samples of silence a flush puts behind the audio, so that the last word is written (0.4 s; see docs/stt.md)."""
FLUSHED = 128
"""How many flushes of several chunks go through one call; of single chunks the last of SIZES."""
AXES = (1, 1, 0)
"""Which axis of each cache are the sessions."""


@dataclass(eq=False, slots=True)
class Hearing:
    """One session's place in the model: its audio, its words, and the row of its caches."""

    stream: Stream
    row: int
    heard: Heard = field(default_factory=Heard)
    cold: bool = True
    """Whether what is in the row is another's, or of another time."""


@dataclass(frozen=True, slots=True)
class Job:
    """A session's part in a step: its next chunk, or what it has and silence, tried out."""

    hearing: Hearing
    flush: bool = False

    @property
    def chunks(self) -> int:
        """How many chunks the window has."""
        return self.hearing.stream.chunks_to_end(SILENCE) if self.flush else 1


class Model:
    """Loaded with ``load``. Its methods belong to one thread, but for ``open`` and ``begin``."""

    def __init__(self, asr: Any, decoder: Decoder, graphs: Graphs, *, continuous: bool) -> None:
        """``asr`` is checked and set to its context already; ``continuous`` as in ``load``."""
        config = asr.cfg.preprocessor
        streaming = asr.encoder.streaming_cfg
        self.grid = Grid(
            hop=int(config.window_stride * RATE),
            reach=int(config.window_size * RATE) // 2,
            chunk=_last(streaming.chunk_size),
            lookback=_last(streaming.pre_encode_cache_size),
        )
        self._frame = asr.encoder.subsampling_factor
        self.context = asr.encoder.att_context_size[0] * self._frame * self.grid.hop if continuous else 0
        """Samples before an utterance that the encoder looks back on."""
        pieces = list(asr.joint.vocabulary if isinstance(asr, EncDecRNNTModel) else asr.decoder.vocabulary)
        self.vocabulary = Vocabulary(
            [piece.replace(" ", START) for piece in pieces],
            asr.decoding.decode_tokens_to_str_with_strip_punctuation,
            self._frame * self.grid.hop,
        )
        self.asr = asr
        self._decoder = decoder
        self._dtype = next(asr.parameters()).dtype
        self._features = Features(asr, self.grid)
        self._drop = streaming.drop_extra_pre_encoded
        self._graphs = graphs
        self._caches: tuple[torch.Tensor, ...] = ()
        self._nobody = 0
        """The row of the caches that is written by whoever is to leave no trace, and never read."""
        self._free: list[int] = []

    def reserve(self, sessions: int) -> None:
        """Make room for the caches of so many sessions, and forget those there are."""
        self._caches = ()  # let go of the old ones first
        self._graphs.clear()
        with torch.inference_mode():
            self._caches = self.asr.encoder.get_initial_cache_state(batch_size=sessions + 1, dtype=self._dtype)
        self._nobody = sessions
        self._decoder.reserve(sessions)
        self._free = list(range(sessions))

    def bytes_per_session(self) -> int:
        """What is kept of a session on the device between steps."""
        caches: int = sum(cache.numel() * cache.element_size() for cache in self._caches) // (self._nobody + 1)
        return caches + self._decoder.bytes_per_session()

    def open(self) -> Hearing:
        """A session's place. Raises EngineError when all are taken."""
        if not self._free:
            raise EngineError(f"all {self._nobody} places of the recogniser are taken; see STT_CAPACITY")
        return Hearing(Stream(self.grid), self._free.pop())

    def close(self, hearing: Hearing) -> None:
        """Give a session's place back."""
        self._free.append(hearing.row)

    def begin(self, hearing: Hearing) -> None:
        """An utterance starts with the next sample that is fed; not to be said while a step has the session."""
        if not self.context:
            hearing.stream, hearing.heard, hearing.cold = Stream(self.grid), Heard(), True
            return
        hearing.stream.begin()
        if not hearing.stream.ignored:
            hearing.heard = Heard(hearing.heard.transcript.onward())

    def step(self, jobs: Sequence[Job]) -> list[Heard]:
        """Do each job; the words of its utterance afterwards. At most one job a session.

        Jobs of one chunk go through one call. A flush that needs more chunks goes through a second one together with
        other such flushes; none of it is kept, so its rows may be padded to the longest.
        """
        heard: dict[int, Heard] = {}
        for together, most in (
            ([job for job in jobs if job.chunks == 1], SIZES[-1]),
            ([job for job in jobs if job.chunks > 1], FLUSHED),
        ):
            for first in range(0, len(together), most):
                some = together[first : first + most]
                with torch.inference_mode():
                    answers = self._call(some, self.padded(max(job.chunks for job in some)))
                for job, answer in zip(some, answers, strict=True):
                    heard[id(job)] = self._settled(job, answer)
        return [heard[id(job)] for job in jobs]

    def _settled(self, job: Job, heard: Heard) -> Heard:
        """What a session has heard now that its job is done."""
        if not job.flush:
            if job.hearing.stream.ignored:
                # Words up to an utterance's start are those of the one before.
                heard = Heard(heard.transcript.onward())
            job.hearing.stream.advance()
            job.hearing.heard = heard
        return heard

    def _call(self, jobs: Sequence[Job], chunks: int) -> list[Heard]:
        size = size_for(len(jobs)) if self._graphs.enabled else len(jobs)
        pcm = np.zeros((size, self.grid.window(chunks)), np.int16)
        rows = Rows(size, self._nobody, self._frames(chunks))
        rows.fill(
            [
                (
                    job.hearing.row,
                    self._nobody if job.flush else job.hearing.row,
                    job.hearing.cold,
                    self._frames(job.chunks),
                    job.hearing.stream.unborn,
                )
                for job in jobs
            ]
        )
        for into, job in zip(pcm, jobs, strict=False):
            job.hearing.stream.fill(into)
        self._forget([job.hearing.row for job in jobs if job.hearing.cold])
        for job in jobs:
            job.hearing.cold &= job.flush
        mel, table = self._mel(pcm), torch.from_numpy(rows.table).to(self.asr.device)
        encoded, lengths = self._encode(mel, table, chunks)
        before = [job.hearing.heard for job in jobs]
        seen = [job.chunks * self.grid.chunk // self._frame for job in jobs]
        after = self._decoder.decode(encoded, lengths, table, [each.transcript for each in before], seen)
        return [self.vocabulary.written(now, earlier) for now, earlier in zip(after, before, strict=True)]

    def _forget(self, rows: list[int]) -> None:
        """Make the caches of sessions that begin from nothing empty."""
        if rows:
            index = torch.tensor(rows, device=self.asr.device)
            for cache, axis in zip(self._caches, AXES, strict=True):
                cache.index_fill_(axis, index, 0)

    def _frames(self, chunks: int) -> int:
        return self.grid.lookback + chunks * self.grid.chunk

    def _mel(self, pcm: np.ndarray) -> torch.Tensor:
        return self._features(torch.from_numpy(pcm).to(self.asr.device).float() / 32768).to(self._dtype)

    def _encode(self, mel: torch.Tensor, table: torch.Tensor, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's frames [B, width, frames] and how many of each count; the caches go on."""
        encoded: tuple[torch.Tensor, torch.Tensor] = self._graphs(
            ("encode", len(mel), chunks), self._encoder(chunks), mel, table
        )
        return encoded

    def _encoder(self, chunks: int) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        def encode(mel: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            unborn = torch.arange(mel.shape[2], device=mel.device) < table[Rows.UNBORN][:, None]
            caches = [
                cache.index_select(axis, table[Rows.FROM]) for cache, axis in zip(self._caches, AXES, strict=True)
            ]
            encoded, lengths, *after = self.asr.encoder.cache_aware_stream_step(
                processed_signal=mel.masked_fill(unborn[:, None], 0),
                processed_signal_length=table[Rows.FRAMES],
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=chunks > 1,
                drop_extra_pre_encoded=self._drop,
            )
            for cache, new, axis in zip(self._caches, after, AXES, strict=True):
                cache.index_copy_(axis, table[Rows.TO], new.to(cache.dtype))
            return encoded, lengths

        return encode

    def prepare(self, most: int) -> None:
        """Record the steps of up to ``most`` sessions as CUDA graphs, where they are used: seconds."""
        for size in reversed([size for size in SIZES if size <= size_for(min(most, SIZES[-1]))]):
            self.record(size, 1)
            if size <= FLUSHED:
                self.record(size, self.padded(2))
        if self._graphs.enabled:
            torch.cuda.empty_cache()  # what recording used beside what the recordings use

    def padded(self, chunks: int) -> int:
        """How many chunks the windows of a step have of which one has so many."""
        flush = -(-(self.grid.step - 1 + SILENCE) // self.grid.step)
        return flush if self._graphs.enabled and 1 < chunks < flush else chunks

    def record(self, size: int, chunks: int) -> None:
        """Record a step of so many sessions, one of SIZES, with windows of so many chunks, where graphs are used."""
        if not self._graphs.enabled:
            return
        with torch.inference_mode():
            table = torch.from_numpy(Rows(size, self._nobody, self._frames(chunks)).table).to(self.asr.device)
            mel = self._mel(np.zeros((size, self.grid.window(chunks)), np.int16))
            self._graphs.record(("encode", size, chunks), self._encoder(chunks), mel, table)
            encoded, lengths = self._encode(mel, table, chunks)
            self._decoder.prepare(encoded, lengths, table)


def load(
    name: str,
    context: Sequence[int] | None,
    *,
    device: str,
    dtype: str,
    phrases: Sequence[str] = (),
    weight: float = 0.0,
    cuda_graphs: bool = False,
    continuous: bool = True,
) -> Model:
    """Load a model by its name or the path of its .nemo file. Raises EngineError with the remedy.

    ``context`` is one of the attention contexts the model was trained for, None its own first one. ``continuous``: a
    session's utterances are one recording to the model; else each is a new one.
    """
    nemo_logging.setLevel(nemo_logging.ERROR)
    asr = _restored(name, device).eval().to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    return serving(asr, name, context, phrases=phrases, weight=weight, cuda_graphs=cuda_graphs, continuous=continuous)


def serving(
    asr: Any,
    name: str,
    context: Sequence[int] | None,
    *,
    phrases: Sequence[str] = (),
    weight: float = 0.0,
    cuda_graphs: bool = False,
    continuous: bool = True,
) -> Model:
    """A NeMo model, called ``name``, made ready for streams; the rest as in ``load``."""
    check(asr, name, context)
    hasten(asr.encoder)
    graphs = Graphs(enabled=cuda_graphs and asr.device.type == "cuda")
    if isinstance(asr, EncDecRNNTModel):
        set_decoding(asr, phrases, weight)
        plain = not phrases and not asr.joint.num_extra_outputs and asr.decoder.blank_as_pad
        decoder: Decoder = Greedy(asr, graphs) if plain else Transducer(asr)
    elif phrases:
        raise EngineError(f"STT_VOCABULARY: {name} has a CTC head, which takes no vocabulary; expected a transducer")
    else:
        decoder = Ctc(asr)
    return Model(asr, decoder, graphs, continuous=continuous)


def _restored(name: str, device: str) -> Any:
    is_file = name.endswith(".nemo")
    if is_file and not Path(name).is_file():
        raise EngineError(
            f"STT_MODEL={name}: no such file; expected the path of a .nemo file, or a name such as {KNOWN}"
        )
    read: Callable[..., Any] = ASRModel.restore_from if is_file else ASRModel.from_pretrained
    try:
        return read(name, map_location=device)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        remedy = "is it a NeMo speech recognition model?" if is_file else "is the name right, and the network up?"
        raise EngineError(f"STT_MODEL={name}: cannot be loaded ({reason}); {remedy}") from error


def check(asr: Any, name: str, context: Sequence[int] | None) -> Any:
    """The model, set to ``context``. Raises EngineError when it cannot stream so, and says which one can."""
    encoder: Any = getattr(asr, "encoder", None)
    contexts = [list(each) for each in getattr(encoder, "att_context_size_all", [])]
    if not isinstance(asr, (EncDecRNNTModel, EncDecCTCModel)) or not contexts:
        why = f"{type(asr).__name__} is not a cache-aware Conformer with a transducer or a CTC head"
    elif encoder.att_context_style != "chunked_limited" or min(map(min, contexts)) < 0:
        why = f"its encoder was trained to see the whole recording ({encoder.att_context_style}, {contexts})"
    elif str(asr.cfg.preprocessor.normalize).lower() not in ("na", "none"):
        why = f"it normalises features over the whole recording (normalize: {asr.cfg.preprocessor.normalize})"
    elif asr.cfg.preprocessor.sample_rate != RATE:
        why = f"it listens at {asr.cfg.preprocessor.sample_rate} Hz, not {RATE}"
    else:
        wanted = list(context or contexts[0])
        if wanted not in contexts:
            known = " or ".join(",".join(map(str, each)) for each in contexts)
            raise EngineError(f"STT_ATT_CONTEXT={','.join(map(str, wanted))}: {name} was trained for {known}")
        encoder.set_default_att_context_size(wanted)
        return asr
    raise EngineError(f"STT_MODEL={name} cannot stream: {why}. One that can: STT_MODEL={KNOWN}")


def _last(size: Any) -> int:
    """NeMo gives sizes as one number, or as [of the first step, of later ones]."""
    return int(size[1] if isinstance(size, (list, tuple)) else size)
