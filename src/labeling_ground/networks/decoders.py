"""The mask decoders of SAM, SAM-HQ, SAM 2, EfficientTAM, EdgeTAM and SAM 3 as two graphs with one interface, from the
weights of one ``SamModel``, ``SamHQModel``, ``Sam2Model`` or ``Sam3TrackerModel``.

Both take a batch of prompts on one embedding and give low-res logits and scores of all four candidates; choosing and
upsampling happen outside (``sam.masks``). ``PlainDecoder`` computes what the reference does, step by step.
``FastDecoder`` computes the same numbers in another order of brackets: with few prompt tokens it is cheaper to carry
the tokens' side through the projections than the 4096 image places (2.04 instead of 3.62 GFLOP for a click).

SAM 2's decoder differs in three things: it has one token more, before the others, from which it guesses whether there
is an object at all (for videos; its image predictor ignores the guess, and so it is not computed here); finer features
of the image are added while the mask is upscaled; and scores pass through a sigmoid. SAM 3's is SAM 2's with 72 places
a side in place of 64, so 288 logits in place of 256; a mask input of 256 is enlarged to that. EdgeTAM's is SAM 2's, and
EfficientTAM's is that without the finer features.

SAM-HQ's has one token more, after the others. Its mask, of finer features (``checkpoint.HqEncoder``), is added to each
of the four.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MASK_TOKENS = 4

Finer = tuple[Tensor, ...]
"""What an embedding has beside ``image_embeddings``: SAM 2's ``[1, 32, 256, 256]`` and ``[1, 64, 128, 128]``, SAM 3's
``[1, 32, 288, 288]`` and ``[1, 64, 144, 144]``, SAM-HQ's ``[1, 32, 256, 256]``."""


