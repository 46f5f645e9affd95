"""How a NeMo model's transducer or CTC head goes on from one step to the next, without NeMo's growing hypotheses.

NeMo keeps an utterance in a Hypothesis that it changes in place and writes out anew at every step. Here a step is given
the decoder's state only and finds what is new; a Transcript holds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from nemo.collections.asr.models import EncDecHybridRNNTCTCModel
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
from omegaconf import open_dict

from workers.stt.engines.nemo_words import Transcript

MAX_SYMBOLS = 10
"""Tokens a transducer may write at one frame."""


class Decoder(Protocol):
    """Turns the encoder's frames into tokens."""

    def reserve(self, sessions: int) -> None:
        """Make room for so many sessions."""

    def bytes_per_session(self) -> int:
        """What is kept of a session on the device."""

    def prepare(self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> None:
        """Make ready for batches of this shape; ``rows`` are of nobody."""

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor,
        transcripts: Sequence[Transcript], seen: Sequence[int],
    ) -> list[Transcript]:  # fmt: skip
        """Each transcript with what is in the encoder's frames [B, width, frames], so many of each ``seen``.

        Of the batch only the first so many are somebody's as there are transcripts; ``rows`` are a ``Rows`` table.
        """


def set_decoding(model: Any, phrases: Sequence[str] = (), weight: float = 0.0) -> None:
    """Set a transducer's decoding: greedy, batched, per-token confidence, ``phrases`` made likelier by ``weight``."""
    decoding = model.cfg.decoding
    with open_dict(decoding):
        decoding.strategy = "greedy_batch"
        decoding.greedy = {
            "max_symbols": MAX_SYMBOLS,
            "loop_labels": True,
            "use_cuda_graph_decoder": False,
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


class Transducer:
    """NeMo's own greedy label looping, as ``set_decoding`` has set it: what knows of a vocabulary and of durations."""

    def __init__(self, model: Any) -> None:
        self._decoding = model.decoding

    def reserve(self, sessions: int) -> None:
        """As in Decoder: states are with the transcripts."""

    def bytes_per_session(self) -> int:
        """As in Decoder: not known."""
        return 0

    def prepare(self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> None:
        """As in Decoder."""

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor,
        transcripts: Sequence[Transcript], seen: Sequence[int],
    ) -> list[Transcript]:  # fmt: skip
        """As in Decoder."""
        before = [
            None if each.state is None else Hypothesis(0.0, None, timestamp=None, dec_state=each.state)
            for each in transcripts
        ]
        result = self._decoding.rnnt_decoder_predictions_tensor(
            encoder_output=encoded[: len(before)],
            encoded_lengths=lengths[: len(before)],
            return_hypotheses=True,
            partial_hypotheses=before if any(before) else None,
        )
        return [
            transcript.extended(
                found.y_sequence.tolist(),
                found.timestamp.tolist(),
                found.non_blank_step_confidence_precomputed,
                found.dec_state,
                frames,
            )
            for transcript, found, frames in zip(transcripts, result, seen, strict=True)
        ]


class Ctc:
    """The likeliest token of each frame, without blanks and repetitions. Its state is the token of the last frame."""

    def __init__(self, model: Any) -> None:
        self._head = model.decoder
        self._blank = model.decoder.num_classes_with_blank - 1

    def reserve(self, sessions: int) -> None:
        """As in Decoder: states are with the transcripts."""

    def bytes_per_session(self) -> int:
        """As in Decoder: not known."""
        return 0

    def prepare(self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> None:
        """As in Decoder."""

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor,
        transcripts: Sequence[Transcript], seen: Sequence[int],
    ) -> list[Transcript]:  # fmt: skip
        """As in Decoder."""
        probabilities, tokens = self._head(encoder_output=encoded[: len(transcripts)]).float().max(dim=-1)
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
