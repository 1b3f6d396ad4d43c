"""SAM 3 to compare ours with: ``transformers``' models with seeded random weights, saved as their authors' are."""

import functools
import json
from pathlib import Path
from typing import Any

from tests.made_once import made_once
from tests.needs import needs

SIDE, PATCH = 112, 14
_GRID = SIDE // PATCH
_BYTES = 256
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_MERGES = (("s", "c"), ("sc", "r"), ("e", "w</w>"))


def _vocabulary() -> dict[str, int]:
    """CLIP's alphabet of bytes, a few merges, and the two special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in _MERGES), *SPECIAL]
    return {word: index for index, word in enumerate(words)}


def _config(
    *, side: int, patch: int, width: int, layers: int, heads: int, whole: list[int], window: int, small: int
) -> Any:
    """A ``Sam3VideoConfig``, which is what the authors' file holds, of this size."""
    transformers = needs("transformers")
    grid = side // patch
    vocabulary = _vocabulary()
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": small,
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "image_size": side,
            "patch_size": patch,
            "window_size": window,
            "global_attn_indexes": whole,
            "pretrain_image_size": side // 2,
        },
    }
    part = {"hidden_size": small, "num_attention_heads": 2, "intermediate_size": 48, "num_layers": 2}
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(vocabulary),
            "hidden_size": 48,
            "intermediate_size": 64,
            "projection_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "bos_token_id": vocabulary[SPECIAL[0]],
            "eos_token_id": vocabulary[SPECIAL[1]],
            "pad_token_id": vocabulary[SPECIAL[1]],
        },
        "geometry_encoder_config": part,
        "detr_encoder_config": part,
        "detr_decoder_config": {**part, "num_queries": 12},
        "mask_decoder_config": {"hidden_size": small, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": small, "image_size": side, "patch_size": patch},
        "mask_decoder_config": {
            "hidden_size": small,
            "mlp_dim": 48,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": small,
        },
        "image_size": side,
        "memory_attention_hidden_size": small,
        "memory_attention_feed_forward_hidden_size": 48,
    }
    return transformers.Sam3VideoConfig(detector_config=detector, tracker_config=tracker)


def save(folder: Path, config: Any) -> None:
    """The four files of a model of this configuration with seeded random weights, none of them zeros or ones."""
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
                    weight.mul_(4)  # as they start, an answer hardly depends on what was asked
            tracker = model.tracker_model
            positions = tracker.shared_image_embedding.positional_embedding
            tracker.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
    # Not save_pretrained: it writes «tracker_model.» twice (transformers 5.23), which the authors' file has once.
    config.save_pretrained(folder)
    needs("safetensors.torch").save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in _MERGES)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")


def tiny() -> Path:
    """A folder with the files of a SAM 3 of all kinds of parts, each small, on squares of 112 pixels."""
    for name in ("torch", "transformers", "safetensors"):
        needs(name)
    return _tiny()[0]


@made_once
def _tiny(folder: Path) -> None:
    save(folder, _config(side=SIDE, patch=PATCH, width=64, layers=2, heads=2, whole=[1], window=4, small=32))


@functools.cache
def reference(name: str) -> Any:
    """A model of ``transformers`` of this name, or ``Tokenizer``, read from the tiny files by its own loading."""
    transformers = needs("transformers")
    if name == "Tokenizer":
        return transformers.CLIPTokenizer.from_pretrained(tiny())
    transformers.utils.logging.set_verbosity_error()  # it remarks that each class is only a part of the file
    return getattr(transformers, name).from_pretrained(tiny()).eval()
