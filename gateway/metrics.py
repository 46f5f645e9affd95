"""What Prometheus reads at ``GET /metrics``: everything about turns is computed from their records.

Times in seconds. A histogram's buckets run from one audio frame to the limit after which a stage counts as silent.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bus.events import TurnRecord
from bus.keys import STAGES
from bus.waterfall import spans

STOP = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
DECIDE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 4)
RESPOND = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1, 1.25, 1.5, 2, 3, 5, 10)
SPAN = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5)
SPANS = ("transcribe", "think", "compose", "voice", "deliver")
FAILING = ("llm", "tts", "reply", "other")
"""Who a turn may fail of; ``reply``: an answer that broke off, and was heard as far as it went."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One gateway's counters, in a registry of their own."""

    def __init__(self, sessions: Callable[[], int]) -> None:
        """``sessions`` tells how many sessions are live."""
        self._registry = registry = CollectorRegistry()
        Gauge("bargein_sessions", "Live sessions.", registry=registry).set_function(sessions)
        self._turns = Counter("bargein_turns", "Turns that ended.", ["outcome"], registry=registry)
        self._holds = Counter(
            "bargein_holds", "Replies held at the caller's first sound, and what was decided.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._unanswered = Counter(
            "bargein_cancel_unanswered", "Cancels a stage did not answer within its limit.", ["stage"],
            registry=registry,
        )  # fmt: skip
        self._stopped = Histogram(
            "bargein_cancel_stopped_seconds", "From the decision until a stage was known to have stopped.", ["stage"],
            buckets=STOP, registry=registry,
        )  # fmt: skip
        self._decided = Histogram(
            "bargein_decision_seconds", "From the detected onset to the cancel.", buckets=DECIDE, registry=registry
        )
        self._silence = Histogram(
            "bargein_silence_seconds", "From the detected onset until the client said that it was silent.",
            buckets=STOP, registry=registry,
        )  # fmt: skip
        self._response = Histogram(
            "bargein_response_seconds", "From the end of the utterance to the reply's first audio.", buckets=RESPOND,
            registry=registry,
        )  # fmt: skip
        self._samples = Counter("bargein_unheard_samples", "Made by the voice and not heard.", registry=registry)
        self._tokens = Counter("bargein_cancelled_tokens", "Generated for cancelled turns.", registry=registry)
        self._calls = Counter("bargein_calls", "Calls that began.", registry=registry)
        self._resumed = Counter("bargein_resumed", "Calls whose client came back to them.", registry=registry)
        self._lost = Counter(
            "bargein_lost_audio_seconds", "Audio of callers that was lost while nobody served them.", registry=registry
        )  # fmt: skip
        self._swept = Counter("bargein_swept", "Calls ended in place of a gateway that died.", registry=registry)
        self._refused = Counter("bargein_refused", "Calls that were not let in.", ["code"], registry=registry)
        self._failures = Counter("bargein_turn_failures", "Turns that failed.", ["stage"], registry=registry)
        self._spans = Histogram(
            "bargein_span_seconds", "What a turn's time went to: transcribe, think, compose, voice, deliver.", ["span"],
            buckets=SPAN, registry=registry,
        )  # fmt: skip
        for span in SPANS:
            self._spans.labels(span)
        for code in ("unavailable", "invalid_api_key", "origin_not_allowed", "rate_limit_exceeded"):
            self._refused.labels(code)
        for stage in FAILING:
            self._failures.labels(stage)
        for stage in STAGES:
            self._stopped.labels(stage)
            self._unanswered.labels(stage)
        for outcome in ("done", "cancelled", "failed"):
            self._turns.labels(outcome)
        for outcome in ("resumed", "backchannel", "cancelled"):
            self._holds.labels(outcome)

    def call(self) -> None:
        """Count a call that begins."""
        self._calls.inc()

    def resumed(self) -> None:
        """Count a call whose client came back."""
        self._resumed.inc()

    def lost(self, seconds: float) -> None:
        """Count audio of a caller's that was lost."""
        self._lost.inc(seconds)

    def swept(self) -> None:
        """Count a call that was ended because its gateway had died."""
        self._swept.inc()

    def refused(self, code: str) -> None:
        """Count somebody who was not let in."""
        self._refused.labels(code).inc()

    def record(self, record: TurnRecord) -> None:
        """Count a turn that is settled."""
        steps: list[tuple[str, float, str]] = json.loads(record.steps)
        self._turns.labels(record.outcome or "cancelled").inc()
        for stage in filter(None, record.unanswered.split(",")):
            self._unanswered.labels(stage).inc()
        first = {name: at / 1000 for name, at, _ in reversed(steps)}
        resumed = sum(name == "resumed" for name, _, _ in steps)
        backchannels = min(resumed, sum(name == "backchannel" for name, _, _ in steps))
        self._holds.labels("resumed").inc(resumed - backchannels)
        self._holds.labels("backchannel").inc(backchannels)
        if sum(name == "held" for name, _, _ in steps) > resumed and "cancelled" in first:
            self._holds.labels("cancelled").inc()
        onset, held = 0.0, False
        for name, at, _ in steps:
            if name == "onset":
                onset, held = at, False
            elif name == "held":
                held = True
            elif name == "silent" and held:
                self._silence.observe(max(0.0, at - onset) / 1000)
                held = False
        if record.reason == "turn_detected" and "cancelled" in first:
            onsets = [at / 1000 for name, at, _ in steps if name == "onset" and at / 1000 <= first["cancelled"]]
            self._decided.observe(first["cancelled"] - onsets[-1]) if onsets else None
        if "end_of_speech" in first and "first_out" in first:
            self._response.observe(max(0.0, first["first_out"] - first["end_of_speech"]))
        for name, at, detail in steps:
            stage = name.removeprefix("stopped:")
            if stage != name and "cancelled" in first and not detail.startswith(("finished", "never_started")):
                self._stopped.labels(stage).observe(max(0.0, at / 1000 - first["cancelled"]))
        for span in spans(record):
            if span.name in SPANS:
                self._spans.labels(span.name).observe((span.end - span.start) / 1000)
        if record.outcome == "failed":
            stage = record.reason.partition(":")[0]
            self._failures.labels(stage if stage in FAILING else "other").inc()
        self._samples.inc(record.samples)
        self._tokens.inc(record.tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
