"""A run's figures as text: the tables of docs/benchmarks.md, and the picture. Everything from the JSON of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.peers.account import Step
from benchmarks.picture import Lines, Picture

BEGIN, END = "<!-- peers: written by python -m benchmarks.peers --from FILE --docs -->", "<!-- peers: end -->"
ABOUT = "The same figures drawn over the number of calls at once"
HEAD = (
    "| | calls | onset → clear | LLM stopped | TTS stopped | stale frames | response | missing | underruns "
    "| CPU % | machine % | MB |\n|---|" + "---:|" * 11
)


def shown(values: Sequence[float], *shares: float) -> str:
    """Percentiles as text."""
    return "/".join(f"{percentile(list(values), share):.0f}" for share in shares) if values else "–"


def steps_of(run: Mapping[str, Any]) -> list[Step]:
    """The steps of a run."""
    return [Step(**step) for step in run["steps"]]


def row(step: Step) -> str:
    """One line of the table."""
    clear = shown(step.clear, 0.5, 0.95, 0.99)
    if step.never:
        clear = f"{clear}, never in {step.never} of {step.interruptions}"
    llm = shown(step.llm, 0.5, 0.99)
    if step.llm_to_the_end:
        llm = f"{llm}, to the end in {step.llm_to_the_end}"
    stale = f"{step.stale_frames:.0f}"
    if step.stale_after:
        stale = f"{stale}, until {max(step.stale_after):.0f} ms"
    missing = f"{step.missing} of {step.utterances}" + (f", {step.broken} calls broke" if step.broken else "")
    cells = (
        step.side, step.calls, clear, llm, shown(step.tts, 0.5, 0.99), stale, shown(step.response, 0.5, 0.95, 0.99),
        missing, step.underruns, f"{step.server_cpu:.0f}", f"{step.machine:.0f}", f"{step.server_memory:.0f}",
    )  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def short_rows(run: Mapping[str, Any]) -> str:
    """Memory over short calls, as a table."""
    sizes: Mapping[str, list[tuple[int, float]]] = run["short_calls"]
    last = max(done for curve in sizes.values() for done, _ in curve)
    marks = [0, last // 10, last // 2, last]
    lines = ["| MB after so many short calls | " + " | ".join(str(mark) for mark in marks) + " |"]
    lines.append("|---|" + "---:|" * len(marks))
    for name, curve in sizes.items():
        near = [min(curve, key=lambda at, mark=mark: abs(at[0] - mark))[1] for mark in marks]
        lines.append(f"| {name} | " + " | ".join(f"{size:.0f}" for size in near) + " |")
    return "\n".join(lines)


def killed_rows(run: Mapping[str, Any]) -> str:
    """What became of a call whose server was killed, as a list."""
    return "\n".join(f"- {what}: {became}" for what, became in run["killed"].items())


def markdown(run: Mapping[str, Any]) -> str:
    """All tables of a run."""
    late = max((step["late"] for step in run["steps"]), default=0.0)
    parts = [f"{run['at']}, {run['machine']}. The callers' own frames left within {late:.0f} ms of their time (p99)."]
    parts.append("\n".join([HEAD, *(row(step) for step in steps_of(run))]))
    if run.get("short_calls"):
        parts.append(short_rows(run))
    if run.get("killed"):
        parts.append("`kill -9` while a reply is heard:\n\n" + killed_rows(run))
    return "\n\n".join(parts)


def into(file: Path, text: str) -> None:
    """Put ``text`` between the marks of a page. Raises ValueError where it has none."""
    page = file.read_text()
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"{file}: expected a line {BEGIN} and, after it, {END}")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def picture(run: Mapping[str, Any]) -> Picture:
    """The run in panels, over the number of calls."""
    steps = steps_of(run)
    names = list(dict.fromkeys(step.side for step in steps))

    def over(value) -> dict[str, list[tuple[float, float]]]:  # type: ignore[no-untyped-def]
        return {
            name: [(s.calls, found) for s in steps if s.side == name and (found := value(s)) is not None]
            for name in names
        }

    def at(share: float, values: str):  # type: ignore[no-untyped-def]
        return lambda step: percentile(getattr(step, values), share) if getattr(step, values) else None

    panels = [
        Lines("Onset → clear, p50 (ms)", over(at(0.5, "clear")), "calls at once", most=1500),
        Lines("Onset → clear, p99 (ms)", over(at(0.99, "clear")), "calls at once", most=1500),
        Lines("End of speech → reply, p50 (ms)", over(at(0.5, "response")), "calls at once", most=3000),
        Lines("End of speech → reply, p99 (ms)", over(at(0.99, "response")), "calls at once", most=3000),
        Lines(
            "Replies that did not come (%)",
            over(lambda s: 100 * s.missing / s.utterances if s.utterances else None),
            "calls at once",
            most=100,
        ),
        Lines("CPU of the server (% of one core)", over(lambda s: s.server_cpu), "calls at once"),
        Lines("Memory (MB)", over(lambda s: s.server_memory), "calls at once"),
    ]
    if sizes := run.get("short_calls"):
        panels.append(Lines("Memory over short calls (MB)", sizes, "calls made", even=False))
    return Picture("The same calls, models and machine. What leaves a panel is beyond its scale", panels)
