"""Two ways to serve one streaming model to many sessions, behind one interface, for ``benchmarks.stt_capacity``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.stt_weights import Weights
from workers.stt.engines.nemo_model import Hearing, Job, Model, load, serving


@dataclass(frozen=True, slots=True)
class Piece:
    """The next chunk of a stream: whole, but for its last one."""

    stream: int
    samples: np.ndarray
    """16-bit."""
    first: bool
    last: bool


@dataclass
class Apart:
    """Seconds spent in the encoder and in the decoder, one entry a step."""

    encoder: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)


class Contender(Protocol):
    """Serves streams with one model."""

    name: str
    chunk: int
    """Samples of a piece, in the context it was set to."""

    def use(self, context: Sequence[int], streams: int) -> None:
        """Look so far back and ahead from now on, with room for so many streams."""

    def begin(self, streams: int) -> None:
        """So many streams, all of them new."""

    def end(self) -> None:
        """Leave the device's memory to others, until the next ``use``."""

    def step(self, pieces: Sequence[Piece]) -> list[str]:
        """Take a piece of each of several streams; the text of each, the final one after its last piece."""

    def bytes_per_stream(self) -> float:
        """What is kept of each stream on the device between steps."""

    def timed(self, apart: Apart) -> contextlib.AbstractContextManager[None]:
        """While it lasts, steps note their parts' times, at the price of waiting for the GPU in between."""


class Ours:
    """bargein's engine, without its event loop."""

    name = "bargein"

    def __init__(self, weights: Weights, device: str, dtype: str) -> None:
        self.model: Model = load(str(weights.path), None, device=device, dtype=dtype)
        self._weights = weights
        self._hearings: dict[int, Hearing] = {}

    def use(self, context: Sequence[int], streams: int) -> None:
        self.model = serving(self.model.asr, "the benchmark's model", context, cuda_graphs=True)
        self._weights.set(self.model.asr, context)
        self.model.reserve(streams)
        self.model.prepare(streams)
        self._hearings.clear()
        self.chunk = self.model.grid.step

    def begin(self, streams: int) -> None:
        for hearing in self._hearings.values():
            self.model.close(hearing)
        self._hearings = {stream: self.model.open() for stream in range(streams)}
        for hearing in self._hearings.values():
            # A step needs 2.5 ms more than its chunk: given here, so that both contenders step at the same moments.
            hearing.stream.append(bytes(2 * (self.model.grid.reach - self.model.grid.hop)))

    def end(self) -> None:
        self._hearings.clear()
        self.model.reserve(0)
        free_memory()

    def step(self, pieces: Sequence[Piece]) -> list[str]:
        jobs = []
        for piece in pieces:
            hearing = self._hearings[piece.stream]
            hearing.stream.append(piece.samples.tobytes())
            jobs.append(Job(hearing, flush=piece.last))
        return [heard.text for heard in self.model.step(jobs)]

    def bytes_per_stream(self) -> float:
        return float(self.model.bytes_per_session())

    def timed(self, apart: Apart) -> contextlib.AbstractContextManager[None]:
        return _timed((self.model, "_encode", apart.encoder), (self.model._decoder, "decode", apart.decoder))


PIPELINE = """
asr: {model_name: "", device: cpu, device_id: 0, compute_dtype: float32, use_amp: false,
  decoding: {strategy: greedy_batch, preserve_alignments: false, fused_batch_size: -1,
    greedy: {use_cuda_graph_decoder: false, enable_per_stream_biasing: false, max_symbols: 10, ngram_lm_model: null,
      ngram_lm_alpha: 0.0, preserve_frame_confidence: false}}}
itn: {input_case: lower_cased, whitelist: null, overwrite_cache: false, max_number_of_permutations_per_split: 729,
  left_padding_size: 4, batch_size: 32, n_jobs: 1}
confidence: {exclude_blank: true, aggregation: mean,
  method_cfg: {name: entropy, entropy_type: tsallis, alpha: 0.5, entropy_norm: exp}}
endpointing: {stop_history_eou: -1, residue_tokens_at_end: 2}
streaming: {sample_rate: 16000, batch_size: 8, word_boundary_tolerance: 4, att_context_size: [70, 13], use_cache: true,
  use_feat_cache: true, chunk_size_in_secs: null, request_type: frame, num_slots: 16}
matmul_precision: high
log_level: 40
pipeline_type: cache_aware
asr_decoding_type: rnnt
enable_itn: false
enable_nmt: false
asr_output_granularity: segment
cache_dir: null
lang: null
return_tail_result: false
"""
"""As in NeMo's examples/asr/conf/asr_streaming_inference/cache_aware_rnnt.yaml, without end-of-utterance detection."""


