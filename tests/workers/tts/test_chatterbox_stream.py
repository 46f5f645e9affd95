"""Pieces of tokens into sound, without a model: the decoder is one whose sound is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.tts.engines.chatterbox_stream import (
    AHEAD,
    CONTEXT,
    FADE,
    SAMPLES,
    SIZES,
    VOCABULARY,
    PieceWise,
)
from workers.tts.engines.threaded import to_pcm


def sound_of(tokens):
    """A decoder whose sound of a token is the token's own level, whatever stands around it."""
    return np.repeat(np.array(tokens, np.float32) / VOCABULARY, SAMPLES)


def spoken(tokens, decode=None):
    """(pieces, whether each was called the last, windows that were decoded) of a sentence."""
    pieces, windows = [], []

    def remember(window, number):
        windows.append(list(window))
        assert number == len(windows) - 1
        return (decode or sound_of)(window)

    piecewise = PieceWise(remember, lambda sound, last: pieces.append((sound, last)))
    for token in tokens:
        piecewise.add(token)
    piecewise.finish()
    return [sound for sound, _ in pieces], [last for _, last in pieces], windows


TOKENS = st.lists(st.integers(0, VOCABULARY + 2), max_size=260)


@settings(deadline=None)
@given(TOKENS)
def test_the_pieces_are_the_whole_to_the_sample(tokens):
    """Joined they are what one decoding of all tokens gives, for any number of tokens, with marks among them."""
    pieces, last, _ = spoken(tokens)
    real = [token for token in tokens if token < VOCABULARY]
    whole = np.concatenate([*pieces, np.zeros(0, np.float32)])
    assert len(whole) == len(real) * SAMPLES
    assert np.allclose(whole, sound_of(real), atol=1e-6)
    assert last == [False] * (len(last) - 1) + [True] * bool(real)


def test_small_pieces_come_first_and_each_has_its_context():
    """The first after 15 tokens, then larger ones; each with what came before and what comes after it."""
    tokens = list(range(200))
    pieces, _, windows = spoken(tokens)
    sizes = [len(piece) // SAMPLES for piece in pieces]
    assert sizes[:4] == [size - AHEAD for size in SIZES]
    end = 0
    for size, window in zip(sizes, windows, strict=True):
        assert window[0] == max(0, end - CONTEXT)
        end += size
        assert window[-1] == min(end + AHEAD, 200) - 1


def test_one_piece_fades_into_the_next():
    """Where two decodings disagree, the sound goes over from the one to the other without a step."""
    level = iter([0.0, 1.0, 0.0, 1.0, 0.0])
    pieces, _, _ = spoken(range(100), lambda window: np.full(len(window) * SAMPLES, next(level), np.float32))
    joined = np.concatenate(pieces)
    assert np.abs(np.diff(joined)).max() < 1.5 / FADE
    assert len(joined) == 100 * SAMPLES


def test_what_does_not_belong_together_is_refused():
    """Other tokens at the end than were sampled, or sound of another length than the tokens': never spoken."""
    piecewise = PieceWise(lambda tokens, number: sound_of(tokens), lambda sound, last: None)
    for token in range(20):
        piecewise.add(token)
    with pytest.raises(ValueError, match="not those that were sampled"):
        piecewise.finish([1, 2, 3])
    with pytest.raises(ValueError, match="15 tokens became 14399 samples; expected 960 each"):
        spoken(range(30), lambda window: sound_of(window)[:-1])


def test_what_is_too_loud_is_clipped():
    """-1 to 1 is the whole range of 16 bits, little-endian."""
    assert to_pcm(np.array([0.0, 1.0, -1.0, 1.7, -2.0])) == np.array([0, 32767, -32767, 32767, -32767], "<i2").tobytes()
