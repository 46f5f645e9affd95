"""How a NeMo model's transducer or CTC head goes on from one step to the next, without NeMo's growing hypotheses.

NeMo keeps an utterance in a Hypothesis that it changes in place and writes out anew at every step. Here a step is given
the decoder's state only and finds what is new; a Transcript holds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nemo.collections.asr.models import EncDecHybridRNNTCTCModel
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
from omegaconf import open_dict

from workers.stt.engines.nemo_words import Transcript

MAX_SYMBOLS = 10
"""Tokens a transducer may write at one frame."""


class Transducer:
    """Greedy label looping over a batch, some of it at the beginning of an utterance."""

    def __init__(self, model: Any, phrases: Sequence[str] = (), weight: float = 0.0, *, cuda_graphs: bool) -> None:
        """Set the model's decoding: batched, per-token confidence, ``phrases`` made likelier by ``weight``."""
        decoding = model.cfg.decoding
        with open_dict(decoding):
            decoding.strategy = "greedy_batch"
            decoding.greedy = {
                "max_symbols": MAX_SYMBOLS,
                "loop_labels": True,
                "use_cuda_graph_decoder": cuda_graphs,
                "preserve_frame_confidence": True,
            }
            decoding.confidence_cfg = {
                "preserve_frame_confidence": True,
                "exclude_blank": True,
                "method_cfg": {"name": "max_prob"},
            }
            if phrases:
                decoding.greedy.boosting_tree = {"key_phrases_list": list(phrases)}
                decoding.greedy.boosting_tree_alpha = weight
        if isinstance(model, EncDecHybridRNNTCTCModel):
            model.change_decoding_strategy(decoding, decoder_type="rnnt", verbose=False)
        else:
            model.change_decoding_strategy(decoding, verbose=False)

    def before(self, transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """What ``conformer_stream_step`` is to be told of what was said before."""
        hypotheses = [
            None if each.state is None else Hypothesis(0.0, None, timestamp=None, dec_state=each.state)
            for each in transcripts
        ]
        return {"previous_hypotheses": hypotheses if any(hypotheses) else None}

    def after(self, transcripts: Sequence[Transcript], result: Sequence[Any], seen: Sequence[int]) -> list[Transcript]:
        """Each transcript with what ``conformer_stream_step`` found in the encoder's frames, so many of each."""
        return [
            transcript.extended(
                found.y_sequence.tolist(),
                found.timestamp.tolist(),
                found.non_blank_step_confidence_precomputed,
                found.dec_state,
                frames,
            )
            for transcript, found, frames in zip(transcripts, result[5], seen, strict=True)
        ]


class Ctc:
    """The likeliest token of each frame, without blanks and repetitions. Its state is the token of the last frame."""

    def __init__(self, model: Any) -> None:
        self._blank = model.decoder.num_classes_with_blank - 1

    def before(self, transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """As in Transducer."""
        return {"return_transcription": False, "return_log_probs": True}

    def after(self, transcripts: Sequence[Transcript], result: Sequence[Any], seen: Sequence[int]) -> list[Transcript]:
        """As in Transducer."""
        probabilities, tokens = result[6].float().max(dim=-1)
        probabilities, tokens = probabilities.exp().cpu(), tokens.cpu()
        return [
            self._extended(transcript, tokens[row, :frames].tolist(), probabilities[row, :frames].tolist())
            for row, (transcript, frames) in enumerate(zip(transcripts, seen, strict=True))
        ]

    def _extended(self, transcript: Transcript, tokens: list[int], probabilities: list[float]) -> Transcript:
        last = self._blank if transcript.state is None else transcript.state
        found = [
            at
            for at, (token, before) in enumerate(zip(tokens, [last, *tokens], strict=False))
            if token not in (before, self._blank)
        ]
        return transcript.extended(
            [tokens[at] for at in found],
            [transcript.decoded + at for at in found],
            [probabilities[at] for at in found],
            tokens[-1],
            len(tokens),
        )
