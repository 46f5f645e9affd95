"""The model against NeMo's own answer for the whole recording; batches against sessions alone."""

import pytest

nemo_world = pytest.importorskip("tests.workers.stt.nemo_world", reason="NeMo is not installed: make install-nemo")

import numpy as np
import torch
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

from tests.words20.tiny import config, ctc, saved, tokenizer
from tests.workers.stt.nemo_world import (
    CONTEXTS,
    SESSIONS,
    flushed,
    grafted,
    live,
    model,
    padded,
    speech,
    spoken,
    whole_file,
    word_errors,
)  # fmt: skip
from workers.engines import EngineError
from workers.stt.engines.nemo_capacity import places_in_time
from workers.stt.engines.nemo_graphs import Graphs
from workers.stt.engines.nemo_model import SILENCE, Job, Model, load

pytestmark = pytest.mark.nemo

EVERY_CONTEXT = pytest.mark.parametrize("context", [tuple(each) for each in CONTEXTS], ids=str)


@pytest.fixture(params=[tuple(each) for each in CONTEXTS], ids=str)
def words20(request):
    """The trained model in one of its contexts."""
    return model(request.param)


@pytest.fixture
def hearing():
    """Opens sessions, and closes them after the test."""
    opened = []

    def open_in(model: Model):
        opened.append((model, model.open()))
        return opened[-1][1]

    yield open_in
    for owner, each in opened:
        owner.close(each)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Files of models with the trained encoder and each kind of head."""
    return grafted(tmp_path_factory.mktemp("heads"))


def test_live_features_are_those_of_the_whole_recording(words20, hearing):
    """Every mel frame, the first ones' lookback included, is the one NeMo computes from the whole file."""
    pcm = padded(b"".join(each.pcm for each in speech()[:3]), words20)
    buffer = CacheAwareStreamingAudioBuffer(model=words20.asr, online_normalization=False, pad_and_drop_preencoded=True)
    buffer.append_audio(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768)
    stream = hearing(words20).stream
    stream.append(pcm + bytes(2 * words20.grid.reach))
    steps = 0
    for whole, _ in buffer:
        mel = words20._features(torch.from_numpy(stream.window())[None])
        mel[:, :, : stream.unborn] = 0
        assert mel.shape == whole.shape
        assert torch.allclose(mel, whole, atol=2e-3)
        stream.advance()
        steps += 1
    assert steps == len(pcm) // 2 // words20.grid.step


@torch.inference_mode()
def test_the_encoder_computes_what_nemos_does(words20):
    """With caches that are empty, half full and full, and frames that do not count: NeMo's own values."""
    encoder, step = words20.asr.encoder, words20.grid.lookback + words20.grid.chunk
    channel, past, _ = encoder.get_initial_cache_state(batch_size=3)
    inputs = {
        "processed_signal": torch.randn(3, 64, step + 4 * words20.grid.chunk),
        "processed_signal_length": torch.tensor([step, step + 2 * words20.grid.chunk, step + 4 * words20.grid.chunk]),
        "cache_last_channel": torch.randn(channel.shape),
        "cache_last_time": torch.randn(past.shape),
        "cache_last_channel_len": torch.tensor([0, 35, 70]),
        "drop_extra_pre_encoded": 2,
    }
    encoded, lengths, *caches = encoder.cache_aware_stream_step(**inputs)
    with nemo_world.untouched(words20.asr):
        expected, _, *after = encoder.cache_aware_stream_step(**inputs)
    for row, length in enumerate(lengths):
        assert torch.allclose(encoded[row, :, :length], expected[row, :, :length], atol=1e-4)
    for one, other in zip(caches, after, strict=True):
        assert torch.allclose(one[:, 2] if one.dim() > 1 else one, other[:, 2] if one.dim() > 1 else other, atol=1e-4)


def test_live_text_is_that_of_the_whole_recording(words20, hearing):
    """After every step, and there is text: all four contexts."""
    for each in (speech()[0], speech()[1], speech(longest=9, seed=8, count=2)[0]):
        pcm = padded(each.pcm, words20, SILENCE)
        whole = whole_file(words20, pcm)
        assert live(words20, hearing(words20), pcm + bytes(2 * words20.grid.reach)) == whole
        assert whole[-1] == each.text


@pytest.mark.parametrize("frames", [(70, 13), (70, 0)], ids=str)
@pytest.mark.parametrize("kind", ["ctc", "hybrid"])
def test_every_kind_of_head_is_served_as_nemo_does(heads, hearing, kind, frames):
    """Models with a CTC head, and with both kinds: live text is that of the whole recording, step by step."""
    loaded = model(frames, heads[kind])
    said = errors = 0
    for each in speech()[:6]:
        pcm = padded(each.pcm, loaded, SILENCE)
        whole = whole_file(loaded, pcm)
        session = hearing(loaded)
        assert live(loaded, session, pcm + bytes(2 * loaded.grid.reach)) == whole
        transcript = session.heard.transcript
        assert len(transcript.tokens) == len(transcript.confidences) == len(transcript.frames)
        assert all(0 <= confidence <= 1 for confidence in transcript.confidences)
        said += len(each.text.split())
        errors += word_errors(each.text.split(), whole[-1].split())
    assert errors <= 0.3 * said


