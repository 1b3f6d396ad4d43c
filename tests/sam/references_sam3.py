"""SAM 3 to compare ours with: ``transformers``' models with seeded random weights, saved as their authors' are."""

import functools
import json
from pathlib import Path
from typing import Any

from tests.made_once import made_once
from tests.needs import needs

SIDE, PATCH = 112, 14
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_MERGES = (("s", "c"), ("sc", "r"), ("e", "w</w>"))


def _vocabulary(size: int) -> dict[str, int]:
    """CLIP's alphabet of bytes, a few merges, words that no phrase makes up to ``size``, and the two special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in _MERGES)]
    fill = [f"<{index}>" for index in range(size - len(words) - len(SPECIAL))]
    return {word: index for index, word in enumerate([*words, *fill, *SPECIAL])}


_WORDS = 2 * 256 + len(_MERGES) + len(SPECIAL)


def tiny_config() -> Any:
    """A ``Sam3VideoConfig``, which is what the authors' file holds: all kinds of parts, each small."""
    grid, small = SIDE // PATCH, 32
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": small,
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "window_size": grid // 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": SIDE // 2,
        },
    }
    part = {"hidden_size": small, "num_attention_heads": 2, "intermediate_size": 48, "num_layers": 2}
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": _WORDS,
            "hidden_size": 48,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "bos_token_id": _WORDS - 2,
            "eos_token_id": _WORDS - 1,
            "pad_token_id": _WORDS - 1,
        },
        "geometry_encoder_config": part,
        "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 12},
        "mask_decoder_config": {"hidden_size": small, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": small, "image_size": SIDE, "patch_size": PATCH},
        "mask_decoder_config": {
            "hidden_size": small,
            "mlp_dim": 48,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": small,
        },
        "image_size": SIDE,
        "memory_attention_hidden_size": small,
        "memory_attention_feed_forward_hidden_size": 48,
    }
    return needs("transformers").Sam3VideoConfig(detector_config=detector, tracker_config=tracker)


def real_config(*, layers: int = 32, text_layers: int = 24, heads_layers: int = 6) -> Any:
    """The real architecture, or one of its width and squares with fewer layers."""
    config = needs("transformers").Sam3VideoConfig()
    for vision in (config.detector_config.vision_config, config.tracker_config.vision_config):
        vision.backbone_config.num_hidden_layers = layers
        vision.backbone_config.global_attn_indexes = [7, 15, 23, 31] if layers == 32 else [layers - 1]
    config.detector_config.text_config.num_hidden_layers = text_layers
    config.detector_config.detr_encoder_config.num_layers = heads_layers
    config.detector_config.detr_decoder_config.num_layers = heads_layers
    return config


def save(folder: Path, config: Any, *, scale: float = 1.0) -> None:
    """The four files of a model of this configuration with seeded random weights, none of them zeros or ones.

    ``scale`` is for small ones: as their weights start, an answer hardly depends on what was asked.
    """
    torch, transformers = needs("torch"), needs("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = transformers.Sam3VideoModel(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("_embedding", "embed.weight")):
                    weight.normal_(0, 0.5)
                elif weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) * 0.05)
                else:
                    weight.mul_(scale)
            tracker = model.tracker_model
            positions = tracker.shared_image_embedding.positional_embedding
            tracker.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    # Not save_pretrained: it writes «tracker_model.» twice (transformers 5.23), which the authors' file has once.
    config.save_pretrained(folder)
    needs("safetensors.torch").save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.json").write_text(
        json.dumps(_vocabulary(config.detector_config.text_config.vocab_size)), encoding="utf-8"
    )
    merges = "\n".join(" ".join(pair) for pair in _MERGES)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")


def tiny() -> Path:
    """A folder with the files of a SAM 3 of all kinds of parts, each small, on squares of 112 pixels."""
    for name in ("torch", "transformers", "safetensors"):
        needs(name)
    return _tiny()[0]


@made_once
def _tiny(folder: Path) -> None:
    save(folder, tiny_config(), scale=4)


@functools.cache
def reference(name: str) -> Any:
    """A model of ``transformers`` of this name, or ``Tokenizer``, read from the tiny files by its own loading."""
    transformers = needs("transformers")
    if name == "Tokenizer":
        return transformers.CLIPTokenizer.from_pretrained(tiny())
    transformers.utils.logging.set_verbosity_error()  # it remarks that each class is only a part of the file
    return getattr(transformers, name).from_pretrained(tiny()).eval()
