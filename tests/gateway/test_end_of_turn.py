import importlib.util
import logging
import os
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from bus.settings import problems
from gateway.end_of_turn import HEARD_S, SmartTurn, find_model, log_mel, problem, shared
from gateway.protocols.realtime_config import RealtimeConfig
from gateway.settings import GatewaySettings
from gateway.speech import ASKED_PRE_ROLL_MS, RATE, WINDOW, Endpointing, SpeechDetector
from tests.recordings import recording

SPEECH, SILENCE = 0.9, 0.0
PAUSE = 7
"""Windows of silence (224 ms) after which a pause is told."""


class Scripted:
    """A model that answers when the test says so; ``asked`` holds (audio, answer) of each question."""

    def __init__(self):
        self.asked = []

    def ask(self, pcm):
        self.asked.append((pcm, Future()))
        return self.asked[-1][1]


class Caller:
    """Feeds a detector windows whose samples are numbered, with the probability of speech that the test says."""

    def __init__(self, model, **endpointing):
        self.windows, self.events = 0, []
        self._probability = SILENCE
        self.detector = SpeechDetector(lambda window: self._probability, Endpointing(**endpointing), end_of_turn=model)

    def hear(self, probability, windows):
        self._probability = probability
        for _ in range(windows):
            pcm = np.full(WINDOW, self.windows, "<i2").tobytes()
            self.windows += 1
            self.events += self.detector.feed(pcm, at=self.windows * WINDOW / RATE)

    def found(self):
        """What was found since the last time, with its position in windows."""
        found, self.events = [(type(event).__name__, event.offset // WINDOW) for event in self.events], []
        return found


@pytest.fixture
def model():
    return Scripted()


@pytest.fixture
def caller(model):
    return Caller(model)


def windows_of(ms):
    """How many whole windows of silence it takes for so many milliseconds."""
    return -(-ms * RATE // (1000 * WINDOW))


def test_a_complete_utterance_ends_sooner(caller, model):
    """After the answer 300 ms of silence are enough."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, PAUSE)
    assert caller.found() == [("SpeechStarted", 0), ("SpeechPaused", 10 + PAUSE)]
    model.asked[0][1].set_result(0.9)
    caller.hear(SILENCE, 10)
    assert caller.found() == [("SpeechEnded", 10 + windows_of(300))]


def test_an_incomplete_utterance_is_waited_for(caller, model):
    """Not before 1500 ms of silence."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, PAUSE)
    caller.found()
    model.asked[0][1].set_result(0.49)
    caller.hear(SILENCE, 100)
    assert caller.found() == [("SpeechEnded", 10 + windows_of(1500))]


def test_an_answer_counts_from_the_window_after_it(caller, model):
    """An answer after 400 ms of silence that were enough ends the utterance with the next window."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, 13)
    caller.found()
    model.asked[0][1].set_result(0.9)
    caller.hear(SILENCE, 1)
    assert caller.found() == [("SpeechEnded", 24)]


def test_speech_after_an_incomplete_pause_goes_on(caller, model):
    """The caller may think for a second; the utterance is one, and its next pause is judged anew, by silence first."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, PAUSE)
    model.asked[0][1].set_result(0.1)
    caller.hear(SILENCE, 25)
    caller.found()
    caller.hear(SPEECH, 5)
    assert caller.found() == [("SpeechResumed", 42)]
    caller.hear(SILENCE, 20)
    assert caller.found() == [("SpeechPaused", 47 + PAUSE), ("SpeechEnded", 47 + windows_of(500))]
    assert len(model.asked) == 2


def test_a_late_answer_changes_nothing(caller, model, caplog):
    """Neither for the utterance that has ended nor for the next; it is logged once, and withdrawn."""
    for _ in range(2):
        caller.hear(SPEECH, 10)
        caller.hear(SILENCE, 20)
        assert [kind for kind, _ in caller.found()] == ["SpeechStarted", "SpeechPaused", "SpeechEnded"]
    assert all(answer.cancelled() for _, answer in model.asked)
    assert [r.message for r in caplog.records if "end-of-turn model" in r.message] == [
        "a pause ended the utterance before the end-of-turn model had answered"
    ]


def test_an_answer_to_a_pause_that_is_over_does_not_count_for_the_next(caller, model):
    """Each answer belongs to its pause: running when the caller resumed, it is heard by nobody."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, PAUSE)
    first = model.asked[0][1]
    assert first.set_running_or_notify_cancel()  # the model is at work: too late to cancel
    caller.hear(SPEECH, 5)
    first.set_result(0.9)
    caller.found()
    caller.hear(SILENCE, 20)
    assert caller.found() == [("SpeechPaused", 22 + PAUSE), ("SpeechEnded", 22 + windows_of(500))]


def test_a_failing_model_leaves_the_silence(caller, model, caplog):
    """Its failure is logged once with its reason, and every utterance ends as without it."""
    for _ in range(2):
        caller.hear(SPEECH, 10)
        caller.hear(SILENCE, PAUSE)
        model.asked[-1][1].set_exception(RuntimeError("no such file"))
        caller.hear(SILENCE, 13)
        assert [kind for kind, _ in caller.found()] == ["SpeechStarted", "SpeechPaused", "SpeechEnded"]
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == ["the end-of-turn model failed, silence alone decides: RuntimeError: no such file"]


def test_a_model_neither_lengthens_what_is_complete_nor_shortens_what_is_not(model):
    """Where the silence is shorter than SMART_TURN_MIN_MS, or longer than SMART_TURN_MAX_MS, it stands."""
    for answer, silence in ((0.9, 250), (0.1, 2000)):
        caller = Caller(model, silence_ms=silence)
        caller.hear(SPEECH, 10)
        caller.hear(SILENCE, PAUSE)
        model.asked[-1][1].set_result(answer)
        caller.hear(SILENCE, 80)
        assert caller.found()[-1] == ("SpeechEnded", 10 + windows_of(silence))


def test_a_pause_that_already_is_the_end_is_not_asked_about(model):
    """With a silence as short as the pause there is nothing to decide."""
    caller = Caller(model, silence_ms=200, pause_ms=200)
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, 10)
    assert caller.found()[-1] == ("SpeechEnded", 10 + PAUSE)
    assert model.asked == []


def test_a_model_hears_the_utterance_with_its_pause_and_pre_roll(caller, model):
    """Nothing of the utterance before, and of a long one its last 8 s."""
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, 40)
    caller.hear(SPEECH, 10)
    caller.hear(SILENCE, PAUSE)
    heard = np.frombuffer(model.asked[-1][0], "<i2")
    assert len(heard) == (10 + PAUSE) * WINDOW + ASKED_PRE_ROLL_MS * RATE // 1000 - WINDOW
    assert (heard[-1], heard[-(PAUSE + 10) * WINDOW]) == (66, 50)
    caller.hear(SILENCE, 20)
    caller.hear(SPEECH, 300)
    caller.hear(SILENCE, PAUSE)
    assert len(model.asked[-1][0]) == HEARD_S * RATE * 2


@pytest.mark.parametrize(("pause", "end", "expected"), [(96, 500, 96), (200, 500, 200), (400, 300, 300)])
def test_a_pause_is_as_long_as_was_set_and_no_longer_than_the_end_of_a_turn(pause, end, expected):
    settings = GatewaySettings(_env_file=None, pause_ms=pause, end_of_turn_ms=end)
    assert settings.profile().endpointing.pause_ms == expected


def test_a_client_s_own_silence_keeps_the_model_s_limits():
    """``silence_duration_ms`` of a Realtime client replaces END_OF_TURN_MS and nothing else."""
    settings = GatewaySettings(_env_file=None, smart_turn_min_ms=260, smart_turn_max_ms=2600)
    config = RealtimeConfig(settings.profile(), "bargein", frozenset())
    changed = config.update(
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 800}}}}
    )
    assert changed.endpointing == Endpointing(silence_ms=800, complete_ms=260, incomplete_ms=2600)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (None, "END_OF_TURN=smart-turn: has no model: set SMART_TURN_MODEL"),
        ("absent.onnx", "END_OF_TURN=smart-turn: has no model: SMART_TURN_MODEL is not a file"),
    ],
)
def test_what_is_missing_is_said_at_start(model, expected, monkeypatch):
    """A start error names what to install or to set."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        GatewaySettings(_env_file=None, end_of_turn="smart-turn", smart_turn_model=model)
    assert problems(GatewaySettings, error.value)[0].startswith(expected)


def test_the_model_of_an_installed_pipecat_is_found(tmp_path, monkeypatch):
    """It lies below the package, which is not imported; a path that is set goes first."""
    package = tmp_path / "pipecat"
    file = package / "audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
    file.parent.mkdir(parents=True)
    file.touch()
    (package / "__init__.py").write_text("raise ImportError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model(None) == file
    assert find_model(Path("other.onnx")) == Path("other.onnx")


def test_the_spectrogram_of_a_tone_and_of_silence():
    """A tone fills the filter at its frequency while it lasts; silence is put in front; nothing exceeds the range."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    features = log_mel(tone)
    assert features.shape == (80, 800) and features.dtype == np.float32
    assert features[:, :690].max() < features[:, 705:].max() - 1
    # 1 kHz is mel 15 of 45.2: the 25th or 26th of 80 filters.
    assert set(features[:, 710:790].argmax(axis=0)) <= {25, 26}
    assert features.max() - features.min() <= 2.0 + 1e-5
    assert np.isfinite(log_mel(np.zeros(0, np.float32))).all()


# -- the real model

COMPLETE = [
    "brooklyn",
    "weather",
    "df_book_a_room",
    "df_mountain_view",
    "df_today",
    "df_230pm",
    "df_half_an_hour",
    "goforward",
    "sr_english",
    "cards_001",
    "cards_003",
    "sb1_1",
    "sb1_2",
    "sb1_3",
    "sb1_4",
    "sb1_5",
    "austen_0880",
    "jfk",
]
CUT = [
    "brooklyn",
    "weather",
    "goforward",
    "arctic_a0024",
    "austen_0870",
    "austen_0880",
    "austen_0890",
    "austen_0920",
    "sb1_1",
    "sb1_3",
    "sb1_5",
    "jfk",
]


@pytest.fixture(scope="module")
def smart_turn():
    path = Path(os.environ["SMART_TURN_MODEL"]) if os.environ.get("SMART_TURN_MODEL") else None
    if why := problem("smart-turn", path):
        pytest.skip(f"END_OF_TURN=smart-turn {why}")
    return shared("smart-turn", path)


def test_smart_turn_tells_an_end_from_a_cut(smart_turn):
    """On real recordings, complete utterances score above ones cut in the middle, on average, by 0.2 at least."""
    pause = bytes(RATE * 2 // 5)

    def score(pcm):
        return smart_turn.ask(pcm + pause).result(timeout=30)

    complete = [score(_trimmed(recording(name))) for name in COMPLETE]
    cut = []
    for name in CUT:
        pcm = _trimmed(recording(name))
        cut += [score(pcm[: int(len(pcm) // 2 * part) * 2]) for part in (0.45, 0.65)]
    taken = [np.mean(np.array(scores) >= 0.5) for scores in (complete, cut)]
    print(
        f"complete: mean {np.mean(complete):.2f}, {taken[0]:.0%} of {len(complete)} taken for the end; "
        f"cut: mean {np.mean(cut):.2f}, {taken[1]:.0%} of {len(cut)}"
    )
    assert np.mean(complete) > np.mean(cut) + 0.2


def test_what_is_wrong_with_a_model_is_the_answer_s_exception(smart_turn, tmp_path):
    """A file that is no model fails each question, and stops nothing else."""
    file = tmp_path / "broken.onnx"
    file.write_bytes(b"no model")
    assert SmartTurn(file).ask(bytes(320)).exception(timeout=30) is not None


def _trimmed(pcm):
    """Without the silence behind the last sound."""
    samples = np.frombuffer(pcm, "<i2").astype(float)
    loud = np.nonzero(np.convolve(samples**2, np.ones(320) / 320, "same") > np.max(samples**2) * 1e-3)[0]
    return pcm[: int(loud[-1]) * 2]