class Prompts(nn.Module):
    """The prompt encoder, for labels given as numbers (``segment_anything/modeling/prompt_encoder.py``).

    Args:
        sam: a ``transformers.SamModel``, ``SamHQModel``, ``Sam2Model`` or ``Sam3TrackerModel``.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        encoder = sam.prompt_encoder
        self.side = float(encoder.input_image_size)
        self.grid = int(encoder.image_embedding_size[0])
        """Rows and columns of the embedding."""
        self.frequencies = nn.Parameter(sam.shared_image_embedding.positional_embedding.detach().clone())
        points = encoder.point_embed
        points = [points] if isinstance(points, nn.Embedding) else list(points)
        self.kinds = nn.Parameter(torch.cat([kind.weight.detach() for kind in (encoder.not_a_point_embed, *points)]))
        self.no_mask = nn.Parameter(encoder.no_mask_embed.weight.detach().view(1, -1, 1, 1).clone())
        self.mask_embed = encoder.mask_embed

    def places(self) -> Tensor:
        """Positional code of the embedding's places, ``[1, 4096, 256]``: their centres, in shares of the square."""
        centres = (torch.arange(self.grid, dtype=torch.float32) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self._code(torch.stack([x, y], -1).view(1, -1, 2))

    def sparse(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Points, corners and padding: ``[B, N, 2]`` and ``[B, N]`` → ``[B, N, 256]``."""
        code = self._code((coords + 0.5) / self.side)
        label = labels.unsqueeze(-1)
        code = code * (label != -1).to(code.dtype)
        for value in range(-1, 4):
            code = code + self.kinds[value + 1] * (label == value).to(code.dtype)
        return code

    def dense(self, mask: Tensor | None, has_mask: Tensor) -> Tensor:
        """The mask input, or the learned code of «none»: ``[B, 1, 256, 256]`` and ``[B]`` → ``[B, 256, 64, 64]``.

        Without a mask the convolutions are not computed: that is a branch of an exported graph, and here who has none
        passes ``None``.
        """

        def given(mask: Tensor, has_mask: Tensor) -> Tensor:
            share = has_mask.view(-1, 1, 1, 1)
            if mask.shape[-1] != 4 * self.grid:
                size = (4 * self.grid, 4 * self.grid)
                mask = functional.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
            return (share * self.mask_embed(mask) + (1 - share) * self.no_mask).contiguous()

        def none(mask: Tensor | None, has_mask: Tensor) -> Tensor:
            return self.no_mask.expand(has_mask.shape[0], -1, self.grid, self.grid).contiguous()

        if torch.compiler.is_exporting():
            return torch.cond(has_mask.sum() > 0, given, none, (mask, has_mask))
        return none(mask, has_mask) if mask is None else given(mask, has_mask)

    def _code(self, shares: Tensor) -> Tensor:
        angles = (2 * torch.pi) * ((2 * shares - 1) @ self.frequencies)
        return torch.cat([angles.sin(), angles.cos()], -1)


class _Decoder(nn.Module):
    """What both forms of the decoder share: what goes in, the tokens, and what is read off them.

    Args:
        sam: a ``transformers.SamModel``, ``SamHQModel``, ``Sam2Model`` or ``Sam3TrackerModel``.
    """

    def __init__(self, sam: Any) -> None:
        super().__init__()
        self.prompts = Prompts(sam)
        self.decoder = sam.mask_decoder
        self.register_buffer("pe", self._laid_out(self.prompts.places()).detach())
        self.pe: Tensor

    def forward(self, image_embeddings: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        """Decode a batch of B prompts.

        Args:
            image_embeddings: ``[1, 256, 64, 64]``, or one for each prompt.
            given: the embedding's other tensors in the family's order (see ``Finer``); then coordinates
                ``[B, N, 2]``, x and y in the square's pixels; labels ``[B, N]``; mask inputs ``[B, 1, 256, 256]``,
                ``None`` where no prompt has one; and ``[B]``, 1 for a prompt that has one, else 0.

        Returns:
            Low-res logits ``[B, 4, 256, 256]`` and scores ``[B, 4]``.
        """
        *finer, coords, labels, mask, has_mask = given
        tokens = _tokens(self.decoder, self.prompts.sparse(coords, labels))
        hidden, image = self._attended(tokens, image_embeddings + self.prompts.dense(mask, has_mask))
        hyper, scores = _hyper(self.decoder, hidden), _scores(self.decoder, hidden)
        return self._upscaled(image, hyper, tuple(finer)), scores

    def _laid_out(self, places: Tensor) -> Tensor:
        """The code of the image's places, ``[1, 4096, 256]``, as ``_attended`` wants it."""
        return places

    def _attended(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, T, 256]`` and the image ``[B, 256, 64, 64]``, after each has seen the other; the image as
        places ``[B, 4096, 256]``."""
        raise NotImplementedError

    def _upscaled(self, image: Tensor, hyper: Tensor, finer: Finer) -> Tensor:
        """Places and what ``_hyper`` gives → logits ``[B, 4, 256, 256]``."""
        return _upscale(self.decoder, image, hyper, finer)


class PlainDecoder(_Decoder):
    """The reference's order of computation; the better one for long prompts."""

    def _laid_out(self, places: Tensor) -> Tensor:
        return places.transpose(1, 2).reshape(1, -1, self.prompts.grid, self.prompts.grid)

    def _attended(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        hidden, image = self.decoder.transformer(
            point_embeddings=tokens.unsqueeze(1),
            image_embeddings=image,
            image_positional_embeddings=self.pe,
            attention_similarity=None,
        )
        return hidden.squeeze(1), image.squeeze(1)


class FastDecoder(_Decoder):
    """The same function with the projections of the image places folded into the tokens; for short prompts.

    With ``x`` the image places and ``t`` the tokens, per head:

    - tokens look at the image: ``q·(Wk x + bk)`` is ``(Wkᵀ q)·x`` plus ``q·bk``, which is the same for all places and
      leaves the softmax unchanged; ``Σ a (Wv x + bv)`` is ``Wv (Σ a x) + bv``, because the shares ``a`` add up to 1.
    - the image looks at tokens: ``(Wq x + bq)·k`` is ``x·(Wqᵀ k) + bq·k``, and the output projection is applied to the
      tokens' values before they are mixed.
    - a transposed convolution with kernel = stride is a matrix product of every place with the kernel.
    """

    def _attended(self, tokens: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = image.flatten(2).transpose(1, 2)
        transformer = self.decoder.transformer
        hidden = tokens
        placed = image + self.pe
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                hidden = _attend(layer.self_attn, hidden, hidden, hidden)
            else:
                query = hidden + tokens
                hidden = hidden + _attend(layer.self_attn, query, query, hidden)
            hidden = layer.layer_norm1(hidden)
            hidden = hidden + _tokens_to_image(layer.cross_attn_token_to_image, hidden + tokens, placed, image)
            hidden = layer.layer_norm2(hidden)
            hidden = layer.layer_norm3(hidden + layer.mlp(hidden))
            image = image + _image_to_tokens(layer.cross_attn_image_to_token, placed, hidden + tokens, hidden)
            image = layer.layer_norm4(image)
            placed = image + self.pe
        hidden = hidden + _tokens_to_image(transformer.final_attn_token_to_image, hidden + tokens, placed, image)
        return transformer.layer_norm_final_attn(hidden), image

    def _upscaled(self, image: Tensor, hyper: Tensor, finer: Finer) -> Tensor:
        # To bring finer features into the order of doubled places takes longer than doubling so saves.
        return super()._upscaled(image, hyper, finer) if finer else _upscale_places(self.decoder, image, hyper)


def _tokens(decoder: Any, sparse: Tensor) -> Tensor:
    """The decoder's own tokens and the prompt's: ``[B, 5 + N, 256]``, in SAM 2 and SAM-HQ ``[B, 6 + N, 256]``."""
    kinds = ("obj_score_token", "iou_token", "mask_tokens", "hq_token")
    own = torch.cat([getattr(decoder, kind).weight for kind in kinds if hasattr(decoder, kind)])
    return torch.cat([own.unsqueeze(0).expand(sparse.shape[0], -1, -1), sparse], 1)


def _first(decoder: Any) -> int:
    """Where the score's token stands; the four masks' follow. SAM 2 has its object token before it."""
    return int(hasattr(decoder, "obj_score_token"))


def _is_hq(decoder: Any) -> bool:
    return hasattr(decoder, "hq_token")


def _scores(decoder: Any, hidden: Tensor) -> Tensor:
    """Predicted IoU of the four masks: ``[B, 4]``."""
    return decoder.iou_prediction_head(hidden[:, _first(decoder)])


def _hyper(decoder: Any, hidden: Tensor) -> Tensor:
    """What each mask token makes of the upscaled features: ``[B, 4, 32]``, in SAM-HQ ``[B, 5, 32]``."""
    start = _first(decoder) + 1
    mlps = [*decoder.output_hypernetworks_mlps, *([decoder.hq_mask_mlp] if _is_hq(decoder) else [])]
    return torch.stack([mlp(hidden[:, start + i]) for i, mlp in enumerate(mlps)], 1)


def _out(attention: Any) -> Any:
    """The output projection, which ``transformers`` calls this in one model and that in the other."""
    return attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj


def _split(x: Tensor, heads: int) -> Tensor:
    """``[B, T, heads · d]`` → ``[B, heads, T, d]``."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain attention among tokens."""
    heads = attention.num_attention_heads
    q, k, v = (
        _split(projection(x), heads)
        for projection, x in ((attention.q_proj, query), (attention.k_proj, key), (attention.v_proj, value))
    )
    mixed = ((q * attention.scaling) @ k.transpose(-2, -1)).softmax(-1) @ v
    return _out(attention)(mixed.transpose(1, 2).flatten(2))


def _tokens_to_image(attention: Any, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens ``[B, T, 256]`` look at the image ``[B, 4096, 256]`` (``placed`` has the positions added)."""
    heads = attention.num_attention_heads
    q = _split(attention.q_proj(query), heads) * attention.scaling
    folded = (q @ attention.k_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
    shares = (folded @ placed.transpose(1, 2)).softmax(-1)
    seen = (shares @ image).unflatten(1, (heads, -1))
    value = attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
    mixed = (seen @ value).transpose(1, 2).flatten(2) + attention.v_proj.bias
    return _out(attention)(mixed)


def _image_to_tokens(attention: Any, placed: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The image ``[B, 4096, 256]`` looks at tokens ``[B, T, 256]``."""
    heads = attention.num_attention_heads
    k = _split(attention.k_proj(key), heads) * attention.scaling
    folded = (k @ attention.q_proj.weight.unflatten(0, (heads, -1))).flatten(1, 2)
    constant = (k @ attention.q_proj.bias.view(heads, -1, 1)).flatten(1)
    scores = placed @ folded.transpose(1, 2) + constant.unsqueeze(1)
    shares = scores.unflatten(-1, (heads, -1)).softmax(-1).flatten(2)
    out = _out(attention).weight.t().unflatten(0, (heads, -1))
    values = (_split(attention.v_proj(value), heads) @ out).flatten(1, 2)
    return shares @ values + _out(attention).bias


def _upscale(decoder: Any, image: Tensor, hyper: Tensor, finer: Finer) -> Tensor:
    """Places ``[B, 4096, 256]`` and what ``_hyper`` gives → logits ``[B, 4, 256, 256]``, by convolutions."""
    hq, finer = (finer, ()) if _is_hq(decoder) else ((), finer)
    grid = math.isqrt(image.shape[1])
    up = decoder.upscale_conv1(image.transpose(1, 2).reshape(-1, image.shape[-1], grid, grid))
    up = functional.gelu(decoder.upscale_layer_norm(up + finer[1] if finer else up))
    up = decoder.upscale_conv2(up)
    up = functional.gelu(up + finer[0] if finer else up)
    logits = hyper[:, :MASK_TOKENS] @ up.flatten(2)
    if hq:
        fine = decoder.mask_conv2(functional.gelu(decoder.mask_norm(decoder.mask_conv1(up)))) + hq[0]
        logits = logits + hyper[:, MASK_TOKENS:] @ fine.flatten(2)
    return logits.view(-1, MASK_TOKENS, 4 * grid, 4 * grid)


def _upscale_places(decoder: Any, image: Tensor, hyper: Tensor) -> Tensor:
    """The same by products of matrices, without finer features."""
    norm = decoder.upscale_layer_norm
    up = _double(decoder.upscale_conv1, image)
    up = functional.gelu(functional.layer_norm(up, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    up = functional.gelu(_double(decoder.upscale_conv2, up))
    logits = hyper @ up.transpose(1, 2)
    # place = (y, x), then the first doubling's (row, column), then the second's
    grid = math.isqrt(image.shape[1])
    logits = logits.view(-1, MASK_TOKENS, grid, grid, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
    return logits.reshape(-1, MASK_TOKENS, 4 * grid, 4 * grid)


def _double(convolution: Any, places: Tensor) -> Tensor:
    """A transposed convolution with kernel and stride 2: ``[B, places, C]`` → ``[B, 4 · places, D]``."""
    weight = convolution.weight.permute(0, 2, 3, 1)
    grown = places @ weight.flatten(1) + convolution.bias.repeat(4)
    return grown.reshape(grown.shape[0], -1, weight.shape[-1])
