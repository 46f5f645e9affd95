import numpy as np
import pytest

from bus.events import SpeechAudio
from gateway.output import Output

RATE = 24_000
CHUNK = 1_200


class Listener:
    """An outlet that collects audio."""

    rate = RATE
    drops = True

    def __init__(self):
        self.pcm, self.text = b"", ""

    def audio(self, frame):
        self.pcm += frame.pcm
        self.text += frame.text


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def output():
    clock, reports = Clock(), []
    made = Output(
        Listener(), clock, lead=0.2,
        report=lambda *report: reports.append(report), on_played_out=lambda turn: None, on_starved=lambda turn: None,
    )  # fmt: skip
    made.clock, made.reports = clock, reports
    made.begin(1)
    return made


def chunk(index, *, attempt=1, sentence=0, offset=None, text="", turn=1, rate=RATE):
    start = index * CHUNK if offset is None else offset
    pcm = ((start + np.arange(CHUNK)) % 30_000).astype("<i2").tobytes()
    return SpeechAudio(turn, attempt, index, sentence, start, rate, text, "exact", pcm)


def listen(output, until):
    while output.clock.now < until:
        while frame := output.playback.pull(output.clock.now):
            output._outlet.audio(frame)
        output.clock.now += 0.01
    return output._outlet


def test_audio_of_another_turn_is_dropped_at_the_door(output):
    """Nothing of a turn that is not the present one gets in, early or late."""
    assert not output.take(chunk(0, turn=2))
    assert output.take(chunk(0))
    output.begin(2)
    assert not output.take(chunk(1))
    assert listen(output, 1).pcm == b""


def test_a_voice_that_was_taken_over_is_heard_once(output):
    """The successor says the sentence again from its start; samples and words already here are left out."""
    words = ["one ", "two ", "three ", "four"]
    for index, word in enumerate(words[:3]):
        output.take(chunk(index, text=word))
    # The second attempt's boundaries lie 100 samples later, as a voice's do that is not the same twice.
    output.take(chunk(0, attempt=2, offset=0, text="one "))
    for index in range(1, 4):
        output.take(chunk(index, attempt=2, offset=100 + index * CHUNK, text=words[index]))
    output.finish(1)
    heard = listen(output, 1)
    assert heard.text == "one two three four"
    assert output.repeated == 100
    assert len(heard.pcm) == (100 + 4 * CHUNK) * 2
    assert np.array_equal(np.frombuffer(heard.pcm, "<i2"), np.arange(100 + 4 * CHUNK))


def test_what_is_said_twice_is_counted(output):
    """A voice that does not say a sentence twice alike says it again behind what is there: all of it is heard, its
    words are told once, and no more than what was there counts as repeated."""
    for index, word in enumerate(["one ", "two "]):
        output.take(chunk(index, text=word))
    assert output.repeated == 0
    for index, word in enumerate(["one ", "two ", "three"]):
        output.take(chunk(index, attempt=2, offset=(2 + index) * CHUNK, text=word))
    output.take(chunk(0, attempt=2, sentence=1, offset=5 * CHUNK, text=" Four."))
    output.finish(1)
    heard = listen(output, 1)
    assert heard.text == "one two three Four." and len(heard.pcm) == 6 * CHUNK * 2
    assert output.repeated == 2 * CHUNK
    output.begin(2)
    assert output.repeated == 0


def test_the_next_sentence_of_the_same_text_is_not_a_repetition(output):
    """Two sentences may be alike; only the same sentence of another attempt is the same."""
    output.take(chunk(0, text="Yes."))
    output.take(chunk(1, sentence=1, text=" Yes."))
    output.finish(1)
    assert listen(output, 1).text == "Yes. Yes."


def test_what_was_heard_is_text_and_milliseconds(output):
    """The words whose sound is complete, and a truncation that comes after the turn's end."""
    for index, word in enumerate(["one ", "two ", "three "]):
        output.take(chunk(index, text=word))
    listen(output, 0.105)
    assert output.heard() == ("one two", pytest.approx(105, abs=15))
    output.drop()
    assert output.text_until(1, 99) == "one"
    assert output.text_until(7, 99) is None


def test_resampled_audio_keeps_its_length(output):
    """A voice at another rate comes out as long as it was, at the client's rate."""
    for index in range(20):
        output.take(chunk(index, rate=22_050))
    output.finish(1)
    heard = listen(output, 3)
    assert len(heard.pcm) // 2 == pytest.approx(20 * CHUNK * RATE / 22_050, abs=50)


@pytest.mark.parametrize(("really", "reports"), [(450, [(1, 400, 450)]), (300, [(1, 300, 300)]), (400, [])])
def test_what_a_client_really_played_is_reported_at_once(output, reports, really):
    """A client that is held says where it stopped: more, less or just as much as the clock says."""
    for index in range(20):
        output.take(chunk(index))
    listen(output, 0.4)
    output.hold()
    before = len(output.reports)
    assert output.reports[-1][2] == 400
    output.correct(1, really * RATE // 1000)
    assert output.reports[before:] == reports
    output.correct(2, 0)
    assert len(output.reports) == before + len(reports)
