"""Parts of NeMo's Conformer layers, without what most of a streaming step on a GPU went into.

Attention with relative positions: NeMo multiplies the positions with every stream's queries as a product of its own,
which expands them to the batch, and copies the keys and values of the whole context to do so. Positions are the same
for all streams, so that they are one product; of them only those that a chunk can reach are needed; and fused attention
reads keys and values where they are. Convolutions over one frame: short chunks make many small products of them, at
lengths that the tensor cores do not like; they are one product for all streams.
"""

from __future__ import annotations

import contextlib
import types
from typing import Any

import torch
from nemo.collections.asr.parts.submodules.multi_head_attention import INF_VAL, RelPositionMultiHeadAttention
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, scaled_dot_product_attention


def hasten(encoder: Any) -> None:
    """Let the encoder's layers work with the functions below, where they are of the kind that these know."""
    for layer in encoder.layers:
        if type(layer.self_attn) is RelPositionMultiHeadAttention:
            layer.self_attn.forward = types.MethodType(attend, layer.self_attn)
        for convolution in (layer.conv.pointwise_conv1, layer.conv.pointwise_conv2):
            convolution.forward = types.MethodType(pointwise, convolution)


def pointwise(self: Any, frames: torch.Tensor) -> torch.Tensor:
    """A convolution over one frame [batch, width, frames] as one product for all streams."""
    return linear(frames.transpose(1, 2), self.weight.squeeze(2), self.bias).transpose(1, 2)


def attend(
    self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None,
    pos_emb: torch.Tensor, cache: torch.Tensor | None = None,
) -> Any:  # fmt: skip
    """As ``RelPositionMultiHeadAttention.forward``, for inference: [batch, frames, width], and the cache's next."""
    key, value, query, cache = self.update_cache(key=key, value=value, query=query, cache=cache)
    batch, frames, width = query.shape
    seen = key.shape[1]
    q = self.linear_q(query).view(batch, frames, self.h, self.d_k)
    k = self.linear_k(key).view(batch, seen, self.h, self.d_k).transpose(1, 2)
    v = self.linear_v(value).view(batch, seen, self.h, self.d_k).transpose(1, 2)

    # The query at frame i meets the key at j with the position at j + frames - 1 - i. In eights, as the GPU likes it.
    reach = min(-(-(frames + seen - 1) // 8) * 8, pos_emb.shape[1])
    positions = self.linear_pos(pos_emb[0, :reach]).view(reach, self.h, self.d_k)
    asking = (q + self.pos_bias_v).permute(2, 0, 1, 3).reshape(self.h, batch * frames, self.d_k)
    met = torch.bmm(asking, positions.permute(1, 2, 0))
    bias = met.as_strided(
        (batch, self.h, frames, seen), (frames * reach, batch * frames * reach, reach - 1, 1), frames - 1
    ) / self.s_d_k  # fmt: skip
    if mask is not None:
        bias = bias.masked_fill_(mask[:, None], -INF_VAL)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]) if q.is_cuda else contextlib.nullcontext():
        out = scaled_dot_product_attention((q + self.pos_bias_u).transpose(1, 2), k, v, attn_mask=bias)
    if mask is not None:
        out = out.masked_fill(mask.all(dim=-1)[:, None, :, None], 0)
    out = self.linear_out(out.transpose(1, 2).reshape(batch, frames, width))
    return out if cache is None else (out, cache)
