"""SAM 2.1 to compare ours with: ``transformers``' model with seeded random weights, written as an official checkpoint.

The names below are written down independently of the table that the export uses: each is the other's check, and a
digest of what the package ``sam2`` has is a check on both.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.made_once import made_once
from tests.needs import needs

from labeling_ground.types import Prompt

_MEAN_STD = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

SMALL: tuple[int, tuple[int, ...]] = (96, (1, 1, 2, 1))
"""Width and blocks of a model that the authors did not make: all kinds of blocks, the real decoder, real sizes."""
_SMALL_WHOLE = (3,)

OFFICIAL = {
    "hiera_t": (96, (1, 2, 7, 2), 7, "4c2fbcf85d637a9546faed3b06e228ff209b1b337c1783e9301fed8b01734022"),
    "hiera_s": (96, (1, 2, 11, 2), 7, "35faaf773cc51d24103105528ad75ddd549b96b313e925f2184b87f77ce12bbe"),
    "hiera_b+": (112, (2, 3, 16, 3), 14, "3a8fbb2eee9337604a0459968f5efc296d6e904a5e9c1d5b1431ad2aea181b52"),
    "hiera_l": (144, (2, 6, 36, 4), 7, "e3249d8a128326c82012b1ca20afe2c0a4c24d2c367c1d61820113b0c9a36154"),
}
"""Size → width, blocks, side of the background positions, and the SHA-256 of names and shapes that the package ``sam2``
1.1.0 gives the weights of its image half (sorted lines of «name [shape]»)."""

_RULES = (
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (
        r"^shared_image_embedding\.positional_embedding$",
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "sam_prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "sam_prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "sam_prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "sam_prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "sam_prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.", "sam_prompt_encoder."),
    (r"^mask_decoder\.upscale_conv1\.", "sam_mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "sam_mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "sam_mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.", "sam_mask_decoder."),
    (r"(mlps\.\d|iou_prediction_head|pred_obj_score_head)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|iou_prediction_head|pred_obj_score_head)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|iou_prediction_head|pred_obj_score_head)\.proj_out\.", r"\1.layers.2."),
    (r"\.mlp\.proj_in\.", ".mlp.layers.0."),
    (r"\.mlp\.proj_out\.", ".mlp.layers.1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)


def config(width: int, blocks: tuple[int, ...], background: int, whole: tuple[int, ...], heads: int) -> Any:
    """A ``Sam2Config`` of that size."""
    transformers = needs("transformers")
    widths = [width * 2**i for i in range(4)]
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=heads,
        blocks_per_stage=list(blocks),
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[heads * 2**i for i in range(4)],
        window_positional_embedding_background_size=[background, background],
        global_attention_blocks=list(whole),
    )
    vision = transformers.Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1])
    return transformers.Sam2Config(vision_config=vision)


@functools.cache
def sam2(blocks: tuple[int, ...] = SMALL[1], whole: tuple[int, ...] = _SMALL_WHOLE) -> Any:
    """A SAM 2.1 of the width of «tiny», seeded, with random values where weights start as zeros or ones."""
    torch = needs("torch")
    needs("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = needs("transformers").Sam2Model(config(96, blocks, 7, whole, 1))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "pos_embed" in name:
                    weight.normal_(0, 0.02)
                elif name == "no_memory_embedding" or name.endswith("embed.weight"):
                    weight.normal_(0, 0.5)
                elif weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * 0.05)
            positions = model.shared_image_embedding.positional_embedding
            model.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    return model.eval()


def as_official(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a ``Sam2Model`` under the names of the package ``sam2``, and some that only videos need."""
    torch = needs("torch")
    official = {}
    for name, tensor in weights.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        if name == "prompt_encoder.point_embed.weight":
            for i in range(4):
                official[f"sam_prompt_encoder.point_embeddings.{i}.weight"] = tensor[i : i + 1]
            continue
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        official[name] = tensor
    return official | {
        "maskmem_tpos_enc": torch.zeros(7, 1, 1, 64),
        "no_obj_ptr": torch.zeros(1, 256),
        "memory_attention.layers.0.norm1.weight": torch.zeros(256),
        "obj_ptr_proj.layers.0.bias": torch.zeros(256),
    }


def digest(official: Mapping[str, Any]) -> str:
    """Names and shapes of the image half, as in ``OFFICIAL``."""
    of_videos = ("maskmem_tpos_enc", "memory_", "no_obj_ptr", "obj_ptr_proj")
    lines = sorted(
        f"{name} {list(tensor.shape)}" for name, tensor in official.items() if not name.startswith(of_videos)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def loaded() -> Any:
    """``sam2()`` read by the export from the official layout."""
    from labeling_ground.networks.checkpoint import from_weights
    from labeling_ground.networks.hiera import Size

    sizes: dict[tuple[int, tuple[int, ...]], Size] = {SMALL: Size("hiera-small", 1, (8, 4, 14, 7), _SMALL_WHOLE)}
    return from_weights({"model": as_official(sam2().state_dict())}, source_sha256="5a" * 32, sam2_sizes=sizes)


def exported_sam2() -> tuple[Path, Any]:
    """Folder and report of ``sam2()``, exported."""
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        needs(name)
    return _exported_sam2()


@made_once
def _exported_sam2(folder: Path) -> Any:
    from labeling_ground.models.export.run import export_loaded

    return export_loaded(loaded(), folder, model="sam2-small")


class Predictor:
    """What the reference's image predictor does, with ``transformers``' model: its numbers, its order, its padding.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.
        model: whose prompt encoder and decoder are asked; ``sam2()`` if none is given.
        encode: normalised ``[1, 3, 1024, 1024]`` → the three tensors of an embedding, the coarsest last; by default the
            model's own encoder.
    """

    def __init__(
        self, pixels: NDArray[np.uint8], model: Any = None, encode: Callable[[Any], Sequence[Any]] | None = None
    ) -> None:
        torch = needs("torch")
        self.height, self.width = pixels.shape[:2]
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        square = torch.nn.functional.interpolate(
            image, (1024, 1024), mode="bilinear", align_corners=False, antialias=True
        )
        mean, std = (torch.tensor(x)[:, None, None] for x in _MEAN_STD)
        self.model = model or sam2()
        with torch.inference_mode():
            self.features = (encode or self.model.get_image_embeddings)((square - mean) / std)

    def predict(self, prompt: Prompt) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Full-size logits, scores and low-res logits, the best first."""
        torch = needs("torch")
        box = prompt.box
        rows = [] if box is None else [(box.x0, box.y0, 2), (box.x1, box.y1, 3)]
        rows += [(p.x, p.y, p.label) for p in prompt.points]
        scale = torch.tensor([1024 / self.width, 1024 / self.height])
        mask = None if prompt.mask_input is None else torch.from_numpy(prompt.mask_input[None, None])
        with torch.inference_mode():
            made = self.model(
                image_embeddings=list(self.features),
                input_points=torch.tensor([[[row[:2] for row in rows]]]).float() * scale,
                input_labels=torch.tensor([[[row[2] for row in rows]]]),
                input_masks=mask,
                multimask_output=prompt.multimask,
            )
            full = torch.nn.functional.interpolate(
                made.pred_masks[0], (self.height, self.width), mode="bilinear", align_corners=False
            )
        scores = made.iou_scores[0, 0].numpy()
        best_first = np.argsort(-scores, kind="stable")
        low = made.pred_masks[0, 0].clamp(-32, 32).numpy()
        return full[0].numpy()[best_first], scores[best_first], low[best_first]
