"""Chatterbox with random weights: the real package and its real classes, without anything to download.

``TTS_ENGINE=tests.workers.tts.random_chatterbox:RandomChatterbox`` speaks noise, with everything around it as it is
with real weights. RANDOM_CHATTERBOX=full takes the full-size architecture instead of a tiny one.
"""

import functools
import json
import math
import os
import tempfile
from pathlib import Path

from workers.tts.engines.chatterbox import Chatterbox
from workers.tts.engines.chatterbox_model import libraries

TOKENS = 80
"""About how many tokens a sentence has before its end is sampled."""
SOUNDS = 200
"""How many different tokens there are."""


class RandomChatterbox(Chatterbox):
    """The engine with a model of random weights in place of a downloaded one."""

    tokens = TOKENS

    def make_model(self):
        full = os.environ.get("RANDOM_CHATTERBOX") == "full"
        torch, _ = libraries(self.settings.chatterbox_variant)
        device = self.settings.chatterbox_device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return build(self.settings.chatterbox_variant, full=full, tokens=self.tokens, device=device)


def build(variant="english", *, full=False, seed=0, tokens=None, device="cpu"):
    """The library's model, whose sentences have about ``tokens`` tokens; None: as many as it is allowed.

    Tiny: 4 layers (Multilingual 14, for its spies) of 128, a flow of few blocks and 2 steps."""
    torch, _ = libraries(variant)
    from chatterbox.models.s3gen import S3Gen
    from chatterbox.models.s3gen.f0_predictor import ConvRNNF0Predictor
    from chatterbox.models.s3gen.hifigan import HiFTGenerator
    from chatterbox.models.t3 import T3, llama_configs
    from chatterbox.models.t3.modules.cond_enc import T3Cond
    from chatterbox.models.t3.modules.t3_config import T3Config
    from chatterbox.models.voice_encoder import VoiceEncoder

    torch.manual_seed(seed)
    hp = T3Config.multilingual() if variant == "multilingual" else T3Config.english_only()
    if variant == "turbo":
        hp = T3Config(text_tokens_dict_size=50_276)
        hp.llama_config_name, hp.speech_tokens_dict_size, hp.input_pos_emb = "GPT2_medium", 6563, None
        hp.speech_cond_prompt_len, hp.use_perceiver_resampler, hp.emotion_adv = 375, False, False
    if not full:
        _shrink(llama_configs.LLAMA_CONFIGS[hp.llama_config_name], 14 if variant == "multilingual" else 4)
        hp.use_perceiver_resampler = False  # it is made for a width of 1024
    t3 = T3(hp)
    if variant == "turbo":
        del t3.tfmr.wte
    t3.speech_head = _ending(t3.speech_head)
    end_after(t3, tokens)
    s3gen = S3Gen(meanflow=variant == "turbo")
    if not full:
        estimator, encoder = s3gen.flow.decoder.estimator, s3gen.flow.encoder
        estimator.mid_blocks = estimator.mid_blocks[:2]
        for part in (*estimator.down_blocks, *estimator.mid_blocks, *estimator.up_blocks):
            part[1] = part[1][:1]
        s3gen.mel2wav = HiFTGenerator(
            base_channels=64, sampling_rate=24_000, upsample_rates=[8, 5, 3], upsample_kernel_sizes=[16, 11, 7],
            source_resblock_kernel_sizes=[7, 7, 11], source_resblock_dilation_sizes=[[1, 3, 5]] * 3,
            f0_predictor=ConvRNNF0Predictor(cond_channels=64),
        )  # fmt: skip
        encoder.encoders, encoder.up_encoders = encoder.encoders[:1], encoder.up_encoders[:1]
        if variant != "turbo":
            s3gen.inference = functools.partial(s3gen.inference, n_cfm_timesteps=2)
    prompt = 50 if full else 10
    spoken = torch.randint(0, 6561, (1, hp.speech_cond_prompt_len))
    lively = 0.5 * torch.ones(1, 1, 1)
    cond = T3Cond(speaker_emb=torch.randn(1, 256), cond_prompt_speech_tokens=spoken, emotion_adv=lively)
    voice = {
        "prompt_token": torch.randint(0, 6561, (1, prompt)),
        "prompt_token_len": torch.tensor([prompt]),
        "prompt_feat": torch.randn(1, 2 * prompt, 80),
        "prompt_feat_len": None,
        "embedding": torch.randn(1, 192),
    }
    library, conditionals = _classes(variant)
    parts = [part.to(device).eval() for part in (t3, s3gen, VoiceEncoder())]
    return library(*parts, _tokenizer(variant), device, conds=conditionals(cond, voice).to(device))


def _shrink(config, layers):
    heads, width = 16, 128
    if "n_layer" in config:
        config.update(n_layer=layers, n_embd=width, hidden_size=width, n_head=heads)
    else:
        config.update(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=heads,
            head_dim=width // heads, intermediate_size=2 * width,
        )  # fmt: skip


def _ending(head):
    """A speech head with SOUNDS sounds, all about as probable, and no marks.

    With all 6561 alike, each of them would be too improbable beside the end for the sampling to keep it (min_p).
    """
    import torch

    biased = torch.nn.Linear(head.in_features, head.out_features, bias=True)
    with torch.no_grad():
        biased.weight.copy_(head.weight / head.weight.norm(dim=1, keepdim=True) / head.in_features**0.5)
        biased.bias.zero_()
        biased.bias[SOUNDS:] = -1e4
    return biased


def end_after(t3, tokens):
    """Let the end be sampled about once in ``tokens`` tokens; never for None."""
    import torch

    stop = t3.hp.stop_speech_token
    with torch.no_grad():
        t3.speech_head.weight[stop] = 0
        t3.speech_head.bias[stop] = -1e4 if tokens is None else math.log(SOUNDS / tokens)


def _classes(variant):
    if variant == "multilingual":
        from chatterbox.mtl_tts import ChatterboxMultilingualTTS, Conditionals

        return ChatterboxMultilingualTTS, Conditionals
    if variant == "turbo":
        from chatterbox.tts_turbo import ChatterboxTurboTTS, Conditionals

        return ChatterboxTurboTTS, Conditionals
    from chatterbox.tts import ChatterboxTTS, Conditionals

    return ChatterboxTTS, Conditionals


def _tokenizer(variant):
    """One token a character; no more than the models' own tokenizers have."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[STOP]", "[UNK]", "[SPACE]", "[PAD]", "[en]", "[de]"]
    words += "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'-"
    words += [f"[{number}]" for number in range(len(words), 255)]
    vocabulary = {word: number for number, word in enumerate([*words, "[START]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens([word for word in vocabulary if len(word) > 1])
    if variant == "turbo":
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    from chatterbox.models.tokenizers import EnTokenizer, MTLTokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(str(file))
        assert json.loads(file.read_text())["version"]
        return (MTLTokenizer if variant == "multilingual" else EnTokenizer)(str(file))
