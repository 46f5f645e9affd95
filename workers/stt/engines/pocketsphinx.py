"""The embedded recogniser: PocketSphinx 5 with the US English model of its wheel. A toy that works.

Input is 16 kHz mono 16-bit. Only English is understood. A decoder serves one session at a time, holds about 95 MB and
is kept for the next session when one closes. PocketSphinx holds the GIL while it decodes, so audio goes in slices of
20 ms through one thread: the event loop runs in between, and the rest of an utterance is decoded within ``flush``.

Three things are done to the audio, each because more words are right with it:

* Digital silence is put before and behind each segment, or the words at its edges are lost.
* PocketSphinx subtracts a fixed cepstral mean from the first seconds of an utterance, and its built-in one fits few
  microphones. So a segment is held back until it is ``HELD`` long; then its own mean is taken and decoding starts.
* The mean of one segment is what the session's next one is presumed to have; that needs less audio of its own.

PocketSphinx invents words in noise: feed it what a voice activity detector took for speech, with a little before it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from pocketsphinx import Decoder
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from bus.settings import BusSettings, problems
from workers.engines import EngineError

RATE = 16_000
STEP = RATE // 10
"""Samples that must have come before the decoder is asked again for its hypothesis."""
SLICE = RATE // 50
"""Samples decoded in one go: how long the GIL is held is proportional to it."""
SILENCE = bytes(2 * RATE // 10)
"""100 ms of zeros, put before and behind a segment."""
HELD = 600 * RATE // 1000
"""Samples of a segment after which its mean is taken and decoding starts; the first partial text is as late."""
HELD_KNOWN = 300 * RATE // 1000
"""The same where a segment before has told the mean: no more words are wrong (real speech, 179 words), and a short
"stop" is known 300 ms earlier."""

PRIOR = (55.0, 3.0, -1.0, *[0.0] * 10)
"""The cepstral mean assumed of a caller nothing is known of."""
PRIOR_FRAMES = 50
KNOWN_FRAMES = 100
"""How many 10 ms frames of evidence the prior counts for, and a mean that a segment before has told."""
MEAN_S = 5
"""Seconds of a segment, its first ones, that its mean is taken of."""
WINDOW_FRAMES = 500
"""How many frames of evidence PocketSphinx itself gives the mean it is set to (its CMN_WIN)."""
FRAME = RATE // 100

T = TypeVar("T")


class Settings(BaseSettings):
    """How many sessions it serves."""

    model_config = BusSettings.model_config

    stt_capacity: int = Field(default=4, ge=1, le=64)
    """How many sessions one process listens to at once."""


class PocketSphinx:
    """The engine: its decoders and the one thread they work in."""

    name = "pocketsphinx"

    def __init__(self) -> None:
        """Read the settings. Raises EngineError when one is wrong."""
        try:
            self.capacity = Settings().stt_capacity
        except ValidationError as error:
            raise EngineError("; ".join(problems(Settings, error))) from None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pocketsphinx")
        self._idle: list[Decoder] = []
        """Decoders nobody uses. Touched in the thread only."""

    async def load(self) -> None:
        """Load one decoder (about 0.4 s) and decode a little noise with it. Raises EngineError."""
        await self.run(self._warm_up)

    async def open(self, language: str) -> SphinxRecognizer:
        """A recogniser for one session; a decoder more is loaded when none is idle. Raises EngineError."""
        if language.replace("_", "-").split("-")[0].lower() != "en":
            raise EngineError(
                f"STT_ENGINE=pocketsphinx understands English only (en, en-US, ...), not {language[:40]!r}; "
                "STT_ENGINE=http with the STT_URL of a transcription server, or package.module:Class, may"
            )
        return SphinxRecognizer(self, await self.run(self._take))

    async def run(self, work: Callable[..., T], *args: object) -> T:
        """Do ``work`` in the engine's thread, after what was asked of it before. Raises EngineError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except RuntimeError as error:
            raise EngineError(f"pocketsphinx failed: {error}") from error

    async def give_back(self, decoder: Decoder) -> None:
        """Keep the decoder of a closed session for another one; also when the caller is cancelled meanwhile."""
        await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._keep, decoder)))

    def _warm_up(self) -> None:
        decoder = self._take()
        noise = np.random.default_rng(0).integers(-20, 20, RATE, np.int16)
        Segment(decoder, PRIOR).hear(noise.tobytes())
        self._keep(decoder)

    def _take(self) -> Decoder:
        # PocketSphinx writes its progress to stderr unless told otherwise.
        return self._idle.pop() if self._idle else Decoder(loglevel="FATAL")

    def _keep(self, decoder: Decoder) -> None:
        stop(decoder)
        if len(self._idle) < self.capacity:
            self._idle.append(decoder)


