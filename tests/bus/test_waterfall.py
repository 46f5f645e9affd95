"""A turn's record as spans and as text."""

import json

import pytest

from bus.events import TurnRecord
from bus.waterfall import drawn, spans

INTERRUPTED = [
    ["onset", 100, "96 ms"], ["end_of_speech", 1100, "900 ms"], ["final_text", 1180, ""], ["turn", 1190, ""],
    ["first_token", 1400, ""], ["first_sentence", 1500, ""], ["first_audio", 1600, ""], ["first_out", 1610, ""],
    ["onset", 2000, "1990 ms"], ["held", 2001, "380 ms heard"], ["resumed", 2200, "from 380 ms"],
    ["onset", 3000, "2990 ms"], ["held", 3001, "1180 ms heard"], ["final_text", 3300, ""],
    ["cancelled", 3301, "turn_detected, 1180 ms heard"], ["stopped:playback", 3301, "stopped"],
    ["stopped:tts", 3309.5, "stopped, 2.0 ms"], ["late:llm", 5301, "did not say that it stopped"],
]  # fmt: skip


def record(steps, outcome="cancelled", reason="turn_detected"):
    return TurnRecord(2, 1, outcome, reason, 1180, json.dumps(steps), "llm", 48_000, 12)


def test_every_stretch_of_a_turn_has_its_span():
    """From the question to the last stage's stop; what the caller says over the reply is not the question."""
    assert [(span.name, span.start, span.end) for span in spans(record(INTERRUPTED))] == [
        ("listen", 100, 1100),
        ("transcribe", 1100, 1180),
        ("think", 1190, 1400),
        ("compose", 1400, 1500),
        ("voice", 1500, 1600),
        ("deliver", 1600, 1610),
        ("speak", 1610, 3301),
        ("hold", 2001, 2200),
        ("hold", 3001, 3301),
        ("stop:playback", 3301, 3301),
        ("stop:tts", 3301, 3309.5),
        ("stop:llm", 3301, 5301),
    ]


def test_a_turn_begun_ahead_of_the_end_thinks_while_the_caller_may_go_on():
    steps = [
        ["onset", 0, ""], ["final_text", 900, ""], ["turn", 901, "ahead of the end"], ["first_sentence", 1000, ""],
        ["first_audio", 1050, ""], ["end_of_speech", 1300, ""], ["released", 1301, ""], ["first_out", 1302, ""],
        ["done", 2000, ""],
    ]  # fmt: skip
    found = {span.name: (span.start, span.end) for span in spans(record(steps, "done", ""))}
    assert found["listen"] == (0, 1300) and found["think"] == (901, 1000) and found["speak"] == (1302, 2000)
    assert found["transcribe"] == (1300, 1300)


def test_a_greeting_has_no_question():
    found = spans(record([["turn", 5, ""], ["first_audio", 40, ""], ["first_out", 41, ""], ["done", 900, ""]], "done"))
    assert [span.name for span in found] == ["voice", "deliver", "speak"]


def test_as_text():
    """The outcome, the waste, who did not answer, a bar within its width for every span, every step in order."""
    lines = drawn(record(INTERRUPTED), width=40)
    assert lines[0] == "turn 2: cancelled (turn_detected), 1180 ms heard; it answers utterance 1"
    assert lines[1] == "made in vain: 48000 samples by the voice, 12 tokens by the model"
    assert lines[2] == "did not say that they stopped: llm"
    bars = {text.split()[0]: text for text in lines if "█" in text}
    assert list(bars)[:3] == ["listen", "transcribe", "think"] and len(bars) == 11
    assert bars["listen"].count("█") == round(1000 / 5201 * 40) and bars["listen"].rstrip().split()[-2] == "900"
    assert all(text.index("█") >= 16 and text.rindex("█") <= 16 + 40 for text in bars.values())
    ends = [float(text.split()[0]) for text in lines if " ms  +" in text]
    assert len(ends) == len(INTERRUPTED) and ends == sorted(ends)


@pytest.mark.parametrize("steps", ["[]", "[[1]]", "{", '[["a", "b", "c"]]'])
def test_a_record_without_sensible_steps(steps):
    """No steps: it says so. Others than it expects: an error that names the turn."""
    broken = TurnRecord(7, 0, "", "", 0, steps)
    if steps == "[]":
        assert drawn(broken)[-1] == "no steps"
    else:
        with pytest.raises(ValueError, match="turn 7"):
            drawn(broken)
