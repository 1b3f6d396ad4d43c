"""SAM-HQ to compare ours with: ``transformers``' model with seeded random weights, as an official checkpoint."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.made_once import made_once
from tests.needs import needs

# Written down independently of the table that reads checkpoints: each is the other's check.
_RULES = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^shared_image_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.hq_token\.", "mask_decoder.hf_token."),
    (r"^mask_decoder\.hq_mask_mlp\.", "mask_decoder.hf_mlp."),
    (r"^mask_decoder\.compress_vit_conv1\.", "mask_decoder.compress_vit_feat.0."),
    (r"^mask_decoder\.compress_vit_norm\.", "mask_decoder.compress_vit_feat.1."),
    (r"^mask_decoder\.compress_vit_conv2\.", "mask_decoder.compress_vit_feat.3."),
    (r"^mask_decoder\.encoder_conv1\.", "mask_decoder.embedding_encoder.0."),
    (r"^mask_decoder\.encoder_norm\.", "mask_decoder.embedding_encoder.1."),
    (r"^mask_decoder\.encoder_conv2\.", "mask_decoder.embedding_encoder.3."),
    (r"^mask_decoder\.mask_conv1\.", "mask_decoder.embedding_maskfeature.0."),
    (r"^mask_decoder\.mask_norm\.", "mask_decoder.embedding_maskfeature.1."),
    (r"^mask_decoder\.mask_conv2\.", "mask_decoder.embedding_maskfeature.3."),
    (r"(mlps\.\d|iou_prediction_head|hf_mlp)\.layers\.0\.", r"\1.layers.1."),
    (r"(mlps\.\d|iou_prediction_head|hf_mlp)\.proj_in\.", r"\1.layers.0."),
    (r"(mlps\.\d|iou_prediction_head|hf_mlp)\.proj_out\.", r"\1.layers.2."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)


def model(width: int, heads: int, blocks: int, whole: tuple[int, ...]) -> Any:
    """A ``SamHQModel`` with an encoder of that size, in the norms' accuracy that the authors' code has."""
    transformers = needs("transformers")
    vision = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
        "mlp_dim": 4 * width,
        "global_attn_indexes": list(whole),
    }
    config = transformers.SamHQConfig(
        vision_config=vision, mask_decoder_config={"vit_dim": width, "layer_norm_eps": 1e-5}
    )
    return transformers.SamHQModel(config).eval()


@functools.cache
def sam_hq() -> Any:
    """SAM-HQ ViT-B with three blocks, of which two see the whole image; seeded; no weight is zero or one."""
    torch = needs("torch")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = model(768, 12, 3, (0, 2))
        with torch.no_grad():
            for name, weight in made.named_parameters():
                if "pos_embed" in name or "rel_pos" in name:
                    weight.normal_(0, 0.02)
                elif name.endswith(("embed.weight", "token.weight", "tokens.weight")):
                    weight.normal_(0, 0.5)
                elif weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * 0.05)
                else:
                    weight.normal_(0, weight[0].numel() ** -0.5)
            # As the authors draw it; ``transformers`` draws it so large that fp32 has no digits left for the angles.
            positions = made.shared_image_embedding.positional_embedding.normal_()
            made.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    made.mask_decoder.transformer.register_forward_hook(_hand_on_the_image, with_kwargs=True)
    return made


def _hand_on_the_image(module: Any, args: Any, given: dict[str, Any], made: tuple[Any, Any]) -> None:
    """What the decoder of ``transformers`` 5 lacks: it drops the image that its transformer gives, and upscales the one
    that went in, with rows and columns exchanged. The authors' ``mask_decoder_hq.py`` upscales what the transformer
    gives, and so do ``transformers``' other SAMs. Here the tensor that went in becomes that."""
    image = given["image_embeddings"]
    image.copy_(made[1].flatten(0, 1).transpose(1, 2).reshape(image.shape).transpose(2, 3))


def as_official(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a ``SamHQModel`` under the names of the authors' checkpoints."""
    official = {}
    for name, tensor in weights.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        official[name] = tensor
    return official


def checkpoint() -> Path:
    """``sam_hq()`` as a checkpoint file of the official layout."""
    for name in ("torch", "transformers"):
        needs(name)
    return _hq_checkpoint()[0] / "sam_hq_small.pth"


def exported_hq() -> tuple[Path, Any]:
    """Folder and report of ``sam_hq()``, exported from its checkpoint."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        needs(name)
    checkpoint()
    return _exported_hq()


@made_once
def _exported_hq(folder: Path) -> Any:
    from labeling_ground.models.export.run import export

    return export(checkpoint(), folder, model="sam-hq-small")


@made_once
def _hq_checkpoint(folder: Path) -> None:
    needs("torch").save(as_official(sam_hq().state_dict()), folder / "sam_hq_small.pth")
