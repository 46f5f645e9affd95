"""OpenTelemetry spans, one trace a turn, from every process that works on it. Off unless ``TRACING=true``.

No context has to travel beside an event: session and turn, which every offer carries, give the trace's id and the id of
the turn's own span, so whoever works on a turn knows both. The gateway writes the turn's span and those of its
waterfall when the turn is settled; each worker writes one of each lease. Where they go is said by the variables of
OpenTelemetry itself, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``. No span holds what was said.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from bus.events import TurnRecord
from bus.waterfall import spans, steps

MISSING = "TRACING=true needs OpenTelemetry: pip install 'bargein[tracing]'"

_tracer: Any = None
_ids: Any = None


class NoTracing(RuntimeError):
    """Tracing is asked for, and OpenTelemetry is not installed."""


def start(service: str) -> None:
    """Send this process's spans by OTLP over HTTP, as ``service``. Raises NoTracing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise NoTracing(MISSING) from None
    use(BatchSpanProcessor(OTLPSpanExporter()), service)


def use(processor: Any, service: str = "bargein") -> None:
    """Hand this process's spans to a span processor of OpenTelemetry's; None ends tracing."""
    global _tracer, _ids
    if processor is None:
        _tracer = _ids = None
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    _ids = _known_ids()
    provider = TracerProvider(resource=Resource.create({"service.name": service}), id_generator=_ids)
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("bargein")


def trace_of(session: str, turn: int) -> tuple[int, int]:
    """(trace id, span id) of a turn; turn 0 is the session itself."""
    digest = hashlib.sha256(f"bargein {session} {turn}".encode()).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")


def turn(session: str, record: TurnRecord) -> None:
    """Write the spans of a turn that is settled: its own, and those of its waterfall below it."""
    if _tracer is None:
        return
    done = steps(record)
    if not done:
        return
    times = [step.at for step in done]
    begin = time.time_ns() - round(max(times) * 1e6)

    def at(ms: float) -> int:
        return begin + round(ms * 1e6)

    _ids.next = trace_of(session, record.turn)
    own = _tracer.start_span(
        f"turn {record.outcome or 'not settled'}", context=_root(), start_time=at(min(times)),
        attributes={
            "bargein.session": session, "bargein.turn": record.turn, "bargein.outcome": record.outcome,
            "bargein.reason": record.reason if record.outcome == "cancelled" else record.reason.partition(":")[0],
            "bargein.heard_ms": record.heard, "bargein.unanswered": record.unanswered,
        },
    )  # fmt: skip
    for step in done:
        own.add_event(step.name, timestamp=at(step.at))
    for span in spans(record):
        child = _tracer.start_span(span.name, context=_below(session, record.turn), start_time=at(span.start))
        child.end(at(span.end))
    own.end(at(max(times)))


def lease(session: str, turn: int, stage: str, began: float, attributes: Mapping[str, Any]) -> None:
    """Write the span of a worker's lease that began ``began`` seconds ago and has ended."""
    if _tracer is None:
        return
    now = time.time_ns()
    span = _tracer.start_span(
        f"{stage} lease", context=_below(session, turn), start_time=now - round(began * 1e9),
        attributes={"bargein.session": session, "bargein.turn": turn, **attributes},
    )  # fmt: skip
    span.end(now)


def _root() -> Any:
    from opentelemetry.context import Context

    return Context()


def _below(session: str, turn: int) -> Any:
    """The context of what belongs to a turn."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    trace_id, span_id = trace_of(session, turn)
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), _root())


def _known_ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random ids, except for the next root span where one was given."""

        next: tuple[int, int] | None = None

        def generate_trace_id(self) -> int:
            return self.next[0] if self.next else int(super().generate_trace_id())

        def generate_span_id(self) -> int:
            if self.next is None:
                return int(super().generate_span_id())
            span_id, self.next = self.next[1], None
            return span_id

    return Ids()