def test_a_ctc_head_takes_no_vocabulary(heads):
    with pytest.raises(EngineError, match=r"STT_VOCABULARY: .* has a CTC head"):
        load(heads["ctc"], None, device="cpu", dtype="float32", phrases=["stop"])


def test_the_last_word_comes_with_the_flush(words20, hearing):
    """The flush knows all words without waiting for a chunk: it equals the whole recording with silence behind it."""
    for each in speech()[:8]:
        session = hearing(words20)
        live(words20, session, each.pcm)
        text = flushed(words20, session)
        assert text == whole_file(words20, padded(each.pcm, words20, SILENCE))[-1] == each.text


def test_a_flush_leaves_no_trace(words20, hearing):
    """With flushes between all pieces, the text after every step is the same as without."""
    pcm = padded(speech()[2].pcm + speech()[3].pcm, words20, SILENCE)
    plain = live(words20, hearing(words20), pcm)
    session, texts = hearing(words20), []
    for at in range(0, len(pcm), 9_000):
        texts += live(words20, session, pcm[at : at + 9_000])
        flushed(words20, session)
    assert texts == plain


@EVERY_CONTEXT
def test_many_sessions_in_one_batch_are_each_as_if_alone(context):
    """24 sessions with staggered starts and ends, flushes and early hang-ups, first to last chunks in the same step."""
    words20 = model(context)
    everyone = speech()
    alone = []
    for each in everyone:
        session = words20.open()
        alone.append([*live(words20, session, each.pcm), flushed(words20, session)])
        words20.close(session)
    hang_ups = {5: 2, 11: 1, 17: 0}
    """Who hangs up after how many steps."""
    sessions, texts, fed, batches = {}, [[] for _ in everyone], [0] * SESSIONS, []
    calling = set(range(SESSIONS))
    tick = 0
    while calling:
        jobs = []
        for number in sorted(calling):
            if tick < (number * 7) % 40:
                continue
            session = sessions.setdefault(number, words20.open() if number not in sessions else None)
            if len(texts[number]) >= hang_ups.get(number, 10_000):
                words20.close(session)
                calling.discard(number)
                continue
            pcm = everyone[number].pcm
            if not session.stream.ready:
                session.stream.append(pcm[fed[number] : fed[number] + 1280])
                fed[number] += 1280
            if session.stream.ready or fed[number] >= len(pcm):
                jobs.append((number, Job(session, flush=not session.stream.ready)))
        tick += 1
        if not jobs or tick % 8:
            continue
        batches.append(len(jobs))
        for (number, job), heard in zip(jobs, words20.step([job for _, job in jobs]), strict=True):
            texts[number].append(heard.text)
            if job.flush:
                words20.close(sessions[number])
                calling.discard(number)
    for number, (one, other) in enumerate(zip(texts, alone, strict=True)):
        assert one == other[: hang_ups.get(number)], number
    assert max(batches) > 4 and SESSIONS == 24


class Rehearsed(Graphs):
    """What a GPU does, without one: batches are filled up, and work is done beforehand for nobody; nothing replays."""

    def record(self, key, work, *inputs):
        work(*inputs)
        work(*inputs)


@pytest.mark.parametrize("context", [(70, 6), (70, 0)], ids=str)
def test_batches_that_are_filled_up_change_no_text(context):
    """Rows of nobody, flushes of more chunks than they need, recordings while sessions are open: each as if alone."""
    loaded = load(str(nemo_world.MODEL), context, device="cpu", dtype="float32")
    loaded._graphs = loaded._decoder._graphs = Rehearsed(enabled=True)
    loaded.reserve(5)
    sessions = [loaded.open() for _ in range(5)]
    for each, session in zip(speech()[:5], sessions, strict=True):
        session.stream.append(each.pcm)
    loaded.prepare(1)
    while any(session.stream.ready for session in sessions):
        loaded.step([Job(session) for session in sessions if session.stream.ready])
        loaded.prepare(4)
    texts = [heard.text for heard in loaded.step([Job(session, flush=True) for session in sessions])]
    assert texts == [each.text for each in speech()[:5]]
    assert 1 <= places_in_time(loaded, 6, 0.5) <= 6


