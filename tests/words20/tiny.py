"""Tiny models of the architectures that stream, with random weights: what the test model is trained from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nemo.collections.asr as nemo_asr
import torch
from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
from omegaconf import OmegaConf

CONTEXTS = ((70, 13), (70, 6), (70, 1), (70, 0))
"""The attention contexts of nemotron-speech-streaming-en-0.6b, in its order."""


def tokenizer(texts: Iterable[str], folder: Path, size: int) -> Path:
    """A SentencePiece tokenizer of these texts, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = folder / "texts.txt"
    lines.write_text("\n".join(texts) + "\n")
    create_spt_model(
        data_file=str(lines), vocab_size=size, sample_size=-1, do_lower_case=False, output_dir=str(folder),
        tokenizer_type="bpe", character_coverage=1.0,
    )  # fmt: skip
    return folder


def config(
    folder: Path, *, width: int = 96, layers: int = 2, mels: int = 64, channels: int = 32, heads: int = 4,
    predictor: int = 96, predictor_layers: int = 1, contexts: Iterable[Iterable[int]] = CONTEXTS,
    style: str = "chunked_limited",
) -> dict[str, Any]:  # fmt: skip
    """A model's configuration without its heads."""
    target = "nemo.collections.asr.modules."
    return {
        "sample_rate": 16_000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "model_defaults": {"enc_hidden": width, "pred_hidden": predictor, "joint_hidden": predictor},
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "train_ds": None,
        "validation_ds": None,
        "test_ds": None,
        "preprocessor": {
            "_target_": target + "AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16_000, "normalize": "NA", "window_size": 0.025, "window_stride": 0.01, "window": "hann",
            "features": mels, "n_fft": 512, "log": True, "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
        },
        "spec_augment": {
            "_target_": target + "SpectrogramAugmentation",
            "freq_masks": 2, "time_masks": 2, "freq_width": 27, "time_width": 0.05,
        },
        "encoder": {
            "_target_": target + "ConformerEncoder",
            "feat_in": mels, "feat_out": -1, "n_layers": layers, "d_model": width, "use_bias": False,
            "subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": channels,
            "causal_downsampling": True, "ff_expansion_factor": 4, "self_attention_model": "rel_pos",
            "n_heads": heads, "att_context_size": [list(each) for each in contexts], "att_context_style": style,
            "xscaling": False, "untie_biases": True, "pos_emb_max_len": 5000, "conv_kernel_size": 9,
            "conv_norm_type": "layer_norm", "conv_context_size": "causal", "dropout": 0.1,
            "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1,
        },
        "optim": {"name": "adamw", "lr": 1e-3},
        "predictor_layers": predictor_layers,
    }  # fmt: skip


def transducer(base: dict[str, Any]) -> Any:
    """A transducer (EncDecRNNTBPEModel), made with torch's seed as it stands."""
    return nemo_asr.models.EncDecRNNTBPEModel(cfg=OmegaConf.create(base | _transducer_heads(base)))


def ctc(base: dict[str, Any]) -> Any:
    """A model with a CTC head (EncDecCTCModelBPE)."""
    head = {"decoder": _ctc_head(base), "decoding": {"strategy": "greedy_batch"}}
    return nemo_asr.models.EncDecCTCModelBPE(cfg=OmegaConf.create(base | head))


def hybrid(base: dict[str, Any]) -> Any:
    """A model with both (EncDecHybridRNNTCTCBPEModel)."""
    aux = {"aux_ctc": {"ctc_loss_weight": 0.3, "use_cer": False, "ctc_reduction": "mean_batch",
                       "decoder": _ctc_head(base), "decoding": {"strategy": "greedy_batch"}}}  # fmt: skip
    return nemo_asr.models.EncDecHybridRNNTCTCBPEModel(cfg=OmegaConf.create(base | _transducer_heads(base) | aux))


def saved(model: Any, path: Path) -> Path:
    """The model as a .nemo file."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        model.eval().save_to(str(made))
        path.write_bytes(made.read_bytes())
    return path


def seeded(seed: int = 0) -> None:
    """Let models made from now on be the same each time."""
    torch.manual_seed(seed)


def _transducer_heads(base: dict[str, Any]) -> dict[str, Any]:
    target = "nemo.collections.asr.modules."
    defaults = base["model_defaults"]
    return {
        "decoder": {
            "_target_": target + "RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {"pred_hidden": defaults["pred_hidden"], "pred_rnn_layers": base["predictor_layers"],
                        "t_max": None, "dropout": 0.1},
        },
        "joint": {
            "_target_": target + "RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False, "fused_batch_size": -1,
            "jointnet": {"joint_hidden": defaults["joint_hidden"], "activation": "relu", "dropout": 0.1},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10},
                     "beam": {"beam_size": 2, "return_best_hypothesis": False}},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0, "clamp": -1.0}},
    }  # fmt: skip


def _ctc_head(base: dict[str, Any]) -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": base["model_defaults"]["enc_hidden"], "num_classes": -1, "vocabulary": [],
    }  # fmt: skip
