"""How tokens become words; no model is needed."""

import pytest

from workers.stt.engine import Word
from workers.stt.engines.nemo_words import Heard, Transcript, Vocabulary

PIECES = ["▁he", "llo", "▁world", ".", "<de-DE>", "▁"]


def join(tokens):
    return "".join(PIECES[token] for token in tokens).replace("▁", " ")


@pytest.fixture
def vocabulary():
    return Vocabulary(PIECES, join, frame=1280)


def test_words_have_times_and_the_confidence_of_their_least_sure_token(vocabulary):
    transcript = Transcript().extended([0, 1], [2, 3], [0.9, 0.5], "state", 14)
    transcript = transcript.extended([2, 3], [15, 16], [0.8, 1.0], "later", 14)
    details = vocabulary.details(transcript)
    assert details.words == (Word("hello", 2560, 5120, 0.5), Word("world.", 19_200, 21_760, 0.8))
    assert details.confidence == pytest.approx(0.8)
    assert vocabulary.written(transcript, Heard()).text == "hello world."


def test_a_language_the_model_names_is_not_a_word(vocabulary):
    transcript = Transcript().extended([0, 1, 4], [0, 1, 2], [1, 1, 1], None, 14)
    assert vocabulary.written(transcript, Heard()).text == "hello"
    assert vocabulary.details(transcript).language == "de-DE"
    assert [word.text for word in vocabulary.details(transcript).words] == ["hello"]


def test_the_next_utterance_counts_its_frames_anew(vocabulary):
    """The decoder goes on counting; an utterance's words are placed from its own first frame."""
    first = Transcript().extended([0, 1], [2, 3], [1, 1], "state", 14)
    second = first.onward().extended([2], [16], [1], "later", 14)
    assert second.tokens == (2,) and second.frames == (2,) and second.state == "later"


def test_a_step_without_tokens_keeps_text_as_it_is(vocabulary):
    """Nothing is written out anew when nothing was added."""
    heard = Heard(Transcript((0, 1), (0, 1), (1.0, 1.0)), "as it was written")
    after = heard.transcript.extended([], [], [], "state", 14)
    assert vocabulary.written(after, heard).text == "as it was written"


def test_silence_has_no_details(vocabulary):
    details = vocabulary.details(Transcript())
    assert (details.words, details.confidence, details.language) == ((), 0.0, "")