class Pipeline:
    """NeMo's own CacheAwareRNNTPipeline."""

    name = "NeMo's pipeline"

    def __init__(self, weights: Weights, device: str, dtype: str) -> None:
        from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder

        self._config = OmegaConf.create(PIPELINE)
        self._config.asr.model_name = str(weights.path)
        self._config.asr.device = device
        self._config.asr.compute_dtype = dtype
        self._pipeline: Any = PipelineBuilder.build_pipeline(self._config)
        self._weights = weights

    def use(self, context: Sequence[int], streams: int) -> None:
        self._config.streaming.att_context_size = list(context)
        self._pipeline = type(self._pipeline)(self._config, self._pipeline.asr_model)
        self._weights.set(self._pipeline.asr_model.asr_model, context)
        self.chunk = int(self._pipeline.chunk_size_in_secs * 16_000)

    def begin(self, streams: int) -> None:
        self._pipeline.num_slots = streams
        self._pipeline.context_manager = None
        self._pipeline.init_context_manager()
        self._pipeline.init_bufferer_for_cache_aware_streaming()
        self._pipeline.open_session()
        caches = self._pipeline.context_manager
        kept = (caches.cache_last_channel, caches.cache_last_time, caches.cache_last_channel_len)
        self._bytes = sum(cache.numel() * cache.element_size() for cache in kept) / streams
        self._texts = [""] * streams

    def end(self) -> None:
        self._pipeline.context_manager = None
        free_memory()

    def step(self, pieces: Sequence[Piece]) -> list[str]:
        from nemo.collections.asr.inference.streaming.framing.request import Frame
        from nemo.collections.asr.inference.streaming.framing.request_options import ASRRequestOptions

        frames = []
        for piece in pieces:
            size = len(piece.samples)
            samples = torch.from_numpy(np.pad(piece.samples.astype(np.float32) / 32768, (0, self.chunk - size)))
            options = ASRRequestOptions() if piece.first else None
            frames.append(
                Frame(samples, piece.stream, is_first=piece.first, is_last=piece.last, length=size, options=options)
            )
        for output in self._pipeline.transcribe_step(frames):
            self._texts[output.stream_id] = output.final_transcript or output.partial_transcript
        return [self._texts[piece.stream] for piece in pieces]

    def bytes_per_stream(self) -> float:
        return self._bytes

    def timed(self, apart: Apart) -> contextlib.AbstractContextManager[None]:
        asr = self._pipeline.asr_model.asr_model
        return _timed(
            (asr.encoder, "cache_aware_stream_step", apart.encoder),
            (asr.decoding, "rnnt_decoder_predictions_tensor", apart.decoder),
        )


@contextlib.contextmanager
def _timed(*parts: tuple[Any, str, list[float]]) -> Iterator[None]:
    for owner, name, times in parts:
        setattr(owner, name, _stopwatch(getattr(owner, name), times))
    try:
        yield
    finally:
        for owner, name, _ in parts:
            delattr(owner, name)


def _stopwatch(method: Any, times: list[float]) -> Any:
    def timed(*args: Any, **named: Any) -> Any:
        wait_for_gpu()
        began = time.perf_counter()
        result = method(*args, **named)
        wait_for_gpu()
        times.append(time.perf_counter() - began)
        return result

    return timed


def wait_for_gpu() -> None:
    """Let the GPU finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Give back what torch holds of the GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
