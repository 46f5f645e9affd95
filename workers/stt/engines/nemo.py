"""Streaming recognition with NeMo's cache-aware models: many sessions, one model, one batched step.

``STT_ENGINE=nemo`` with ``STT_MODEL`` a name of NVIDIA's or a .nemo file. NeMo lives in an environment of its own,
``make install-nemo``, which ``STT_PYTHON`` names. docs/stt.md says what each setting buys.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.stt.engine import Details
from workers.stt.engines.nemo_batch import Batcher
from workers.stt.engines.nemo_words import Heard, Transcript

log = logging.getLogger(__name__)

MOST = {"cuda": 4096, "cpu": 32}
"""How many sessions are tried for when STT_CAPACITY does not say."""
SHARE = 0.5
"""Of a chunk's time, what a step of all sessions may take: the rest is for the flushes, and for slower moments."""

T = TypeVar("T")


def _context(text: str) -> str:
    parts = text.split(",")
    if text and (len(parts) != 2 or not all(part.strip().isdecimal() for part in parts)):
        raise ValueError("expected two numbers such as 70,13: encoder frames of 80 ms seen to the left, and ahead")
    return text


class NemoSettings(BusSettings):
    """Which model, where, and how many sessions."""

    stt_model: str = "nvidia/nemotron-speech-streaming-en-0.6b"
    """A name, or the path of a .nemo file."""
    stt_att_context: Annotated[str, AfterValidator(_context)] = ""
    """``70,13``, ``70,6``, ``70,1`` or ``70,0``; the model's own by default. One for all sessions."""
    stt_context: Literal["call", "utterance"] = "call"
    """What the model remembers when an utterance starts: the call so far, or nothing."""
    stt_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; auto: on a GPU where there is one."""
    stt_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """In which numbers; auto: bfloat16 on a GPU, float32 on a CPU."""
    stt_capacity: int = Field(default=0, ge=0, le=4096)
    """How many sessions at once; 0: as many as a step is measured to have time for."""
    stt_collect_ms: float = Field(default=4.0, ge=0, le=100)
    """How long the first session whose chunk is ready waits for others."""
    stt_vocabulary: str = ""
    """Comma-separated words and phrases to listen for."""
    stt_vocabulary_file: Path | None = None
    """More of them, one a line."""
    stt_vocabulary_weight: float = Field(default=1.0, ge=0, le=10)
    """How much likelier they get."""
    stt_threads: int = Field(default=0, ge=0, le=256)
    """Threads of a step on the CPU; 0: as torch thinks best."""
    stt_cuda_graphs: bool = True
    """Whether a GPU's steps are recorded as CUDA graphs."""

    @property
    def context(self) -> list[int] | None:
        return [int(part) for part in self.stt_att_context.split(",")] if self.stt_att_context else None

    def phrases(self) -> list[str]:
        """The custom vocabulary. Raises EngineError."""
        text = self.stt_vocabulary.replace(",", "\n")
        if self.stt_vocabulary_file is not None:
            try:
                text += "\n" + self.stt_vocabulary_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise EngineError(f"STT_VOCABULARY_FILE={self.stt_vocabulary_file}: cannot be read: {error}") from error
        return list(dict.fromkeys(phrase for line in text.splitlines() if (phrase := " ".join(line.split()))))


