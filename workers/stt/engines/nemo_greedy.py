"""A transducer's greedy search over a batch of streams, with the state of each kept on the device.

NeMo's search looks for the next token frame by frame and asks after each whether it is done; here a round scores all
frames of the chunk at once against what was written last, and the first that is no blank is written. So there are as
many rounds as the longest text of the chunk has tokens, and one more. The tokens are the same: a frame's scores do not
depend on the blanks before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workers.stt.engines.nemo_decoder import MAX_SYMBOLS
from workers.stt.engines.nemo_graphs import Graphs
from workers.stt.engines.nemo_rows import Rows
from workers.stt.engines.nemo_words import Transcript

AXES = (1, 1, 0)
"""Which axis of what is kept are the sessions."""


@dataclass(slots=True)
class Search:
    """The search in the chunks of a batch [B], as a round leaves it. Frames are the chunk's, 0 to ``frames`` - 1."""

    rows: torch.Tensor
    """[Rows.COLUMNS, B]"""
    encoded: torch.Tensor
    """[B, frames, joint]"""
    lengths: torch.Tensor
    hidden: torch.Tensor
    """[layers, B, predictor]"""
    cell: torch.Tensor
    predicted: torch.Tensor
    """[B, 1, joint]: what the predictor makes of the last token."""
    frame: torch.Tensor
    """The frame the search is at."""
    last: torch.Tensor
    """The frame of the last token, and how many there are of it."""
    many: torch.Tensor
    found: torch.Tensor
    """float32 [rounds, 3, B]: the token of each round (-1: none), its frame, its confidence."""
    round: torch.Tensor
    going: torch.Tensor
    """Whether a stream had a token in the last round."""


