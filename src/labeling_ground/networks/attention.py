"""Attention by ``scaled_dot_product_attention``, in place of the modules that write all scores down.

The numbers are the same but for rounding. What an encoder adds to the scores reaches the kernel in one of two ways:

- *in the head*: SAM adds ``h[q, row of k] + w[q, column of k]``. That is a product too, of ``h`` and ``w`` with one-hot
  codes of a key's row and column, so both become further dimensions of each head: ``q·k + h·onehot + w·onehot`` is one
  product of longer vectors. No mask is needed, and so the flash kernels of GPUs can be used. The idea is published as
  FlashBias (Wu et al. 2025, arXiv 2505.12044).
- *as a mask*: kernels of processors take one, and longer heads would cost them more arithmetic than it saves.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_ALIGNED = 8
"""Flash kernels take heads whose dimensions are a multiple of this; others are copied first."""


class RelativeAttention(nn.Module):
    """SAM's attention with relative positions: ``transformers.SamVisionAttention``, and modules that are like it.

    Args:
        like: the module whose weights are used.
        in_head: the relative positions go into the head; else they are a mask.
    """

    def __init__(self, like: Any, in_head: bool) -> None:
        super().__init__()
        self.heads, self.scale, self.in_head = like.num_attention_heads, like.scale, in_head
        self.qkv, self.proj = like.qkv, like.proj
        rows, columns = (_table(each.detach()) for each in (like.rel_pos_h, like.rel_pos_w))
        height, width = rows.shape[0], columns.shape[0]
        if in_head:
            rows, columns = rows / self.scale, columns / self.scale  # the kernel scales the whole product
            extra = -(like.qkv.out_features // 3 // self.heads + height + width) % _ALIGNED
            columns = functional.pad(columns, (0, 0, 0, extra))
            place = torch.arange(height * width)
            codes = functional.one_hot(place // width, height), functional.one_hot(place % width, width + extra)
            self.register_buffer("codes", torch.cat(codes, -1).to(rows.dtype), persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.rows: Tensor
        self.columns: Tensor
        self.codes: Tensor

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """``[windows, height, width, channels]`` in and out; the scores are never there to be returned."""
        windows, height, width, _ = hidden_states.shape
        q, k, v = self.qkv(hidden_states).view(windows, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, self.rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, self.columns).flatten(2, 3)
        if self.in_head:
            long_q = torch.cat([q, by_row, by_column], -1)
            long_k = torch.cat([k, self.codes.expand(windows, self.heads, -1, -1)], -1)
            long_v = functional.pad(v, (0, long_q.shape[-1] - v.shape[-1]))  # the kernel wants three of one length
            mixed = functional.scaled_dot_product_attention(long_q, long_k, long_v, scale=self.scale)
            mixed = mixed[..., : v.shape[-1]]
        else:
            mask = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(windows, height, width, -1)), None


class PoolingAttention(nn.Module):
    """SAM 2's attention, whose queries are pooled where a stage begins: ``transformers.Sam2MultiScaleAttention``.

    Args:
        like: the module whose weights are used.
        in_head: of no meaning here: nothing is added to the scores.
    """

    def __init__(self, like: Any, in_head: bool) -> None:
        super().__init__()
        del in_head
        self.heads, self.scale, self.stride = like.num_attention_heads, like.scale, like.query_stride
        self.qkv, self.proj = like.qkv, like.proj

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[windows, height, width, channels]`` in; out with pooled height and width where there is a stride."""
        windows, height, width, _ = hidden_states.shape
        q, k, v = self.qkv(hidden_states).view(windows, height * width, 3, self.heads, -1).unbind(2)
        if self.stride:
            planes = q.flatten(2).transpose(1, 2).unflatten(2, (height, width))
            planes = functional.max_pool2d(planes, self.stride, self.stride)
            height, width = planes.shape[2:]
            q = planes.flatten(2).transpose(1, 2).unflatten(2, (self.heads, -1))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(windows, height, width, -1))


class BiasedAttention(nn.Module):
    """TinyViT's attention: one learned bias a head for each distance, which no product of short vectors gives.

    Args:
        like: a ``tinyvit.WindowAttention``, whose weights are used.
        in_head: of no meaning here: the bias is a mask.
    """

    def __init__(self, like: Any, in_head: bool) -> None:
        super().__init__()
        del in_head
        self.heads, self.norm, self.qkv, self.proj = like.heads, like.norm, like.qkv, like.proj
        self.register_buffer("bias", like.attention_biases.detach()[:, like.away].unsqueeze(0), persistent=False)
        self.bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """``[windows, places, width]``, same out."""
        windows, places, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(windows, places, self.heads, -1).transpose(1, 2).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return self.proj(mixed.transpose(1, 2).reshape(windows, places, width))


KERNELS: Mapping[str, Callable[[Any, bool], nn.Module]] = MappingProxyType(
    {
        "SamVisionAttention": RelativeAttention,
        "SamHQVisionAttention": RelativeAttention,
        "Sam2MultiScaleAttention": PoolingAttention,
        "WindowAttention": BiasedAttention,
    }
)
"""Name of a class → what computes the same by kernels. To add a family, add a line."""


def use_kernels(module: nn.Module, *, in_head: bool) -> int:
    """Replace every attention below a module that ``KERNELS`` has a line for, in place. Returns how many they were."""
    replaced = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            make = KERNELS.get(type(child).__name__)
            if make is not None:
                setattr(parent, name, make(child, in_head))
                replaced += 1
    return replaced


def _table(relative: Tensor) -> Tensor:
    """``[2 · size - 1, channels]`` of distances → ``[size, size, channels]``, from every place to every other."""
    size = (relative.shape[0] + 1) // 2
    place = torch.arange(size)
    return relative[place.unsqueeze(1) - place.unsqueeze(0) + size - 1]
