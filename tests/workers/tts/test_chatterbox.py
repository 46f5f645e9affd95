"""The real package with random weights: leaving it in mid-step, and what is left behind."""

import functools
import gc
import random
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("chatterbox", reason="chatterbox-tts is not installed here: make test-chatterbox")

import soundfile
import soxr
import torch
from transformers import Cache

from tests.workers.tts.random_chatterbox import build, end_after
from workers.engines import EngineError
from workers.tts.engines.chatterbox_abort import Watch
from workers.tts.engines.chatterbox_model import ChatterboxModel
from workers.tts.engines.chatterbox_stream import SAMPLES, SIZES, PieceWise
from workers.tts.engines.espeak import Library

pytestmark = pytest.mark.chatterbox

SENTENCE = "She climbed the steps and lit the lamp."
OTHER = "Nobody was there to see it burn."
OPTIONS = {"cfg_weight": 0.5, "exaggeration": 0.5}


@pytest.fixture(scope="module", params=["english", "multilingual", "turbo"])
def model(request):
    return loaded(request.param)


@pytest.fixture
def english():
    return loaded("english")


@functools.cache
def loaded(variant, device="cpu"):
    """A warm model. Its sentences have as many tokens as they may."""
    torch.set_num_threads(1)
    options = {"temperature": 0.8} | ({} if variant == "turbo" else OPTIONS)
    made = ChatterboxModel(build(variant, device=device), variant, options)
    made.variant = variant
    made.speak(SENTENCE, "default", "en", seed=0, limit=20, watch=Watch(lambda: True), emit=lambda sound, last: None)
    return made


def say(model, text, watch=None, seed=1, limit=45):
    """(sound, watch) of a sentence."""
    sounds, watch = [], watch or Watch(lambda: True)
    whole = model.speak(
        text, "default", "en", seed=seed, limit=limit, watch=watch, emit=lambda sound, last: sounds.append(sound)
    )
    assert whole == watch.wanted()
    return np.concatenate([*sounds, np.zeros(0, np.float32)]), watch


def spoken(text):
    """Speech that is not Chatterbox's: espeak, at 24 kHz."""
    espeak, pcm = Library.get(), bytearray()
    espeak.synthesise(text, espeak.languages["en-us"], 160, lambda part, words: pcm.extend(part) or True)
    return soxr.resample(np.frombuffer(pcm, "<i2").astype(np.float32) / 32_768, espeak.rate, 24_000)