def test_utterances_follow_each_other_and_lose_nothing(words20, hearing):
    """Eight utterances of one session: the words of each, and of no other, are known at its flush."""
    session, said, heard = hearing(words20), 0, []
    for each in speech(seed=9, count=8):
        words20.begin(session)
        live(words20, session, each.pcm)
        heard.append((each.text.split(), flushed(words20, session).split()))
        said += len(heard[-1][0])
    assert sum(word_errors(*pair) for pair in heard) <= 0.05 * said, heard


def test_a_new_utterance_keeps_what_the_encoder_remembers(hearing):
    """With the call as context the caches stay; with the utterance as context they start from nothing."""
    first, second = speech()[:2]
    for continuous in (True, False):
        loaded = model((70, 6), continuous=continuous)
        session = hearing(loaded)
        live(loaded, session, first.pcm)
        loaded.begin(session)
        live(loaded, session, second.pcm)
        alone = hearing(loaded)
        live(loaded, alone, second.pcm)
        remembered, without = (int(loaded._caches[2][each.row]) for each in (session, alone))
        assert (remembered > without) == continuous


def test_words_have_the_times_at_which_they_were_said(words20, hearing):
    """Words are written while or soon after they sound, in order, and a chunk's lookahead late at most."""
    pcm = spoken("seven", before=1.0) + spoken("goodbye", before=1.0)
    session = hearing(words20)
    words20.begin(session)
    live(words20, session, pcm)
    (heard,) = words20.step([Job(session, flush=True)])
    words = words20.vocabulary.details(heard.transcript).words
    assert [word.text for word in words] == ["seven", "goodbye"]
    second = len(spoken("seven", before=1.0)) // 2 + 16_000
    for word, said in zip(words, (16_000, second), strict=True):
        assert said - 3_200 < word.start < word.end <= said + 16_000
        assert 0.5 < word.confidence <= 1


def test_a_custom_vocabulary_is_listened_for(hearing):
    """A phrase that is made much likelier is heard where something like it was said."""
    pcm = padded(spoken("stop"), model(), SILENCE)
    plain, session = model(), hearing(model())
    live(plain, session, pcm)
    assert flushed(plain, session) == "stop"
    eager = load(str(nemo_world.MODEL), [70, 13], device="cpu", dtype="float32", phrases=["start"], weight=8.0)
    eager.reserve(1)
    session = eager.open()
    live(eager, session, pcm)
    assert flushed(eager, session) == "start"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"contexts": [[-1, -1]], "style": "regular"}, "trained to see the whole recording"),
        ({"normalize": "per_feature"}, "normalises features over the whole recording"),
    ],
)
def test_a_model_that_cannot_stream_is_refused_with_one_that_can(tmp_path, changes, reason):
    normalize = changes.pop("normalize", "NA")
    base = config(tokenizer([each.text for each in speech()], tmp_path / "tokenizer", 40), **changes)
    base["preprocessor"]["normalize"] = normalize
    path = saved(ctc(base), tmp_path / "other.nemo")
    with pytest.raises(EngineError, match=f"{reason}.*nvidia/nemotron-speech-streaming-en-0.6b"):
        load(str(path), None, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/such/file.nemo", "no such file; expected the path"),
        ("nobody/nothing", "is the name right, and the network"),
    ],
)
def test_a_model_that_is_not_there_is_named(name, reason):
    with pytest.raises(EngineError, match=f"STT_MODEL={name}: .*{reason}"):
        load(name, None, device="cpu", dtype="float32")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "broken.nemo"
    path.write_bytes(b"not a model")
    with pytest.raises(EngineError, match="is it a NeMo speech recognition model"):
        load(str(path), None, device="cpu", dtype="float32")


def test_a_context_the_model_was_not_trained_for_is_refused():
    with pytest.raises(EngineError, match=r"STT_ATT_CONTEXT=70,3: .* trained for 70,13 or 70,6 or 70,1 or 70,0"):
        load(str(nemo_world.MODEL), [70, 3], device="cpu", dtype="float32")


def test_places_are_limited_and_come_back():
    loaded = load(str(nemo_world.MODEL), [70, 13], device="cpu", dtype="float32")
    loaded.reserve(2)
    one, _ = loaded.open(), loaded.open()
    with pytest.raises(EngineError, match="all 2 places"):
        loaded.open()
    loaded.close(one)
    assert loaded.open().row == one.row


def test_half_precision_understands_the_same(hearing):
    """bfloat16, as on a GPU: the words are right."""
    loaded = load(str(nemo_world.MODEL), [70, 6], device="cpu", dtype="bfloat16")
    loaded.reserve(1)
    understood_on(loaded)


def understood_on(loaded):
    said = errors = 0
    for each in speech()[:8]:
        session = loaded.open()
        live(loaded, session, each.pcm)
        said += len(each.text.split())
        errors += word_errors(each.text.split(), flushed(loaded, session).split())
        loaded.close(session)
    assert errors <= 0.05 * said