class Nemo:
    """Implements ``workers.stt.engine.SttEngine``."""

    name = "nemo"

    def __init__(self) -> None:
        self.settings = load(NemoSettings)
        self.capacity = self.settings.stt_capacity or 1
        self.context = 0
        """Samples before an utterance that the encoder looks back on; known once loaded."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nemo")
        self.listening: set[NemoRecognizer] = set()
        """Those in mid-utterance: what a step may wait for, a few ms."""
        self._model: Any = None
        self._batcher: Batcher[Any, Heard] = Batcher(
            self._step, self.settings.stt_collect_ms / 1000, lambda: len(self.listening)
        )

    async def load(self) -> None:
        """Load the model (seconds; a first time it is downloaded), warm it up, and measure. Raises EngineError."""
        try:
            self._model = await self.run(self._load)
        except ImportError as error:
            raise EngineError(
                f"STT_ENGINE=nemo: cannot import {error.name or error}; make install-nemo, then set "
                "STT_PYTHON=.venv-nemo/bin/python"
            ) from error
        self.context = self._model.context
        log.info("%s on %s, context %s: %d sessions, a step every %d ms",
                 self.settings.stt_model, self._model.asr.device, self._model.asr.encoder.att_context_size,
                 self.capacity, self._model.grid.step // 16)  # fmt: skip

    def _load(self) -> Any:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        settings = self.settings
        torch = importlib.import_module("torch")
        nemo_model = importlib.import_module("workers.stt.engines.nemo_model")
        there = torch.cuda.is_available()
        if settings.stt_device == "cuda" and not there:
            raise EngineError("STT_DEVICE=cuda: torch sees no GPU; is its CUDA build installed, and the driver?")
        device = "cuda" if there and settings.stt_device != "cpu" else "cpu"
        if settings.stt_threads:
            torch.set_num_threads(settings.stt_threads)
        model = nemo_model.load(
            settings.stt_model,
            settings.context,
            device=device,
            dtype={"auto": "bfloat16" if device == "cuda" else "float32"}.get(settings.stt_dtype, settings.stt_dtype),
            phrases=settings.phrases(),
            weight=settings.stt_vocabulary_weight,
            cuda_graphs=settings.stt_cuda_graphs,
            continuous=settings.stt_context == "call",
        )
        capacity = importlib.import_module("workers.stt.engines.nemo_capacity")
        measured = capacity.places_in_time(model, settings.stt_capacity or MOST[device], SHARE)
        if measured < settings.stt_capacity:
            log.warning("STT_CAPACITY=%d: a step of so many sessions takes more than half a chunk's time here; "
                        "%d would fit", settings.stt_capacity, measured)  # fmt: skip
        self.capacity = settings.stt_capacity or measured
        model.reserve(self.capacity)
        model.prepare(self.capacity)
        return model

    async def open(self, language: str) -> NemoRecognizer:
        """A recogniser for one session. ``language`` is not checked: a model does not say which it knows."""
        if self._model is None:
            raise EngineError("STT_ENGINE=nemo was not loaded")
        return NemoRecognizer(self, self._model.open())

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Do ``work`` in the model's thread, after what was asked of it before. Raises EngineError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except RuntimeError as error:
            raise EngineError(f"nemo failed: {type(error).__name__}: {error}") from error

    async def step(self, hearing: Any, *, flush: bool = False) -> Heard:
        """A session's next chunk, or its flush, in a step with whoever is ready."""
        from workers.stt.engines.nemo_model import Job

        return await self._batcher.ask(Job(hearing, flush))

    def begin(self, hearing: Any) -> None:
        """A session's next utterance starts."""
        self._model.begin(hearing)

    async def give_back(self, hearing: Any) -> None:
        """Let another session have the place, after the step that may be going on; also when cancelled meanwhile."""
        await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._model.close, hearing)))

    def details(self, transcript: Transcript) -> Details:
        """What is known of the words."""
        details: Details = self._model.vocabulary.details(transcript)
        return details

    async def _step(self, jobs: Sequence[Any]) -> Sequence[Heard]:
        return await self.run(self._model.step, jobs)


class NemoRecognizer:
    """The recogniser of one session. Text is as the model writes it, punctuation and capitals included."""

    def __init__(self, engine: Nemo, hearing: Any) -> None:
        self._engine = engine
        self._hearing = hearing
        self._heard = Heard()
        self._ahead = 0
        """Samples of the utterance that ``_heard`` covers and no step has: it comes from a flush."""

    async def begin(self) -> None:
        """An utterance starts. The encoder goes on hearing what was before."""
        self._engine.begin(self._open())
        self._heard = Heard()
        self._ahead = 0

    async def feed(self, pcm: bytes) -> str:
        """Take audio; the words so far, after each chunk that is complete. Raises EngineError, ValueError."""
        hearing = self._open()
        hearing.stream.append(pcm)
        self._engine.listening.add(self)
        while hearing.stream.ready:
            await self._step()
        return self._heard.text

    async def flush(self) -> str:
        """The words of all that was fed. No state changes, so the utterance may go on. Raises EngineError."""
        hearing = self._open()
        self._engine.listening.discard(self)
        while hearing.stream.ignored:
            await self._step()
        self._heard = await self._engine.step(hearing, flush=True)
        self._ahead = hearing.stream.pending
        return self._heard.text

    def details(self) -> Details:
        """The words of the last text with their times, and how sure they are."""
        return self._engine.details(self._heard.transcript)

    async def close(self) -> None:
        """Give the place back; a second call does nothing."""
        hearing, self._hearing = self._hearing, None
        self._engine.listening.discard(self)
        if hearing is not None:
            await self._engine.give_back(hearing)

    async def _step(self) -> None:
        heard = await self._engine.step(self._hearing)
        self._ahead -= self._hearing.stream.grid.step
        # A flush may know words whose chunk is not complete yet: they do not disappear meanwhile.
        if self._ahead <= 0:
            self._heard = heard

    def _open(self) -> Any:
        if self._hearing is None:
            raise EngineError("this recogniser is closed")
        return self._hearing
