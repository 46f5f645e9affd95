"""What the caller heard, put together again from a session's speech and playback streams."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import soxr

from bus.events import MIC_RATE, Played, SpeechAudio
from bus.wire import LONGEST_CALL_S

Int16 = npt.NDArray[np.int16]

JOIN_MS = 250
"""How late (ms) a continuation may be reported and still follow without a gap: reports are sent every 100 ms or so.

Audio also leaves up to 200 ms ahead of its time, so a continuation that seems early always follows without a gap.
"""
LONGEST_TURN_S = 3600
"""Seconds of a turn's audio that are laid out."""
_MS = MIC_RATE // 1000


@dataclass
class _Stretch:
    """Audio of one turn, from ``start`` to ``end`` ms of it, heard from sample ``at`` of the session on."""

    turn: int
    start: int
    end: int
    at: int
    anchors: list[int]
    """Where each of its reports would have it begin: the microphone's audio arrives late now and then, never early."""

    @property
    def after(self) -> int:
        return self.at + (self.end - self.start) * _MS


def place(speech: Iterable[SpeechAudio], playback: Iterable[Played]) -> Int16:
    """What was heard as samples at 16 kHz from the beginning of the session, silence where nothing was heard."""
    turns = _turns(speech)
    stretches = _stretches(playback)
    none = np.zeros(0, np.int16)
    pieces = [(each.at, turns.get(each.turn, none)[each.start * _MS : each.end * _MS]) for each in stretches]
    pieces = [(at, piece) for at, piece in pieces if len(piece)]
    samples = np.zeros(max((at + len(piece) for at, piece in pieces), default=0), np.int16)
    for at, piece in pieces:
        samples[at : at + len(piece)] = piece
    return samples


def moments(playback: Iterable[Played]) -> dict[int, tuple[int, int]]:
    """Turn -> when it began and ended to be heard, in samples at 16 kHz since the session began."""
    found: dict[int, tuple[int, int]] = {}
    for stretch in _stretches(playback):
        first, last = found.get(stretch.turn, (stretch.at, stretch.after))
        found[stretch.turn] = (min(first, stretch.at), max(last, stretch.after))
    return found


def _stretches(playback: Iterable[Played]) -> list[_Stretch]:
    """Playback reports joined into stretches: a new one where the turn changes, jumps, or was held.

    A report that goes back to an earlier position of its turn says that what followed it was dropped unheard.
    """
    done: list[_Stretch] = []
    for event in playback:
        for stretch in done:
            if stretch.turn == event.turn and stretch.end > event.start:
                stretch.end = max(stretch.start, event.start)
        if event.end <= event.start or event.mic >= LONGEST_CALL_S * MIC_RATE:
            continue
        last = done[-1] if done else None
        free = last.after if last else 0
        if last and (last.turn, last.end) == (event.turn, event.start) and event.mic - free <= JOIN_MS * _MS:
            last.end = event.end
            last.anchors.append(event.mic - (event.start - last.start) * _MS)
        else:
            done.append(_Stretch(event.turn, event.start, event.end, max(event.mic, free), [event.mic]))
    free = 0
    for stretch in done:
        stretch.at = max(free, round(median(stretch.anchors)))
        free = stretch.after
    return [stretch for stretch in done if stretch.end > stretch.start]


def _turns(speech: Iterable[SpeechAudio]) -> dict[int, Int16]:
    """The audio of every turn at 16 kHz, resampled in one piece so that no cut of it clicks.

    A later attempt replaces what the earlier ones said from its first sample on; an earlier one's latecomers are
    ignored. Chunks at another rate than their turn's first are brought to that rate first.
    """
    attempts: dict[int, int] = {}
    rates: dict[int, int] = {}
    whole: dict[int, bytearray] = {}
    for event in speech:
        if event.offset >= LONGEST_TURN_S * event.rate:
            continue
        rate = rates.setdefault(event.turn, event.rate)
        pcm, begin = event.pcm, event.offset * 2
        if event.rate != rate:
            pcm = _resampled(event.pcm, event.rate, rate).tobytes()
            begin = event.offset * rate // event.rate * 2
        audio = whole.setdefault(event.turn, bytearray())
        newest = attempts.setdefault(event.turn, event.attempt)
        if event.attempt < newest:
            continue
        if event.attempt > newest:
            attempts[event.turn] = event.attempt
            del audio[begin:]
        audio.extend(bytes(max(0, begin - len(audio))))
        audio[begin : begin + len(pcm)] = pcm
    return {turn: _resampled(bytes(pcm), rates[turn], MIC_RATE) for turn, pcm in whole.items()}


def _resampled(pcm: bytes, rate: int, wanted: int) -> Int16:
    """16-bit samples at another rate; computed in floats, because soxr dithers what it makes from integers."""
    samples = np.frombuffer(pcm, "<i2")
    if rate == wanted or not len(samples):
        return samples
    resampled: npt.NDArray[np.float32] = soxr.resample(samples.astype(np.float32), rate, wanted)
    return np.clip(np.rint(resampled), -32_768, 32_767).astype(np.int16)
