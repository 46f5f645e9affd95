"""One loaded Chatterbox: its voices, and a synthesis that can be left at any moment.

Written for chatterbox-tts 0.1.7, English, Multilingual and Turbo. The library's own ``generate`` prepares the text and
samples; where it would decode all tokens at once it is left, because they are sound already: see ``chatterbox_stream``.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from workers.engines import EngineError
from workers.tts.engines.chatterbox_abort import Aborted, AbortHooks, Watch
from workers.tts.engines.chatterbox_stream import RATE, SAMPLES, PieceWise
from workers.tts.engines.threaded import Sound

log = logging.getLogger(__name__)

VARIANTS = {
    "english": ("chatterbox.tts", "ChatterboxTTS"),
    "multilingual": ("chatterbox.mtl_tts", "ChatterboxMultilingualTTS"),
    "turbo": ("chatterbox.tts_turbo", "ChatterboxTurboTTS"),
}
BUILT_IN = "default"
"""The voice that comes with the weights."""
AUDIO = (".wav", ".flac", ".ogg", ".mp3")
"""Voices are files of these kinds, 6 to 10 s of one speaker."""
SILENCE = 4299
"""The token of silence."""
SHORTEST = 3
"""Tokens that S3Gen can decode at least."""
REMEDY = "run make install-chatterbox, and name that environment's python: TTS_PYTHON=.venv-chatterbox/bin/python"


class _Sampled(Exception):
    """All tokens are sampled; ``tokens`` are those that the library would decode."""

    def __init__(self, tokens: list[int]) -> None:
        super().__init__(f"{len(tokens)} tokens")
        self.tokens = tokens


class _Leave:
    """Stands in for S3Gen while ``generate`` runs: leaves it where it would decode everything."""

    def inference(self, speech_tokens: Any, **settings: Any) -> Any:
        raise _Sampled(speech_tokens.flatten().tolist())


def load(variant: str, folder: Path | None, device: str) -> Any:
    """The library's model on ``device`` (cpu, cuda, cuda:1, mps, or auto for the best there is).

    From ``folder``, or downloaded from Hugging Face on first use. Raises EngineError.
    """
    torch, module = libraries(variant)
    library = getattr(module, VARIANTS[variant][1])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return library.from_pretrained(device) if folder is None else library.from_local(folder, device)
    except Exception as error:
        where = f"from {folder}" if folder else "from Hugging Face; CHATTERBOX_DIR names a folder with the weights"
        raise EngineError(f"Chatterbox ({variant}) cannot be loaded {where}: {_said(error)}") from error


def libraries(variant: str) -> tuple[Any, Any]:
    """(torch, the library's module of a variant), kept quiet. Raises EngineError with the remedy."""
    logging.getLogger("chatterbox").setLevel(logging.ERROR)
    try:
        torch = importlib.import_module("torch")
        perth = importlib.import_module("perth")
        module = importlib.import_module(VARIANTS[variant][0])
        # They print, and draw progress bars, for every piece.
        for name in ("t3.t3", "s3gen.flow_matching"):
            noisy = vars(importlib.import_module(f"chatterbox.models.{name}"))
            noisy.update(print=lambda *words: None, tqdm=lambda steps, **look: steps)
    except ImportError as error:
        raise EngineError(f"Chatterbox is not installed here ({error}); {REMEDY}") from error
    if perth.PerthImplicitWatermarker is None:
        raise EngineError("Perth's watermarker needs pkg_resources: pip install 'setuptools<82' into this environment")
    return torch, module


class ChatterboxModel:
    """One copy of the weights. Everything here belongs to one thread; one synthesis at a time."""

    def __init__(self, model: Any, variant: str, options: dict[str, float]) -> None:
        """``options`` are handed to the library's ``generate``: temperature, and for some cfg_weight, exaggeration."""
        self._torch, self._module = libraries(variant)
        self._model = model
        self._variant = variant
        self._options = options
        self._s3gen = model.s3gen
        self.hooks = AbortHooks(model.t3, model.s3gen)
        self.voices: dict[str, Any] = {}
        """The library's conditionals of each voice."""
        if model.conds is not None:
            self.voices[BUILT_IN] = model.conds

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages it speaks."""
        return tuple(getattr(self._module, "SUPPORTED_LANGUAGES", {"en": "English"}))

    def prepare(self, folder: Path, cache: Path) -> None:
        """Make a voice of every audio file in ``folder``; what is computed is kept in ``cache``. Raises EngineError."""
        if not folder.is_dir():
            raise EngineError(f"CHATTERBOX_VOICES={folder}: no such folder; expected one with voices as WAV files")
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in AUDIO:
                # Voices are listed with commas between them.
                self.voices[file.stem.replace(",", " ")] = self._voice(file, cache)

    def _voice(self, file: Path, cache: Path) -> Any:
        kind = self._module.Conditionals
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        kept = cache / f"{digest}.{self._variant}.pt"
        if kept.exists():
            try:
                return kind.load(kept, map_location=self._model.device).to(self._model.device)
            except Exception as error:
                log.warning("the kept voice %s is unusable (%s); computed again", kept, type(error).__name__)
        try:
            with self._torch.inference_mode():
                self._model.prepare_conditionals(str(file))
        except (Exception, AssertionError) as error:
            raise EngineError(f"{file} cannot become a voice: {_said(error)}") from error
        conditionals = self._model.conds
        try:
            cache.mkdir(parents=True, exist_ok=True)
            draft = kept.with_suffix(f".{os.getpid()}")
            conditionals.save(draft)
            draft.replace(kept)
        except OSError as error:
            log.warning("the voice %s cannot be kept (%s); it is computed at every start", file.stem, error.strerror)
        return conditionals

    def speak(
        self,
        text: str,
        voice: str,
        language: str,
        *,
        seed: int,
        limit: int,
        watch: Watch,
        emit: Callable[[Sound, bool], None],
    ) -> bool:
        """Synthesise; whether it came to its end, which ``watch`` decides.

        ``emit(sound, last)`` gets the watermarked sound piece by piece, ``watch`` the account. At most ``limit`` tokens
        are sampled. The same text, voice and seed give the same samples where nobody else draws from torch's generator
        meanwhile.
        """
        torch, model = self._torch, self._model
        known = self.voices[voice]
        number = (seed ^ zlib.crc32(text.encode())) & 0x7FFF_FFFF

        def decode(tokens: list[int], piece: int) -> Sound:
            # The sampling's own generator is left as it was: its tokens do not depend on how they are cut.
            devices = [torch.device(model.device)] if str(model.device).startswith("cuda") else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(number + 1 + piece)
                steps = {"n_cfm_timesteps": 2} if self._variant == "turbo" else {}
                ids = torch.tensor(tokens + [SILENCE] * (SHORTEST - len(tokens)), device=model.device)
                sound, _ = self._s3gen.inference(speech_tokens=ids, ref_dict=known.gen, **steps)
            return np.asarray(sound[0, : len(tokens) * SAMPLES].float().cpu().numpy())

        def give(sound: Sound, last: bool) -> None:
            if not watch.wanted():
                raise Aborted
            marked = self._watermarked(sound)
            watch.voiced = pieces.voiced
            emit(marked, last)

        pieces = PieceWise(decode, give)

        def take(token: int) -> None:
            pieces.add(token)
            watch.sampled = len(pieces.tokens)
            if watch.sampled >= limit:
                raise _Sampled(pieces.tokens)

        def work() -> None:
            torch.manual_seed(number)
            # ``generate`` may replace a part of the conditionals it is given.
            model.conds = self._module.Conditionals(known.t3, known.gen)
            tokens = self._sample(text, language)
            watch.sampled = watch.total = len(tokens)
            pieces.finish(tokens)

        watch.on_token = take
        with torch.inference_mode():
            return self.hooks.run(watch, work)

    def _sample(self, text: str, language: str) -> list[int]:
        """Every token that is to be decoded."""
        words = {"language_id": language} if self._variant == "multilingual" else {}
        with self._without_decoder():
            try:
                self._model.generate(text, **words, **self._options)
            except _Sampled as sampled:
                return sampled.tokens
        raise EngineError("this version of chatterbox-tts does not decode as 0.1.7 does; install that one")

    @contextmanager
    def _without_decoder(self) -> Any:
        self._model.s3gen = _Leave()
        try:
            yield
        finally:
            self._model.s3gen = self._s3gen

    def _watermarked(self, sound: Sound) -> Sound:
        marked = self._model.watermarker.apply_watermark(sound, sample_rate=RATE)
        whole: Sound = np.zeros_like(sound)
        whole[: len(marked)] = marked[: len(sound)]
        return whole


def _said(error: BaseException) -> str:
    return f"{type(error).__name__} {str(error)[:200]}".strip()
