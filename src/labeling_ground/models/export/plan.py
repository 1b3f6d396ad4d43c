"""Which graphs a model becomes, and with which inputs they are compared with torch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from labeling_ground.models.export.graphs import Graph
from labeling_ground.networks.checkpoint import Loaded
from labeling_ground.networks.decoders import FastDecoder, PlainDecoder

_PROMPTS = {0: "prompts"}
_TOKENS = {0: "prompts", 1: "tokens"}
DYNAMIC = {"point_coords": _TOKENS, "point_labels": _TOKENS, "mask_input": _PROMPTS, "has_mask_input": _PROMPTS}
OUTPUTS = ("low_res_masks", "iou_predictions")

_SHAPES = ((1, 2, False), (1, 2, True), (5, 4, False), (3, 1, True), (1, 0, True), (1, 30, False))
"""Prompts, tokens and mask input of the trials: a click, a refinement, batches, a mask alone, a long prompt."""


def plan(loaded: Loaded) -> list[Graph]:
    """The encoder, and the decoder in its two forms. All trial inputs come from one seed."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 1024, 1024, generator=generator)
    with torch.inference_mode():
        made = loaded.encoder(image)
    names = loaded.family.embedding_names
    embedding = dict(zip(names, made if isinstance(made, tuple) else (made,), strict=True))
    dynamic = DYNAMIC | dict.fromkeys(names, _PROMPTS)
    shared = dict.fromkeys(names, "point_labels")  # one image for each prompt, or one for all of them
    several = {name: torch.cat([x, x.flip(-1), -x]) for name, x in embedding.items()}
    example = _prompt({name: x[:2] for name, x in several.items()}, 2, 3, True, generator)
    trials = [_prompt(embedding, *shape, generator) for shape in _SHAPES]
    trials.append(_prompt(several, 3, 4, False, generator))
    return [
        Graph("encoder", loaded.encoder, {"image": image}, names, {}),
        Graph("decoder", PlainDecoder(loaded.sam).eval(), example, OUTPUTS, dynamic, trials, shared),
        Graph("decoder-fast", FastDecoder(loaded.sam).eval(), example, OUTPUTS, dynamic, trials, shared),
    ]


def _prompt(
    embedding: Mapping[str, Tensor], prompts: int, tokens: int, mask: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    return {
        **embedding,
        "point_coords": torch.rand(prompts, tokens, 2, generator=generator) * 1024,
        "point_labels": torch.randint(-1, 4, (prompts, tokens), generator=generator).float(),
        "mask_input": torch.randn(prompts, 1, 256, 256, generator=generator) * 4,
        "has_mask_input": torch.full((prompts,), float(mask)),
    }
