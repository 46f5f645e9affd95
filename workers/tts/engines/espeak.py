"""The espeak-ng voice, from the ``espeakng-loader`` wheel: small, robotic, quick, and exact about its words.

libespeak-ng 1.52 is licensed GPL-3.0-or-later. It is loaded at run time through ctypes, in this process only.

Measured (2 shared cores): first chunk after 0.1 to 8 ms, 0.006 s of work per second of speech, a cancel within the
synthesis takes effect after 0.6 ms (median). The library's state is global: one thread, one synthesis at a time. The
same sentence differs from one time to the next by some milliseconds: the library keeps the phase of its oscillators.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from bus.cancel import CancelToken
from bus.settings import BusSettings, load
from workers.engines import EngineError
from workers.tts.engine import Chunk

log = logging.getLogger(__name__)

BUFFER_MS = 20
CHUNK_MS = 60
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE = 1
_WORD = 1
_ABORT = 1


class EspeakSettings(BusSettings):
    """How fast it speaks."""

    tts_rate_wpm: int = Field(default=175, ge=80, le=450)


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h: positions in characters from 1, audio positions in ms."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


class _Voice(ctypes.Structure):
    """The head of espeak_VOICE of speak_lib.h."""

    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p))


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(slots=True)
class _Synthesis:
    """One sentence on its way through the library, filled in by the library's thread."""

    text: str
    rate: int
    cancel: CancelToken
    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[Chunk | None] = field(default_factory=asyncio.Queue)
    abandoned: bool = False
    failure: BaseException | None = None
    pcm: bytearray = field(default_factory=bytearray)
    samples: int = 0
    """Samples that have left in chunks."""
    told: int = 0
    """Characters of the text that have left with chunks."""
    words: list[tuple[int, int]] = field(default_factory=list)
    """(sample, character) at which each word begins."""

    def hear(self, audio: Any, count: int, events: Any) -> int:
        """Take what the library made; whether it shall stop."""
        if self.abandoned or self.cancel.cancelled:
            return _ABORT
        index = 0
        while events[index].type:
            event = events[index]
            at = event.text_position - 1
            # A number is several words to the library ("twenty", "four"); the text is only cut between words of its own.
            if event.type == _WORD and (at <= 0 or self.text[at - 1 : at].isspace()):
                self.words.append((event.audio_position * self.rate // 1000, at))
            index += 1
        if audio and count > 0:
            self.pcm += ctypes.string_at(audio, count * 2)
        size = self.rate * CHUNK_MS // 1000 * 2
        # A chunk is kept until the next has begun, so that the last one can carry what text remains.
        while len(self.pcm) > size:
            self._send(bytes(self.pcm[:size]))
            del self.pcm[:size]
        return 0

    def end(self) -> None:
        """The library is done: send what is left, with the rest of the text."""
        if self.pcm or self.told < len(self.text):
            self._give(Chunk(bytes(self.pcm), self.text[self.told :], exact=True))
        self.pcm.clear()

    def _send(self, pcm: bytes) -> None:
        self.samples += len(pcm) // 2
        # A word's sound is complete where the next word begins.
        complete = max((at for sample, at in self.words if sample <= self.samples), default=0)
        complete = min(max(complete, self.told), len(self.text))
        text, self.told = self.text[self.told : complete], complete
        self._give(Chunk(pcm, text, exact=True))

    def _give(self, chunk: Chunk | None) -> None:
        self.loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)

    def close(self) -> None:
        """Nothing follows."""
        self._give(None)


class Espeak:
    """Implements ``workers.tts.engine.TtsEngine``."""

    name = "espeak"
    capacity = 64

    def __init__(self) -> None:
        self.rate = 22_050
        self.voices: tuple[str, ...] = ()
        self._wpm = load(EspeakSettings).tts_rate_wpm
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="espeak")
        self._library: Any = None
        self._languages: dict[str, str] = {}
        self._current: _Synthesis | None = None
        self._voice = ""
        self._callback = _Callback(self._hear)

    async def load(self) -> None:
        """Load the library and its voices, and speak a word. Raises EngineError."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        async for _ in self.speak("Ready.", "", "en-US", CancelToken("", 1)):
            pass

    async def speak(self, text: str, voice: str, language: str, cancel: CancelToken) -> AsyncIterator[Chunk]:
        """Synthesise one sentence; see ``workers.tts.engine``."""
        loop = asyncio.get_running_loop()
        chosen = self._choose(voice, language)
        synthesis = _Synthesis(text, self.rate, cancel, loop)
        done = loop.run_in_executor(self._thread, self._synthesise, synthesis, chosen)
        try:
            while (chunk := await synthesis.chunks.get()) is not None:
                cancel.check()
                yield chunk
            cancel.check()
            if synthesis.failure is not None:
                raise EngineError(f"espeak: {synthesis.failure}") from synthesis.failure
        finally:
            synthesis.abandoned = True
            await asyncio.shield(done)

    def _choose(self, voice: str, language: str) -> str:
        if voice:
            if voice in self.voices:
                return voice
            some = ", ".join(self.voices[:8])
            raise EngineError(f"TTS_VOICE={voice[:40]}: espeak has no such voice; it has {some}, ...")
        wanted = language.lower()
        for name in (wanted, wanted.partition("-")[0]):
            if name in self._languages:
                return self._languages[name]
        some = ", ".join(sorted(self._languages)[:12])
        raise EngineError(f"SPEECH_LANGUAGE={language[:40]}: espeak has no voice for it; it has {some}, ...")

    # -- in the library's thread

    def _load(self) -> None:
        try:
            import espeakng_loader

            library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path().encode()
        except (ImportError, OSError) as error:
            raise EngineError(f"espeak: the library cannot be loaded: {error}; pip install espeakng-loader") from error
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p,
        ]  # fmt: skip
        library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        library.espeak_ListVoices.argtypes = [ctypes.c_void_p]
        rate = library.espeak_Initialize(_SYNCHRONOUS, BUFFER_MS, data, _DONT_EXIT)
        if rate <= 0:
            raise EngineError(f"espeak: initialising failed with {rate}; its data was looked for in {data.decode()}")
        self.rate = rate
        library.espeak_SetSynthCallback(self._callback)
        library.espeak_SetParameter(_RATE, self._wpm, 0)
        voices = library.espeak_ListVoices(None)
        names, index = [], 0
        while voices[index]:
            entry = voices[index].contents
            name = entry.identifier.decode().rpartition("/")[2]
            names.append(name)
            # A language's byte of priority stands before its name.
            self._languages.setdefault(entry.languages[1:].decode().lower(), name)
            index += 1
        self.voices = tuple(sorted(set(names)))
        self._library = library

    def _synthesise(self, synthesis: _Synthesis, voice: str) -> None:
        try:
            if synthesis.abandoned or synthesis.cancel.cancelled:
                return
            if voice != self._voice:
                result = self._library.espeak_SetVoiceByName(voice.encode())
                if result:
                    raise EngineError(f"the voice {voice} cannot be set ({result})")
                self._voice = voice
            self._current = synthesis
            raw = synthesis.text.encode() + b"\0"
            result = self._library.espeak_Synth(raw, len(raw), 0, 1, 0, _UTF8, None, None)
            if result:
                raise EngineError(f"synthesis failed with {result}")
            if not (synthesis.abandoned or synthesis.cancel.cancelled):
                synthesis.end()
        except Exception as error:
            synthesis.failure = error
        finally:
            self._current = None
            synthesis.close()

    def _hear(self, audio: Any, count: int, events: Any) -> int:
        synthesis = self._current
        if synthesis is None:
            return _ABORT
        try:
            return synthesis.hear(audio, count, events)
        except Exception as error:
            # An exception may not leave through the C library; it is raised when the synthesis has returned.
            synthesis.failure = error
            synthesis.abandoned = True
            return _ABORT
