"""A turn's record as spans of time: who worked on it from when to when."""

from __future__ import annotations

from dataclasses import dataclass

from bus.events import TurnRecord
from bus.foreign import read_json

ENDS = ("done", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class Step:
    """One moment of a turn: its name, ms since the session began, and what is to be said of it."""

    name: str
    at: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a turn, from ``start`` to ``end`` ms since the session began.

    ``name``: ``listen`` (the caller's question), ``transcribe`` (0 ms when the text was there first), ``think`` (to the
    model's first token), ``compose`` (to the first sentence), ``voice`` (to the first audio), ``deliver`` (to the first
    frame that left), ``speak`` (to the turn's end), ``hold`` within it, and ``stop:<stage>`` from a cancel's decision
    until the stage was known to have stopped.
    """

    name: str
    start: float
    end: float
    detail: str = ""


def steps(record: TurnRecord) -> list[Step]:
    """The record's steps in order. Raises ValueError when they are not ``[[name, ms, detail], ...]``."""
    try:
        return [Step(str(name), float(at), str(detail)) for name, at, detail in read_json(record.steps)]
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"turn {record.turn}: its steps are not [[name, ms, detail], ...]: {error}") from None


def spans(record: TurnRecord) -> list[Span]:
    """Who worked on the turn from when to when, as far as its steps tell, in order of their beginning."""
    done = steps(record)
    first: dict[str, Step] = {}
    for step in done:
        first.setdefault(step.name, step)
    opened = first.get("released") or first.get("turn")
    asked = [step for step in done if opened is None or step.at <= opened.at]
    last = {step.name: step for step in asked}
    ended = next((step for step in done if step.name in ENDS), None)
    found = [
        _between("listen", first.get("onset") if first.get("onset") in asked else None, last.get("end_of_speech")),
        _waited("transcribe", last.get("end_of_speech"), last.get("final_text")),
        _between("think", first.get("turn"), first.get("first_token") or first.get("first_sentence")),
        _between("compose", first.get("first_token"), first.get("first_sentence")),
        _between("voice", first.get("first_sentence") or first.get("turn"), first.get("first_audio")),
        _between("deliver", first.get("first_audio"), first.get("first_out")),
        _between("speak", first.get("first_out"), ended),
        *_holds(done, ended),
        *_stops(done, first.get("cancelled")),
    ]
    return sorted((span for span in found if span is not None), key=lambda span: (span.start, span.end))


def _between(name: str, start: Step | None, end: Step | None) -> Span | None:
    if start is None or end is None or end.at < start.at:
        return None
    return Span(name, start.at, end.at, end.detail)


def _waited(name: str, start: Step | None, end: Step | None) -> Span | None:
    """Like ``_between``; what was there before it was waited for took no time."""
    if start is None or end is None:
        return None
    return Span(name, start.at, max(start.at, end.at), end.detail)


def _holds(done: list[Step], ended: Step | None) -> list[Span | None]:
    found, held = list[Span | None](), None
    for step in done:
        if step.name == "held":
            held = step
        elif held is not None and (step.name == "resumed" or step is ended):
            found.append(Span("hold", held.at, step.at, "taken back" if step.name == "resumed" else step.name))
            held = None
    return found


def _stops(done: list[Step], cancelled: Step | None) -> list[Span | None]:
    stops = ((step, step.name.partition(":")) for step in done)
    return [
        Span(f"stop:{stage}", cancelled.at, max(cancelled.at, step.at), step.detail)
        for step, (word, _, stage) in stops
        if cancelled is not None and word in ("stopped", "late")
    ]


def drawn(record: TurnRecord, width: int = 40) -> list[str]:
    """The turn as lines of text: what became of it, a bar for each span, and every step with its milliseconds."""
    done, found = steps(record), spans(record)
    reason = f" ({record.reason})" if record.reason else ""
    asked = f"answers utterance {record.utterance}" if record.utterance else "was asked for"
    lines = [f"turn {record.turn}: {record.outcome or 'not settled'}{reason}, {record.heard} ms heard; it {asked}"]
    if record.samples or record.tokens:
        lines.append(f"made in vain: {record.samples} samples by the voice, {record.tokens} tokens by the model")
    if record.unanswered:
        lines.append(f"did not say that they stopped: {record.unanswered}")
    if not done:
        return [*lines, "no steps"]
    begin = min(step.at for step in done)
    total = max(1.0, max([step.at for step in done] + [span.end for span in found]) - begin)
    lines.append("")
    for span in found:
        left = round((span.start - begin) / total * width)
        right = max(left + 1, round((span.end - begin) / total * width))
        bar = f"{'':{left}}{'█' * (right - left)}"[: width + 1]
        lines.append(f"  {span.name:<13} {bar:<{width + 1}} {span.end - span.start:7.0f} ms  {span.detail}".rstrip())
    lines.append("")
    before = begin
    for step in sorted(done, key=lambda each: each.at):
        lines.append(f"  {step.at:9.1f} ms  +{step.at - before:<8.1f} {step.name:<17} {step.detail}".rstrip())
        before = step.at
    return lines
