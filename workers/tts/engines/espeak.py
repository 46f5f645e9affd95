"""The embedded voice: eSpeak NG, from the wheel ``espeakng-loader``, through ctypes.

The library is GPL-3.0-or-later; it is loaded when this engine is, and no part of it is part of this project.

Output is 22,050 Hz mono 16-bit. Alignment is exact: eSpeak names the sample at which each word begins, and a word is
complete where the next one begins. A word that eSpeak reads as several ("1883") is complete with the last of them.
The same sentence does not give the same samples twice.

eSpeak's state is global to the process. One thread does all of its work, which is the lock on it; a sentence takes a
few milliseconds. Its callback asks every 60 ms of audio whether to go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import unicodedata
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_char, c_char_p, c_int, c_short, c_size_t, c_ubyte, c_uint, c_void_p
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from bus.cancel import CancelToken
from bus.settings import BusSettings, problems
from workers.engines import EngineError
from workers.tts.engine import Chunk
from workers.tts.normalise import Spoken, normalise

SLOWEST, QUICKEST = 80, 450
"""Words a minute."""
CHUNK_MS = 60
"""How long a chunk may be, and eSpeak's own buffer, which cannot be shorter."""
PAUSE_MS = 200
"""Silence after a sentence with words in it: eSpeak leaves the pause after the last one out."""

# Constants of speak_lib.h.
SYNCHRONOUS = 2
DONT_EXIT = 0x8000
CHARS_UTF8 = 1
RATE = 1
WORD = 1
GO_ON, ABORT = 0, 1


class _Id(ctypes.Union):
    _fields_: ClassVar = [("number", c_int), ("name", c_char_p), ("string", c_char * 8)]