class Greedy:
    """Implements ``nemo_decoder.Decoder`` for transducers that write one token at a time, without a vocabulary."""

    def __init__(self, model: Any, graphs: Graphs) -> None:
        self._decoder, self._joint = model.decoder, model.joint
        self._blank: int = model.decoder.blank_idx
        self._graphs = graphs
        self._searches: dict[tuple[int, int], Search] = {}
        self._kept: tuple[torch.Tensor, ...] = ()
        self._beginning: tuple[torch.Tensor, ...] = ()

    def reserve(self, sessions: int) -> None:
        """Make room for the state of so many sessions, and of the row that nobody reads."""
        some = next(self._joint.parameters())
        with torch.inference_mode():
            label = torch.full((1, 1), self._blank, device=some.device)
            state = self._decoder.initialize_state(some.new_zeros(1, 1, 1))
            predicted, (hidden, cell), *_ = self._decoder.predict(label, state, add_sos=False, batch_size=1)
            self._beginning = (hidden, cell, self._joint.project_prednet(predicted))
            self._kept = tuple(
                each.repeat_interleave(sessions + 1, dim=axis).contiguous()
                for each, axis in zip(self._beginning, AXES, strict=True)
            )
        self._searches.clear()

    def bytes_per_session(self) -> int:
        """What is kept of a session."""
        return sum(each.numel() * each.element_size() for each in self._beginning)

    def prepare(self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> None:
        """Record the search in batches of this shape; ``rows`` are of nobody."""
        search = self._search(encoded)
        key = (len(encoded), encoded.shape[2])
        self._graphs.record(("begin", *key), self._begin(search), encoded, lengths, rows)
        self._graphs.record(("round", *key), lambda: self._round(search))
        self._graphs.record(("keep", *key), lambda: self._keep(search))

    def decode(
        self, encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor,
        transcripts: Sequence[Transcript], seen: Sequence[int],
    ) -> list[Transcript]:  # fmt: skip
        """As in Decoder."""
        search = self._search(encoded)
        key = (len(encoded), encoded.shape[2])
        self._graphs(("begin", *key), self._begin(search), encoded, lengths, rows)
        rounds = 0
        # Asking whether it is done waits for the GPU, so a few rounds are made before the first time.
        for ahead in range(len(search.found)):
            self._graphs(("round", *key), lambda: self._round(search))
            rounds = ahead + 1
            if ahead > encoded.shape[2] // 4 and not bool(search.going):
                break
        self._graphs(("keep", *key), lambda: self._keep(search))
        found = search.found[:rounds].cpu().numpy()
        counts = (found[:, 0] >= 0).sum(axis=0).tolist()
        return [
            transcript.extended(
                found[:count, 0, row].astype(int).tolist(),
                (found[:count, 1, row].astype(int) + transcript.decoded).tolist(),
                found[:count, 2, row].tolist(),
                None,
                frames,
            )
            if count
            else transcript.extended((), (), (), None, frames)
            for row, (transcript, frames, count) in enumerate(zip(transcripts, seen, counts, strict=False))
        ]

    def _search(self, encoded: torch.Tensor) -> Search:
        """The place for a search of this shape: the same each time, as recordings need it."""
        batch, _, frames = encoded.shape
        there = self._searches.get((batch, frames))
        if there is not None:
            return there
        hidden, cell, predicted = self._beginning
        long = torch.zeros(batch, dtype=torch.long, device=encoded.device)
        there = self._searches[batch, frames] = Search(
            rows=long.repeat(Rows.COLUMNS, 1),
            encoded=predicted.new_zeros(batch, frames, predicted.shape[2]),
            lengths=long.clone(),
            hidden=hidden.repeat(1, batch, 1),
            cell=cell.repeat(1, batch, 1),
            predicted=predicted.repeat(batch, 1, 1),
            frame=long.clone(),
            last=long.clone(),
            many=long.clone(),
            found=torch.zeros(frames * MAX_SYMBOLS + 1, 3, batch, device=encoded.device),
            round=long[:1].clone(),
            going=torch.zeros((), dtype=torch.bool, device=encoded.device),
        )
        return there

    def _begin(self, search: Search) -> Any:
        def begin(encoded: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor) -> None:
            search.encoded.copy_(self._joint.project_encoder(encoded.transpose(1, 2)))
            search.lengths.copy_(lengths)
            search.rows.copy_(rows)
            cold = rows[Rows.COLD].bool()
            for into, kept, new, axis in zip(
                (search.hidden, search.cell, search.predicted), self._kept, self._beginning, AXES, strict=True
            ):
                mask = cold[None, :, None] if axis else cold[:, None, None]
                into.copy_(torch.where(mask, new, kept.index_select(axis, rows[Rows.FROM])))
            search.frame.zero_()
            search.last.fill_(-1)
            search.many.zero_()
            search.round.zero_()

        return begin

    def _round(self, search: Search) -> None:
        """Each stream's next token, if there is one in the frames that are left."""
        batch, frames, _ = search.encoded.shape
        logits = self._joint.joint_after_projection(search.encoded, search.predicted).squeeze(2)
        labels = logits.argmax(dim=-1)
        numbers = torch.arange(frames, device=logits.device)
        spoken = (labels != self._blank) & (numbers >= search.frame[:, None]) & (numbers < search.lengths[:, None])
        at = torch.where(spoken, numbers, frames).amin(dim=1)
        found = at < frames
        at = at.clamp(max=frames - 1)
        label = torch.where(found, labels.gather(1, at[:, None]).squeeze(1), self._blank)

        scores = logits[torch.arange(batch, device=logits.device), at].float()
        best = (scores.amax(dim=-1) - scores.logsumexp(dim=-1)).exp()
        classes = scores.shape[-1]
        confidence = (best * classes - 1) / (classes - 1)
        written = torch.stack([torch.where(found, label, -1).float(), at.float(), confidence])
        search.found.index_copy_(0, search.round, written[None])
        search.round += 1

        state = (search.hidden, search.cell)
        predicted, (hidden, cell), *_ = self._decoder.predict(label[:, None], state, add_sos=False, batch_size=batch)
        search.predicted.copy_(
            torch.where(found[:, None, None], self._joint.project_prednet(predicted), search.predicted)
        )
        for into, new in ((search.hidden, hidden), (search.cell, cell)):
            into.copy_(torch.where(found[None, :, None], new, into))
        many = torch.where(at == search.last, search.many + 1, 1)
        search.many.copy_(torch.where(found, many, search.many))
        search.last.copy_(torch.where(found, at, search.last))
        onward = at + (many >= MAX_SYMBOLS)
        search.frame.copy_(torch.where(found, onward, frames))
        search.going.copy_(found.any())

    def _keep(self, search: Search) -> None:
        for kept, new, axis in zip(self._kept, (search.hidden, search.cell, search.predicted), AXES, strict=True):
            kept.index_copy_(axis, search.rows[Rows.TO], new)