class Leaving:
    """A watch that is wanted for ``blocks`` blocks, and the model's forwards that ended afterwards."""

    def __init__(self, model, blocks):
        self.left = blocks
        self.phase = ""
        self.finished_after = 0
        self.watch = Watch(self.wanted)
        self._hooked = set(model.hooks.blocks)
        self._t3 = set(model.hooks._t3.modules())

    def wanted(self):
        return self.left > 0

    def begun(self, module, arguments):
        if module in self._hooked:
            if self.left > 0:
                self.phase = "t3" if module in self._t3 else "s3gen"
            self.left -= 1

    def ended(self, module, arguments, output):
        self.finished_after += module in self._hooked and self.left < 0

    @contextmanager
    def counting(self):
        """Counts with hooks of torch's own, on every module there is, which are called before those of the model."""
        handles = [
            torch.nn.modules.module.register_module_forward_pre_hook(self.begun),
            torch.nn.modules.module.register_module_forward_hook(self.ended),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def leave(model, blocks):
    """Leave a synthesis after so many blocks; what was seen of it."""
    leaving = Leaving(model, blocks)
    with leaving.counting():
        say(model, SENTENCE, leaving.watch)
    assert not leaving.wanted()
    return leaving


def caches():
    """How many key-value caches live."""
    return sum(issubclass(type(each), Cache) for each in gc.get_objects())


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def assert_whole_again(model, reference):
    """The next sentence is what it would have been, and nothing of the one before is left."""
    assert caches() == 0
    again, _ = say(model, OTHER, limit=25)
    assert np.array_equal(again, reference)
    # transformers installs one of its own, once; Multilingual's spies would be one more each time.
    assert all(len(layer.self_attn._forward_hooks) <= 1 for layer in getattr(model.hooks._t3.tfmr, "layers", ()))


def test_a_synthesis_left_anywhere_leaves_nothing_behind(model):
    """In every variant: no block ends after the cancel, no cache lives, the next sentence is bit-identical."""
    reference, whole = say(model, OTHER, limit=25)
    _, watch = say(model, SENTENCE)
    assert len(reference) == whole.voiced * SAMPLES and watch.late == 0
    for blocks in random.Random(1).sample(range(watch.blocks - 1), 12):
        leaving = leave(model, blocks)
        assert (leaving.watch.late, leaving.finished_after) == (0, 0)
        assert leaving.watch.blocks <= blocks
        assert_whole_again(model, reference)


@pytest.mark.parametrize("phase", ["t3", "s3gen"])
def test_a_hundred_times(english, phase):
    """100 times within T3, 100 times within S3Gen, at random: nothing begun afterwards, no cache, memory flat."""
    reference, _ = say(english, OTHER, limit=25)
    order = []
    recorder = Leaving(english, 10**9)
    with recorder.counting():
        say(english, SENTENCE, Watch(lambda: order.append(recorder.phase) or True))
    # Each block asks twice: once to go on, once to be counted.
    points = [number // 2 for number, at in enumerate(order) if at == phase and number % 2 == 0 and number < 2 * 160]
    rng, before = random.Random(phase), 0
    for number in range(100):
        leaving = leave(english, rng.choice(points))
        assert (leaving.watch.late, leaving.finished_after, caches()) == (0, 0, 0)
        if number == 20:
            before = resident()
    assert resident() - before < 30e6
    assert_whole_again(english, reference)


def test_streamed_is_as_long_as_one_shot(model):
    """The library's own generate, without any of this, gives as many samples, from as many tokens."""
    end_after(model._model.t3, 30)
    lengths = set()
    for seed, text in enumerate((SENTENCE, OTHER, SENTENCE, OTHER)):
        sound, watch = say(model, text, seed=seed, limit=1000)
        lengths.add(watch.total)
        torch.manual_seed((seed ^ zlib.crc32(text.encode())) & 0x7FFF_FFFF)
        words = {"language_id": "en"} if model.variant == "multilingual" else {}
        options = {"temperature": 0.8} | ({} if model.variant == "turbo" else OPTIONS)
        model._model.conds = model.voices["default"]
        if watch.total >= 3:
            whole = model._model.generate(text, **words, **options)
            assert whole.shape == (1, len(sound))
        assert len(sound) == watch.total * SAMPLES
    model.hooks._heal()
    end_after(model._model.t3, None)
    assert len(lengths) == 4 and max(lengths) > SIZES[0]


def test_the_first_piece_comes_after_fifteen_tokens(model):
    """Not after the sentence, and what was sampled is told to the token."""
    seen = []
    watch = Watch(lambda: True)
    emit = lambda sound, last: seen.append((watch.sampled, watch.voiced, len(sound)))  # noqa: E731
    model.speak(SENTENCE, "default", "en", seed=5, limit=45, watch=watch, emit=emit)
    # The count of what was sampled is raised after the piece that the token completes.
    assert seen[0] == (14, 12, 12 * SAMPLES)


def test_the_same_seed_gives_the_same_samples(model):
    """A sentence spoken again is bit-identical, also after others; another seed speaks it otherwise."""
    first, _ = say(model, SENTENCE)
    say(model, OTHER)
    assert np.array_equal(say(model, SENTENCE)[0], first)
    assert not np.array_equal(say(model, SENTENCE, seed=2)[0], first)


def test_an_unknown_end_is_cut_off(english):
    """At the limit of tokens the sentence ends, with all of its sound."""
    sound, watch = say(english, SENTENCE, seed=5, limit=25)
    assert watch.total == watch.voiced == 25 and len(sound) == 25 * SAMPLES


def test_every_piece_is_watermarked(english):
    """Perth finds its mark in speech that was marked piece by piece, and none where there is none."""
    speech = spoken("One night a storm came up, and the lamp went out; she could hear the bell of a ship.")
    tokens = list(range(len(speech) // SAMPLES))
    marked = []
    pieces = PieceWise(
        lambda window, number: speech[window[0] * SAMPLES : (window[-1] + 1) * SAMPLES],
        lambda sound, last: marked.append(english._watermarked(sound)),
    )
    for token in tokens:
        pieces.add(token)
    pieces.finish()
    joined = np.concatenate(marked)
    assert len(joined) == len(tokens) * SAMPLES and len(marked) > 3
    found = english._model.watermarker.get_watermark
    assert found(joined, 24_000, round=False).mean() > 0.9
    assert found(speech, 24_000, round=False).mean() < 0.5


def test_voices_are_files_and_what_is_computed_is_kept(english, tmp_path):
    """A WAV becomes a voice; the second start reads it; a broken copy is computed again; no audio is an error."""
    folder, cache = tmp_path / "voices", tmp_path / "cache"
    folder.mkdir()
    soundfile.write(folder / "anna.wav", spoken("One night a storm came up, and she lit the lamp."), 24_000)
    before = dict(english.voices)
    try:
        english.prepare(folder, cache)
        assert sorted(english.voices) == ["anna", "default"]
        first = english.voices["anna"]
        (kept,) = cache.iterdir()
        english.prepare(folder, cache)
        assert torch.equal(english.voices["anna"].gen["prompt_token"], first.gen["prompt_token"])
        kept.write_bytes(b"broken")
        english.prepare(folder, cache)
        assert torch.equal(english.voices["anna"].t3.speaker_emb, first.t3.speaker_emb)
        assert kept.stat().st_size > 1000
        (folder / "empty.wav").write_bytes(b"RIFF")
        with pytest.raises(EngineError, match=r"empty\.wav cannot become a voice"):
            english.prepare(folder, cache)
        with pytest.raises(EngineError, match="no such folder; expected one with voices"):
            english.prepare(tmp_path / "nowhere", cache)
    finally:
        english.voices = before