class _Event(ctypes.Structure):
    """espeak_EVENT: ``position`` counts characters from 1, ``sample`` samples from the start of the synthesis."""

    _fields_: ClassVar = [
        ("type", c_int),
        ("unique_identifier", c_uint),
        ("position", c_int),
        ("length", c_int),
        ("ms", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", _Id),
    ]


class _Voice(ctypes.Structure):
    """espeak_VOICE: ``languages`` is a list of (priority byte, zero-terminated tag), ended by a zero priority."""

    _fields_: ClassVar = [
        ("name", c_char_p),
        ("languages", c_void_p),
        ("identifier", c_char_p),
        ("gender", c_ubyte),
        ("age", c_ubyte),
        ("variant", c_ubyte),
        ("xx1", c_ubyte),
        ("score", c_int),
        ("spare", c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_Event))

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")


class Settings(BaseSettings):
    """How fast it speaks, and for how many."""

    model_config = BusSettings.model_config

    tts_rate_wpm: int = Field(default=175, ge=SLOWEST, le=QUICKEST)
    """Words a minute."""
    tts_capacity: int = Field(default=64, ge=1, le=10_000)
    """How many turns one process speaks at once."""


class Library:
    """The loaded library. Everything in it belongs to the engine's thread."""

    _loaded: ClassVar[Library | None] = None

    @classmethod
    def get(cls) -> Library:
        """The process's one library, loaded on first use. Raises EngineError."""
        if cls._loaded is None:
            cls._loaded = Library()
        return cls._loaded

    def __init__(self) -> None:
        import espeakng_loader

        data = espeakng_loader.get_data_path()
        try:
            self._lib: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise EngineError(f"libespeak-ng cannot be loaded: {error}; reinstall espeakng-loader") from error
        lib = self._lib
        lib.espeak_Initialize.argtypes = [c_int, c_int, c_char_p, c_int]
        lib.espeak_SetVoiceByName.argtypes = [c_char_p]
        lib.espeak_SetParameter.argtypes = [c_int, c_int, c_int]
        lib.espeak_ListVoices.argtypes = [c_void_p]
        lib.espeak_ListVoices.restype = POINTER(POINTER(_Voice))
        lib.espeak_Synth.argtypes = [c_char_p, c_size_t, c_uint, c_int, c_uint, c_uint, c_void_p, c_void_p]
        lib.espeak_SetSynthCallback.argtypes = [_Callback]
        self.rate: int = lib.espeak_Initialize(SYNCHRONOUS, CHUNK_MS, data.encode(), DONT_EXIT)
        if self.rate <= 0:
            raise EngineError(f"espeak cannot use its data in {data} (a path of 160 characters or more is too long)")
        self._take: Callable[[bytes, list[tuple[int, int]]], bool] | None = None
        self._error: BaseException | None = None
        self._callback = _Callback(self._on_audio)
        lib.espeak_SetSynthCallback(self._callback)
        self.languages: dict[str, str] = {}
        """The voice that speaks each language tag best."""
        self.names: dict[str, str] = {}
        """Every voice's name, by its lower-case name and identifier."""
        self.identifiers: list[str] = []
        """What a voice is called in lists: ``en-US``. Names have commas and brackets: ``English (America)``."""
        self._list_voices()
        self.variants = frozenset(file.name for file in (Path(data) / "voices" / "!v").glob("*"))

    def synthesise(
        self, text: str, voice: str, rate: int, take: Callable[[bytes, list[tuple[int, int]]], bool]
    ) -> None:
        """Synthesise with a voice known here, at ``rate`` words a minute.

        ``take`` gets each piece of about CHUNK_MS and the words that begin in it as (sample, index of character),
        and answers whether to go on; an exception of its own ends the synthesis and is raised here. Raises
        EngineError.
        """
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EngineError(f"espeak cannot load the voice {voice!r}")
        self._lib.espeak_SetParameter(RATE, rate, 0)
        # A zero would end the text, and a lone surrogate has no UTF-8; both keep their place for the alignment.
        raw = text.replace("\0", " ").encode("utf-8", "replace") + b"\0"
        self._take, self._error = take, None
        try:
            code = self._lib.espeak_Synth(raw, len(raw), 0, 0, 0, CHARS_UTF8, None, None)
        finally:
            error, self._take, self._error = self._error, None, None
        if error is not None:
            raise error
        if code != 0:
            raise EngineError(f"espeak failed with code {code}")

    def _on_audio(self, wav: Any, count: int, events: Any) -> int:
        # ctypes would print an exception that left here, and go on.
        try:
            words, index = [], 0
            while events[index].type:
                if events[index].type == WORD:
                    words.append((events[index].sample, events[index].position - 1))
                index += 1
            pcm = ctypes.string_at(wav, 2 * count) if wav and count > 0 else b""
            return GO_ON if self._take is not None and self._take(pcm, words) else ABORT
        except BaseException as error:
            self._error = error
            return ABORT

    def _list_voices(self) -> None:
        best: dict[str, int] = {}
        listed = self._lib.espeak_ListVoices(None)
        index = 0
        while listed[index]:
            voice = listed[index].contents
            index += 1
            name, at = voice.name.decode(), voice.languages
            identifier = voice.identifier.decode().rpartition("/")[2]
            self.identifiers.append(identifier)
            self.names[name.strip().lower()] = self.names[identifier.lower()] = name
            while priority := ctypes.string_at(at, 1)[0]:
                tag = ctypes.string_at(at + 1)
                at += 2 + len(tag)
                language = tag.decode().lower()
                if priority < best.get(language, 256):
                    best[language], self.languages[language] = priority, name


class Espeak:
    """The engine. All its instances in a process share the library and its thread."""

    name = "espeak"
    rate = 22_050
    repeatable = True
    own_speed = True

    def __init__(self) -> None:
        """Read the settings. Raises EngineError when one is wrong."""
        try:
            settings = Settings()
        except ValidationError as error:
            raise EngineError("; ".join(problems(Settings, error))) from None
        self.capacity = settings.tts_capacity
        self.voices: tuple[str, ...] = ()
        self._words_a_minute = settings.tts_rate_wpm
        self._library: Library | None = None

    async def load(self) -> None:
        """Load the library and speak once, unheard. Raises EngineError."""
        loop = asyncio.get_running_loop()
        library = await loop.run_in_executor(_thread, Library.get)
        self.rate, self.voices = library.rate, tuple(sorted(library.identifiers))
        self._library = library
        voice = self.find_voice("", "en-US")
        await loop.run_in_executor(
            _thread, library.synthesise, "Ready.", voice, self._words_a_minute, lambda pcm, words: True
        )

    def find_voice(self, voice: str, language: str) -> str:
        """eSpeak's name for a voice, or for the best one of ``language`` when ``voice`` is "". Raises EngineError.

        A voice is called as in ``voices``, by its full name or by a language tag, in any case, and may have a variant:
        ``en-GB+f3``.
        """
        library = self._library
        if library is None:
            raise EngineError("espeak is not loaded; load() comes first")
        if not voice:
            tag = language.replace("_", "-").lower()
            while tag:
                if tag in library.languages:
                    return library.languages[tag]
                tag = tag.rpartition("-")[0]
            raise EngineError(
                f"espeak does not speak {language[:40]!r}; expected a language tag such as en-US, de, fr, es or cmn"
            )
        base, plus, variant = voice.partition("+")
        key = base.strip().lower()
        found = library.names.get(key) or library.languages.get(key)
        if found is None or (plus and variant not in library.variants):
            raise EngineError(
                f"espeak has no voice {voice[:60]!r}; expected for example en-US, en-GB-x-rp, de or fr, one of "
                f"{len(self.voices)}, with a variant if you like (en-US+f3)"
            )
        return f"{found}{plus}{variant}"

    async def speak(
        self, text: str, voice: str, language: str, cancel: CancelToken, *, speed: float = 1.0
    ) -> AsyncIterator[Chunk]:
        """Synthesise one sentence. Raises EngineError, and Cancelled as soon as the turn is cancelled."""
        cancel.check()
        name = self.find_voice(voice, language)
        assert self._library is not None
        synthesis = _Synthesis(self._library, normalise(text, language, numbers=False), text, cancel)
        rate = max(SLOWEST, min(round(self._words_a_minute * speed), QUICKEST))
        work = _thread.submit(synthesis.run, name, rate)
        try:
            while (chunk := await synthesis.chunks.get()) is not None:
                cancel.check()
                yield chunk
            cancel.check()
            if synthesis.error is not None:
                raise synthesis.error
        finally:
            synthesis.wanted = False
            work.cancel()


class _Synthesis:
    """One sentence on its way from the thread to the loop that made it."""

    def __init__(self, library: Library, said: Spoken, text: str, cancel: CancelToken) -> None:
        """``said`` is what is spoken, ``text`` the sentence as it was written."""
        self.chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        """What is ready to be heard; None is the end. A whole sentence fits, so that the thread never waits."""
        self.error: EngineError | None = None
        self.wanted = True
        self._loop = asyncio.get_running_loop()
        self._library = library
        self._said = said
        self._text = text
        self._cancel = cancel
        self._size = 2 * (library.rate * CHUNK_MS // 1000)
        self._audio = bytearray()
        """What has not been delivered."""
        self._sample = 0
        """How many samples have been delivered."""
        self._told = 0
        """How many characters of the text have been delivered."""
        self._marks: list[tuple[int, int]] = []
        """(sample, characters complete there) of what has not been delivered, in order."""
        self._spoken = False

    def run(self, voice: str, rate: int) -> None:
        """Synthesise. In the engine's thread."""
        try:
            if self._is_wanted():
                self._library.synthesise(self._said.text, voice, rate, self._take)
                self._finish()
        except EngineError as error:
            self.error = error
        except BaseException as error:
            self.error = EngineError(f"espeak: {type(error).__name__}: {error}")
            self.error.__cause__ = error
        finally:
            self._deliver(None)

    def _is_wanted(self) -> bool:
        return self.wanted and not self._cancel.cancelled

    def _take(self, pcm: bytes, words: list[tuple[int, int]]) -> bool:
        if not self._is_wanted():
            return False
        self._spoken = self._spoken or bool(words)
        said = self._said
        self._marks += [(sample, said.written(word_start(said.text, at))) for sample, at in words]
        self._audio += pcm
        while len(self._audio) >= self._size:
            self._chunk(self._size)
        return True

    def _finish(self) -> None:
        end = self._sample + len(self._audio) // 2
        self._marks = [(min(sample, end), at) for sample, at in self._marks]
        self._marks.append((end, len(self._text)))
        if self._spoken:
            self._audio += bytes(2 * (self._library.rate * PAUSE_MS // 1000))
        while self._audio or self._marks:
            self._chunk(min(len(self._audio), self._size))

    def _chunk(self, size: int) -> None:
        """Deliver the next ``size`` bytes with the text that is complete at their end."""
        pcm = bytes(self._audio[:size])
        del self._audio[:size]
        self._sample += size // 2
        told = self._told
        while self._marks and self._marks[0][0] <= self._sample:
            self._told = max(self._told, self._marks.pop(0)[1])
        self._deliver(Chunk(pcm, self._text[told : self._told], exact=True))

    def _deliver(self, chunk: Chunk | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
        except RuntimeError:
            self.wanted = False  # the loop is closed: nobody waits any more


def word_start(text: str, at: int) -> int:
    """The start of the word that holds character ``at``: eSpeak gives some parts of a word places of their own.

    Words end at white space, or after any character of a script written without it (Chinese, Japanese).
    """
    at = max(0, min(at, len(text)))
    while at > 0 and not (text[at - 1].isspace() or unicodedata.east_asian_width(text[at - 1]) in "WF"):
        at -= 1
    return at
