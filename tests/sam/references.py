"""The models that ours are compared with: other people's code, seeded random weights.

The packages of the reference implementations import functions of torchvision and timm, which cannot be installed beside
a CPU build of torch. They get stand-ins for those few while they are imported.
"""

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image as Pillow
from tests.made_once import made_once
from tests.needs import needs

TOLERANCE = 1e-3
"""Largest absolute difference in fp32 of embeddings and low-res logits."""


def _batched_nms(boxes: Any, scores: Any, idxs: Any, iou_threshold: float) -> Any:
    """What torchvision does where all boxes are of one category, by the definition: one pair at a time."""
    torch = needs("torch")
    assert not idxs.any()
    kept: list[int] = []
    for one in torch.argsort(scores, descending=True, stable=True).tolist():
        x0, y0, x1, y1 = boxes[one].tolist()
        for other in kept:
            u0, v0, u1, v1 = boxes[other].tolist()
            common = max(0.0, min(x1, u1) - max(x0, u0)) * max(0.0, min(y1, v1) - max(y0, v0))
            union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common
            if union and common / union > iou_threshold:
                break
        else:
            kept.append(one)
    return torch.tensor(kept, dtype=torch.int64)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    torch = needs("torch")

    modules: dict[str, dict[str, Any]] = {
        "torchvision": {},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"batched_nms": _batched_nms, "box_area": None},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {
            # what torchvision does with a Pillow image: it asks Pillow
            "resize": lambda image, size: image.resize((size[1], size[0]), Pillow.Resampling.BILINEAR),
            "to_pil_image": Pillow.fromarray,
        },
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {
            "DropPath": torch.nn.Identity,
            "to_2tuple": lambda x: (x, x),
            "trunc_normal_": torch.nn.init.trunc_normal_,
        },
        "timm.models.registry": {"register_model": lambda function: function},
    }
    before = {name: sys.modules.get(name) for name in modules}
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module_before in before.items():
            if module_before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module_before


@functools.cache
def segment_anything() -> Any:
    """The package ``segment_anything``."""
    needs("torch")
    with _stand_ins():
        return needs("segment_anything")


@functools.cache
def mobile_sam() -> Any:
    """``mobile_sam.build_sam``."""
    needs("torch")
    with _stand_ins():
        return needs("mobile_sam.build_sam")


@functools.cache
def sam(depth: int = 2) -> Any:
    """SAM ViT-B with fewer blocks: those that see a window, and the last, which sees all, unless it is the only one.

    Decoder and sizes are the real ones.
    """
    torch = needs("torch")
    build = importlib.import_module(f"{segment_anything().__name__}.build_sam")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build._build_sam(
            encoder_embed_dim=768,
            encoder_depth=depth,
            encoder_num_heads=12,
            encoder_global_attn_indexes=[depth - 1] if depth > 1 else [],
        )
        liven(model)
    return model.eval()


@functools.cache
def mobile() -> Any:
    """MobileSAM, whole."""
    torch = needs("torch")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = mobile_sam().build_sam_vit_t()
        liven(model)
    model.train(True)  # its attention keeps a table that was made of the zeros; this throws it away
    return model.eval()


def liven(model: Any) -> None:
    """Give weights that start as zeros or ones, and so would hide mistakes, random values."""
    torch = needs("torch")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("rel_pos", "pos_embed", "attention_biases")):
                weight.normal_(0, 0.02)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)


def checkpoint() -> Path:
    """``sam()`` as a checkpoint file of the official layout."""
    for name in ("torch", "transformers"):
        needs(name)
    return _checkpoint()[0] / "sam_small.pth"


@made_once
def _checkpoint(folder: Path) -> None:
    needs("torch").save(sam().state_dict(), folder / "sam_small.pth")


def quick_checkpoint() -> Path:
    """``sam(1)`` as a checkpoint file: it encodes several times as fast."""
    for name in ("torch", "transformers"):
        needs(name)
    return _quick_checkpoint()[0] / "sam_quick.pth"


@made_once
def _quick_checkpoint(folder: Path) -> None:
    needs("torch").save(sam(1).state_dict(), folder / "sam_quick.pth")


def exported() -> tuple[Path, Any]:
    """Folder and report of ``sam()``, exported from a checkpoint file of the official layout."""
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        needs(name)
    return _exported_sam()


@made_once
def _exported_sam(folder: Path) -> Any:
    from labeling_ground.models.export.run import export

    return export(checkpoint(), folder, model="sam-small")


def export_official_decoder(model: Any, path: Path) -> None:
    """The decoder's graph as the reference's own script exports it: fixed to one prompt, masks at the image's size."""
    torch = needs("torch")
    needs("onnxscript")
    package = importlib.import_module(f"{segment_anything().__name__}.utils.onnx")
    graph = package.SamOnnxModel(model, return_single_mask=False)
    given = {
        "image_embeddings": torch.randn(1, 256, 64, 64),
        "point_coords": torch.randint(0, 1024, (1, 5, 2)).float(),
        "point_labels": torch.randint(0, 4, (1, 5)).float(),
        "mask_input": torch.randn(1, 1, 256, 256),
        "has_mask_input": torch.tensor([1.0]),
        "orig_im_size": torch.tensor([768.0, 1024.0]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            tuple(given.values()),
            str(path),
            opset_version=17,
            input_names=list(given),
            output_names=["masks", "iou_predictions", "low_res_masks"],
            dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
            dynamo=False,  # what the script does, and what ready-made files were made with
        )
