import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.playback import Playback

RATE = 24_000


def samples(count, first=0):
    return (np.arange(first, first + count) % 30_000).astype("<i2").tobytes()


def play(playback, until, now=0.0, step=0.01):
    """Pull frames every 10 ms from ``now`` to ``until`` seconds."""
    frames = []
    while now <= until + 1e-9:
        while frame := playback.pull(now):
            frames.append((now, frame))
        now += step
    return frames


def speaking(seconds=2.0, texts=()):
    playback = Playback(RATE)
    playback.begin(1)
    playback.push(1, samples(int(seconds * RATE)), list(texts))
    playback.finish(1)
    return playback


def test_audio_never_leaves_more_than_the_lead_ahead():
    """What the client has buffered is at most 200 ms, so a hold is heard within that."""
    sent = 0
    for now, frame in play(speaking(), 2.0):
        sent += len(frame.pcm) // 2
        assert sent / RATE - now <= 0.2 + 1e-6


def test_everything_leaves_once_in_order():
    """All frames joined are the audio that was pushed."""
    frames = play(speaking(), 3.0)
    assert b"".join(frame.pcm for _, frame in frames) == samples(2 * RATE)


def test_it_is_played_out_when_the_last_sample_was_heard_not_sent():
    """The end of a turn is the end of its sound."""
    playback = speaking(1.0)
    play(playback, 0.95)
    assert not playback.played_out(0.95)
    assert playback.played_out(1.0 + 1e-6)
    assert playback.heard(1.0) == RATE


def test_a_client_that_drops_its_buffer_is_sent_it_again_from_the_exact_sample():
    """Held at any moment and resumed, the client's audio has no gap and no repetition."""
    playback = speaking(2.0)
    before = b"".join(frame.pcm for _, frame in play(playback, 0.5))
    heard = playback.hold(0.505, client_drops=True)
    assert heard == pytest.approx(0.505 * RATE, abs=1)
    assert playback.pull(1.0) is None
    assert playback.resume() == heard
    after = b"".join(frame.pcm for _, frame in play(playback, 4.0, now=1.5))
    assert before[: heard * 2] + after == samples(2 * RATE)


def test_what_the_client_says_it_played_counts():
    """A client's own account corrects the paced clock in both directions."""
    playback = speaking(2.0)
    play(playback, 0.5)
    playback.hold(0.5, client_drops=True)
    playback.correct(1, 11_000)
    assert playback.heard(0.7) == playback.resume() == 11_000
    playback.correct(1, 5)
    assert playback.resume() == 11_000


def test_a_stock_client_plays_its_buffer_to_the_end():
    """Without the extension the held position moves on to what was already sent, and nothing is sent again."""
    playback = speaking(2.0)
    sent = sum(len(frame.pcm) // 2 for _, frame in play(playback, 0.5))
    playback.hold(0.5, client_drops=False)
    assert playback.heard(5.0) == sent
    assert playback.resume() == sent


def test_text_is_heard_when_its_sound_is_complete():
    """A word counts once its last sample was heard, not before."""
    playback = speaking(1.0, [(300, "One "), (700, "two "), (1000, "three.")])
    told = "".join(frame.text for _, frame in play(playback, 0.45))
    assert told == "One "
    assert playback.heard_text(0.299) == ""
    assert playback.heard_text(0.45) == "One "
    play(playback, 2.0, now=0.46)
    assert playback.heard_text(2.0) == "One two three."


def test_audio_of_another_turn_is_dropped_at_the_door():
    """Late audio of a cancelled turn never plays in the next one."""
    playback = speaking(1.0)
    playback.begin(2)
    playback.push(1, samples(RATE), [])
    playback.finish(1)
    assert playback.pull(0.0) is None
    assert not playback.played_out(9.0)


def test_a_slow_voice_does_not_let_the_clock_run_ahead():
    """After an underrun what was heard is still no more than what was sent."""
    playback = Playback(RATE)
    playback.begin(1)
    playback.push(1, samples(RATE // 10), [])
    play(playback, 1.0)
    assert playback.heard(1.0) == RATE // 10
    playback.push(1, samples(RATE // 10, RATE // 10), [])
    playback.pull(1.0)
    assert playback.heard(1.05) == RATE // 10 + RATE // 20


def test_a_short_rest_is_sent_only_when_nothing_follows():
    """Less than a frame waits for more audio, and leaves by itself at the end."""
    playback = Playback(RATE)
    playback.begin(1)
    playback.push(1, samples(100), [])
    assert playback.pull(0.0) is None and playback.next_due(0.0) is None
    playback.finish(1)
    assert len(playback.pull(0.0).pcm) == 200


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.floats(0.001, 0.5)),
            st.tuples(st.just("push"), st.integers(1, 30_000)),
            st.tuples(st.just("hold"), st.booleans()),
            st.tuples(st.just("resume"), st.none()),
        ),
        max_size=40,
    )
)
def test_a_client_hears_every_sample_once_whatever_happens(steps):
    """Under any order of audio, holds and resumes, a client that keeps to the protocol hears the audio unbroken."""
    playback, now, pushed, client = Playback(RATE), 0.0, 0, bytearray()
    playback.begin(1)
    for name, value in steps:
        if name == "wait":
            now += value
        elif name == "push":
            playback.push(1, samples(value, pushed), [])
            pushed += value
        elif name == "hold" and not playback.held:
            heard = playback.hold(now, client_drops=value)
            if value:
                del client[heard * 2 :]
        elif name == "resume":
            playback.resume()
        while frame := playback.pull(now):
            assert frame.start * 2 == len(client)
            client += frame.pcm
        assert playback.heard(now) * 2 <= len(client)
    assert bytes(client) == samples(pushed)[: len(client)]


@pytest.mark.parametrize(
    ("texts", "longest", "found"),
    [
        ([(200, "one "), (550, "two "), (1000, "three ")], 1000, 550),
        ([(1000, "one two three four.")], 1000, 421),
        ([(1000, "one two three four.")], 100, 500),
        ([(250, "one two. "), (500, "three.")], 1000, 500),
        ([], 1000, 0),
        ([(2000, "ended")], 1000, 0),
    ],
)
def test_the_word_that_was_cut_begins_where_it_is_known_or_reckoned_to(texts, longest, found):
    """600 ms were heard: the last word's own place, or its share of a text with one place; never further than allowed,
    never behind what was heard."""
    playback = speaking(2.0, texts)
    play(playback, 0.2)
    playback.hold(0.2, client_drops=True)
    playback.correct(1, 600 * RATE // 1000)
    assert playback.word_before(longest * RATE // 1000) * 1000 // RATE == found
