"""What happened in one session, put together from its streams: for the console, and for whoever asks for it as JSON.

Times are seconds of the caller's audio since the session began, so that they fit the recording; ``clock`` is by how
much the session's own clock was ahead of it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bus.events import MIC_RATE, Event, Final, Input, Played, Said, Sentence, TurnRecord
from bus.foreign import read_json
from bus.history import conversation
from bus.waterfall import Step, spans, steps
from gateway.inputs import SpeechPaused, SpeechStarted
from gateway.journal import BadJournal, read_input
from gateway.names import turn_item, utterance_item

log = logging.getLogger(__name__)

MARKS = ("held", "resumed", "cancelled")


@dataclass(frozen=True, slots=True)
class Streams:
    """The events of one session, stream by stream."""

    transcript: Sequence[Event] = ()
    reply: Sequence[Event] = ()
    history: Sequence[Event] = ()
    playback: Sequence[Event] = ()
    records: Sequence[Event] = ()
    inputs: Sequence[Event] = ()


def story(session: str, streams: Streams) -> dict[str, Any]:
    """``entries`` of the conversation as heard, with what was never heard; ``marks`` of it; ``turns``."""
    clock = _clock(streams.inputs)
    records = {each.turn: _readable(each) for each in streams.records if isinstance(each, TurnRecord)}
    heard = _heard(streams.playback)
    entries = [
        *_caller(session, streams),
        *_assistant(session, streams, records, heard, clock),
    ]
    entries.sort(key=lambda entry: entry["at"])
    return {
        "clock": round(clock, 3),
        "entries": entries,
        "marks": sorted([*_onsets(streams.inputs), *_marks(records, clock)], key=lambda mark: mark["at"]),
        "turns": [_turn(records[number], clock) for number in sorted(records)],
    }


def _readable(record: TurnRecord) -> TurnRecord:
    """A record whose steps can be read; without any where they cannot."""
    try:
        steps(record)
    except ValueError as error:
        log.warning("%s", error)
        return replace(record, steps="[]")
    return record


def _clock(inputs: Sequence[Event]) -> float:
    """By how much the session's clock is ahead of the caller's audio: at least what any onset was found late."""
    ahead = []
    for each in inputs:
        if isinstance(each, Input) and each.name in ("SpeechStarted", "SpeechPaused"):
            try:
                heard = read_input(each)
                if isinstance(heard, SpeechStarted | SpeechPaused):
                    ahead.append(float(heard.at) - heard.offset / MIC_RATE)
            except (BadJournal, OverflowError, TypeError, ValueError):
                log.warning("an entry of the journal cannot be read: %s", each.name)
    return min(ahead, default=0.0)


def _heard(playback: Sequence[Event]) -> dict[int, tuple[float, float]]:
    """Turn -> when it was first and last heard."""
    found: dict[int, tuple[float, float]] = {}
    for each in playback:
        if isinstance(each, Played):
            begin = each.mic / MIC_RATE
            first, last = found.get(each.turn, (begin, begin))
            found[each.turn] = (min(first, begin), max(last, begin + (each.end - each.start) / 1000))
    return found


def _caller(session: str, streams: Streams) -> list[dict[str, Any]]:
    onsets = {mark["utterance"]: mark["at"] for mark in _onsets(streams.inputs)}
    finals = {each.utterance: each for each in streams.transcript if isinstance(each, Final)}
    names = {utterance_item(session, number): number for number in finals}
    found, last = [], 0.0
    for said in conversation(streams.history):
        if said.role == "user":
            final = finals.get(names.get(said.item, 0))
            number = names.get(said.item, 0)
            last = onsets.get(number, final.start / MIC_RATE if final else last)
            end = max(last, final.end / MIC_RATE) if final else last
            found.append({"who": "caller", "at": round(last, 3), "end": round(end, 3), "text": said.text.strip(),
                          "backchannel": said.name == "backchannel"})  # fmt: skip
    return found


def _assistant(
    session: str,
    streams: Streams,
    records: dict[int, TurnRecord],
    heard: dict[int, tuple[float, float]],
    clock: float,
) -> list[dict[str, Any]]:
    said = {each.item: each for each in conversation(streams.history) if each.role == "assistant"}
    made = _generated(streams.reply)
    found = []
    for turn in sorted({*made, *records, *heard}):
        message = said.get(turn_item(session, turn), Said("", "assistant", ""))
        begin, end = heard.get(turn, (_opened(records.get(turn), clock),) * 2)
        record = records.get(turn)
        found.append({
            "who": "assistant", "turn": turn, "at": round(begin, 3), "end": round(end, 3), "text": message.text.strip(),
            "unheard": unheard(made.get(turn, ""), message.text) if record or message.text else "",
            "outcome": record.outcome if record else "", "reason": record.reason if record else "",
        })  # fmt: skip
    return found


def _generated(reply: Sequence[Event]) -> dict[int, str]:
    """Turn -> all that was written for it, sentence by sentence; a later attempt replaces the earlier."""
    sentences: defaultdict[int, dict[int, Sentence]] = defaultdict(dict)
    for each in reply:
        if isinstance(each, Sentence):
            before = sentences[each.turn].get(each.index)
            if before is None or each.attempt >= before.attempt:
                sentences[each.turn][each.index] = each
    return {turn: " ".join(found[index].text for index in sorted(found)) for turn, found in sentences.items()}


def unheard(generated: str, heard: str) -> str:
    """What was written and never heard: what follows the words that were."""
    words = generated.split()
    return " ".join(words[len(heard.split()) :])


def _opened(record: TurnRecord | None, clock: float) -> float:
    opened = [step.at for step in steps(record) if step.name == "turn"] if record else []
    return max(0.0, opened[0] / 1000 - clock) if opened else 0.0


def _onsets(inputs: Sequence[Event]) -> list[dict[str, Any]]:
    found = []
    for each in inputs:
        if isinstance(each, Input) and each.actions:
            try:
                started = [fields for name, fields in read_json(each.actions) if name == "StartUtterance"]
                told = [(int(fields["utterance"]), round(fields["offset"] / MIC_RATE, 3)) for fields in started]
            except (KeyError, OverflowError, TypeError, ValueError):
                log.warning("what was decided on %s cannot be read", each.name)
                continue
            found += [{"name": "onset", "at": at, "utterance": utterance} for utterance, at in told]
    return found


def _marks(records: dict[int, TurnRecord], clock: float) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "at": _at(step, clock), "turn": turn, "detail": step.detail}
        for turn, record in records.items()
        for step in steps(record)
        if step.name in MARKS
    ]


def _turn(record: TurnRecord, clock: float) -> dict[str, Any]:
    return {
        "turn": record.turn, "utterance": record.utterance, "outcome": record.outcome, "reason": record.reason,
        "heard_ms": record.heard, "samples": record.samples, "tokens": record.tokens,
        "unanswered": [stage for stage in record.unanswered.split(",") if stage],
        "spans": [
            {**asdict(span), "start": round(span.start / 1000 - clock, 4), "end": round(span.end / 1000 - clock, 4)}
            for span in spans(record)
        ],
        "steps": [{"name": step.name, "at": _at(step, clock), "detail": step.detail} for step in steps(record)],
    }  # fmt: skip


def _at(step: Step, clock: float) -> float:
    return round(max(0.0, step.at / 1000 - clock), 4)