class SphinxRecognizer:
    """The recogniser of one session. Text is lower-case words, without markers."""

    def __init__(self, engine: PocketSphinx, decoder: Decoder) -> None:
        self._engine = engine
        self._decoder: Decoder | None = decoder
        self._mean: Sequence[float] = PRIOR
        self._segment = Segment(decoder, PRIOR)
        self._earlier = ""
        """The words of the utterance up to its last flush."""
        self._text = ""
        self._pending = bytearray()

    async def begin(self) -> None:
        """An utterance starts. What is known of the caller's microphone stays."""
        self._segment = Segment(self._open(), self._mean)
        self._earlier = self._text = ""
        self._pending.clear()

    async def feed(self, pcm: bytes) -> str:
        """Take audio; the words so far, looked up about every 100 ms. Raises EngineError, ValueError."""
        self._open()
        if len(pcm) % 2:
            raise ValueError(f"{len(pcm)} bytes of audio; expected whole 16-bit samples")
        self._pending += pcm
        if len(self._pending) >= 2 * STEP:
            self._text = joined(self._earlier, await self._engine.run(self._segment.hear, self._taken()))
        return self._text

    async def flush(self) -> str:
        """End the segment: its words with the last one, after those of earlier segments. Raises EngineError."""
        decoder = self._open()
        segment = self._segment
        text = await self._engine.run(segment.finish, self._taken())
        self._mean = segment.mean
        self._segment = Segment(decoder, self._mean)
        self._text = self._earlier = joined(self._earlier, text)
        return self._text

    async def close(self) -> None:
        """Give the decoder back; a second call does nothing."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            await self._engine.give_back(decoder)

    def _taken(self) -> bytes:
        pcm = bytes(self._pending)
        self._pending.clear()
        return pcm

    def _open(self) -> Decoder:
        if self._decoder is None:
            raise EngineError("this recogniser is closed")
        return self._decoder


class Segment:
    """Speech between two flushes. Its methods belong to the engine's thread."""

    def __init__(self, decoder: Decoder, mean: Sequence[float]) -> None:
        self.mean = mean
        """The cepstral mean: what it was presumed to be, and when the segment is finished the better for it."""
        self._decoder = decoder
        known = mean is not PRIOR
        self._enough = 2 * (HELD_KNOWN if known else HELD)
        self._weight = KNOWN_FRAMES if known else PRIOR_FRAMES
        self._heard = bytearray()
        """The segment's first MEAN_S."""
        self._decoding = False

    def hear(self, pcm: bytes) -> str:
        """Take audio; the words so far."""
        if not self._decoding or len(self._heard) < 2 * MEAN_S * RATE:
            self._heard += pcm
        if self._decoding:
            self._decode(pcm)
        elif len(self._heard) >= self._enough:
            self._start()
        return self._words() if self._decoding else ""

    def finish(self, pcm: bytes) -> str:
        """Take the last audio; all words."""
        self.hear(pcm)
        if not self._decoding:
            if not self._heard:
                return ""
            self._start()
        self._decode(SILENCE)
        self._decoder.end_utt()
        words = self._words()
        self.mean = self._mean()
        return words

    def _start(self) -> None:
        """Start decoding, from the segment's beginning and with its own mean."""
        stop(self._decoder)
        self._decoder.set_cmn(listed(self._mean()))
        self._decoder.start_utt()
        self._decoding = True
        self._decode(SILENCE + bytes(self._heard))

    def _mean(self) -> list[float]:
        return mean_of(self._decoder, bytes(self._heard), self.mean, self._weight)

    def _decode(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 2 * SLICE):
            self._decoder.process_raw(pcm[at : at + 2 * SLICE])

    def _words(self) -> str:
        hypothesis = self._decoder.hyp()
        return cleaned(hypothesis.hypstr) if hypothesis is not None else ""


def mean_of(decoder: Decoder, pcm: bytes, prior: Sequence[float], weight: int) -> list[float]:
    """The cepstral mean of audio and of ``weight`` frames of ``prior``; the decoder must be between utterances.

    The decoder's account of background noise starts afresh with this audio, so nothing of another caller is in it.
    PocketSphinx tells the mean of the audio and WINDOW_FRAMES of what it was set to; the latter is taken out again.
    It leaves out digital silence, so that must not be counted either.
    """
    samples = np.frombuffer(pcm, np.int16)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    frames = frames[np.abs(frames.astype(np.int32)).max(axis=1, initial=0) > 2]
    count = len(frames)
    if not count:
        return list(prior)
    decoder.reinit_feat()
    decoder.set_cmn(listed(prior))
    decoder.start_utt()
    decoder.process_raw(frames.tobytes(), no_search=True)
    blend = [float(value) for value in decoder.get_cmn(update=True).split(",")]
    decoder.end_utt()
    sums = [b * (WINDOW_FRAMES + count) - p * WINDOW_FRAMES for b, p in zip(blend, prior, strict=True)]
    return [(s + p * weight) / (count + weight) for s, p in zip(sums, prior, strict=True)]


def stop(decoder: Decoder) -> None:
    """End the utterance the decoder was at, if it was at one."""
    try:
        decoder.end_utt()
    except RuntimeError:
        pass  # it was between utterances


def listed(mean: Sequence[float]) -> str:
    """A cepstral mean as PocketSphinx takes it."""
    return ",".join(f"{value:.3f}" for value in mean)


def cleaned(hypothesis: str) -> str:
    """The words of a hypothesis, without ``<s>``, ``[NOISE]`` and the ``(2)`` of a pronunciation."""
    words = (re.sub(r"\(\d+\)$", "", word) for word in hypothesis.lower().split())
    return " ".join(word for word in words if word and word[0] not in "<[+")


def joined(earlier: str, later: str) -> str:
    """Two texts with one space between them where both have words."""
    return f"{earlier} {later}".strip()
