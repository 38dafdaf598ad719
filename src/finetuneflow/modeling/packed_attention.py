"""Attention over packed rows: many examples in one row of tokens, none of which sees another.

Registered with transformers as `packed`, so that no model code is changed. On CUDA it is torch's own
variable-length kernel; on a CPU the segments are laid side by side in a padded block, where causal attention
alone keeps them apart (padding comes after the tokens of its segment, so nothing looks at it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from finetuneflow.errors import ModelError

NAME = "packed"
PLAIN_SCORES = 1 << 25
"""Attention scores up to this number are held in memory (64 MiB in bf16), which is faster than not to."""


@dataclass
class Segments:
    """Where the examples of a packed row lie."""

    lengths: list[int]
    offsets: torch.Tensor
    """Cumulative lengths, int32 (segments + 1): what the variable-length kernel wants."""
    padded: torch.Tensor
    """Row position of each cell of the padded block (segments x longest); padding repeats the last token."""
    unpadded: torch.Tensor
    """Cell of each row position (T)."""


def segments(lengths: list[int], device: torch.device) -> Segments:
    """The index tables of a packed row.

    Args:
        lengths: Tokens per example, in row order.
        device: Where the row is.
    """
    length = torch.tensor(lengths)
    ends = length.cumsum(0)
    starts = ends - length
    longest = int(length.max())
    column = torch.arange(longest)
    padded = torch.minimum(starts[:, None] + column[None, :], ends[:, None] - 1)
    inside = column[None, :] < length[:, None]
    unpadded = torch.arange(len(lengths) * longest).reshape(len(lengths), longest)[inside]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int32), ends.to(torch.int32)])
    return Segments(lengths, offsets.to(device), padded.flatten().to(device), unpadded.to(device))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment.

    Args:
        module: The attention layer; not used.
        query: (1, H, T, D).
        key: (1, K, T, D), K a divisor of H.
        value: Like key.
        attention_mask: Always None here.
        segments: Where the examples lie in the row.
        scaling: Factor on the scores.
        dropout: Share of the scores dropped while training.
        sliding_window: Furthest token that is looked at, where the model has a limit.
        softcap: Cap on the scores; models that have one cannot be packed.

    Returns:
        (1, T, H, D), and no weights.

    Raises:
        ModelError: the model's attention cannot be packed.
    """
    if segments is None or softcap is not None:
        raise ModelError("this model cannot be trained on packed rows", "set `packing: false` in the recipe")
    window = sliding_window if sliding_window and sliding_window < max(segments.lengths) else None
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda:
        longest = max(segments.lengths)
        out = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            segments.offsets,
            segments.offsets,
            longest,
            longest,
            scale=scaling,
            window_size=((window - 1) if window else -1, 0),
            enable_gqa=grouped,
        )
        return cast(torch.Tensor, out).unsqueeze(0), None
    rows, longest = len(segments.lengths), max(segments.lengths)

    def block(states: torch.Tensor) -> torch.Tensor:
        gathered = states[0].transpose(0, 1).index_select(0, segments.padded)
        return gathered.reshape(rows, longest, *gathered.shape[1:]).transpose(1, 2)

    out = _block_attention(
        block(query), block(key), block(value), scaling=scaling, dropout=dropout, window=window
    )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, segments.unpadded)[None], None


def _block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    dropout: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of a padded block: (N, H, L, D) with key and value (N, K, L, D)."""
    rows, heads, longest, width = query.shape
    distance = torch.arange(longest)[:, None] - torch.arange(longest)[None, :]
    seen = (distance >= 0) & (distance < (window or longest))
    if rows * heads * longest * longest > PLAIN_SCORES:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=seen if window else None,
            dropout_p=dropout,
            is_causal=not window,
            scale=scaling,
            enable_gqa=key.shape[1] != heads,
        )
    # Short segments: two plain products beat the flash kernel of the CPU, backward above all.
    grouped = query.reshape(rows, key.shape[1], -1, width)
    scores = grouped @ key.transpose(-1, -2) * (scaling or width**-0.5)
    scores = scores.reshape(rows, heads, longest, longest).masked_fill(~seen, float("-inf"))
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return (weights.reshape(rows, key.shape[1], -1, longest) @ value).reshape(rows, heads, longest, width)


def _no_mask(*_: Any, **__: Any) -> None:
    """The segments say who sees whom: transformers need not build a (T, T) mask."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
