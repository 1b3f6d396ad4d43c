"""Pairs of ONNX files as others publish them, with random weights.

The graphs have the names, shapes and arithmetic of the published ones: SAM 2 as ``export_onnx.py`` of
ryouchinsa/sam-cpp-macos writes it (osam's files), EfficientSAM as the ``onnx_models.py`` of its authors does.
"""

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.made_once import made_once
from tests.needs import needs
from tests.sam.references_sam2 import exported_sam2, loaded

MOST_POINTS = 6
"""Tokens of EfficientSAM's decoder; what is missing is padded in the graph."""


def osam_sam2() -> Path:
    """Folder of ``encoder.onnx`` and ``decoder.onnx``: the model that ``exported_sam2`` has, in osam's dialect."""
    needs("torch")
    needs("onnxscript")
    exported_sam2()
    return _osam_sam2()[0]


@made_once
def _osam_sam2(folder: Path) -> None:
    torch = needs("torch")
    from labeling_ground.networks.decoders import PlainDecoder

    finer = {"high_res_features_0": "high_res_features1", "high_res_features_1": "high_res_features2"}
    renamed(exported_sam2()[0] / "encoder.onnx", folder / "encoder.onnx", {"image": "input", **finer}, described=False)

    class Decoder(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.plain = PlainDecoder(loaded().sam).eval()
            prompts = self.plain.prompts
            prompts.dense = lambda mask, has: has * prompts.mask_embed(mask) + (1 - has) * prompts.no_mask

        def forward(  # noqa: PLR0913, RUF100 -- so many inputs has the published graph
            self, image: Any, fine: Any, middle: Any, coords: Any, labels: Any, mask: Any, has_mask: Any, size: Any
        ) -> Any:
            coords = torch.cat([coords, torch.zeros(coords.shape[0], 1, 2)], 1)
            labels = torch.cat([labels, -torch.ones(labels.shape[0], 1)], 1)
            logits, scores = self.plain(image, fine, middle, coords, labels, mask, has_mask)
            masks = torch.nn.functional.interpolate(logits, (size[0], size[1]), mode="bilinear", align_corners=False)
            return masks, scores, logits.clamp(-32, 32)

    tokens = {0: "num_labels", 1: "num_points"}
    given = {
        "image_embeddings": torch.randn(1, 256, 64, 64),
        "high_res_features1": torch.randn(1, 32, 256, 256),
        "high_res_features2": torch.randn(1, 64, 128, 128),
        "point_coords": torch.randn(1, 2, 2),
        "point_labels": torch.ones(1, 2),
        "mask_input": torch.randn(1, 1, 256, 256),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([1024, 1024]),
    }
    dynamic = {"point_coords": tokens, "point_labels": tokens}
    _export(Decoder(), given, ["masks", "iou_predictions", "low_res_masks"], dynamic, folder / "decoder.onnx")


@functools.cache
def efficient_sam_modules() -> tuple[Any, Any]:
    """Encoder and decoder of an EfficientSAM in miniature: its interface, its geometry, few weights."""
    torch = needs("torch")
    functional = torch.nn.functional

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 256, 16, 16)

        def forward(self, images: Any) -> Any:
            square = functional.interpolate(images, (1024, 1024), mode="bilinear")
            mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
            return self.patches((square - mean) / std)

    class Decoder(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.randn(2, 128))
            self.kinds = torch.nn.Parameter(torch.randn(4, 256))
            self.readings = torch.nn.Linear(256, 3 * 256)
            self.scores = torch.nn.Linear(256, 3)
            self.up = torch.nn.ConvTranspose2d(256, 256, 4, 4, groups=256)

        def forward(self, image: Any, coords: Any, labels: Any, size: Any) -> Any:
            batch, queries, count, _ = coords.shape
            scaled = torch.stack([coords[..., 0] * 1024 / size[1], coords[..., 1] * 1024 / size[0]], -1)
            scaled = functional.pad(scaled, (0, 0, 0, MOST_POINTS - count), value=-1.0)
            labels = functional.pad(labels, (0, MOST_POINTS - count), value=-1.0)
            angles = (2 * (scaled + 0.5) / 1024 - 1) @ self.frequencies
            code = torch.cat([angles.sin(), angles.cos()], -1)
            for i, label in enumerate((-1, 1, 2, 3)):
                code = code + self.kinds[i] * (labels == label).unsqueeze(-1)
            said = code.tanh().mean(2)
            readings = self.readings(said).view(batch * queries, 3, 256)
            low = torch.einsum("qkc,bchw->qkhw", readings, self.up(image)) / 16
            masks = functional.interpolate(low, (size[0], size[1]), mode="bilinear")
            masks = masks.reshape(batch, queries, 3, size[0], size[1])
            return masks, self.scores(said).sigmoid().view(batch, queries, 3), low

    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Encoder().eval(), Decoder().eval()


def efficient_sam() -> Path:
    """Folder of ``encoder.onnx`` and ``decoder.onnx`` of these."""
    needs("torch")
    needs("onnxscript")
    return _efficient_sam()[0]


@made_once
def _efficient_sam(folder: Path) -> None:
    torch = needs("torch")
    encoder, decoder = efficient_sam_modules()
    images = {"batched_images": torch.rand(1, 3, 108, 192)}
    sizes = {"batched_images": {0: "batch", 2: "height", 3: "width"}}
    _export(encoder, images, ["image_embeddings"], sizes, folder / "encoder.onnx")
    given = {
        "image_embeddings": torch.randn(1, 256, 64, 64),
        "batched_point_coords": torch.rand(1, 1, 5, 2) * 100,
        "batched_point_labels": torch.ones(1, 1, 5),
        "orig_im_size": torch.tensor([108, 192]),
    }
    dynamic = {"batched_point_coords": {2: "num_points"}, "batched_point_labels": {2: "num_points"}}
    _export(decoder, given, ["output_masks", "iou_predictions"], dynamic, folder / "decoder.onnx")


def renamed(source: Path, target: Path, names: Mapping[str, str], *, described: bool = True) -> None:
    """A copy of an ONNX file with other names for its inputs and outputs, with or without its metadata."""
    onnx = needs("onnx")
    model = onnx.load(str(source))
    if not described:
        del model.metadata_props[:]
    for entry in (*model.graph.input, *model.graph.output):
        entry.name = names.get(entry.name, entry.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, str(target))


def _export(module: Any, given: dict[str, Any], outputs: list[str], dynamic: dict[str, Any], path: Path) -> None:
    """By the exporter that the published files were made with."""
    torch = needs("torch")
    needs("onnxscript")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(given.values()),
            str(path),
            opset_version=17,
            input_names=list(given),
            output_names=outputs,
            dynamic_axes=dynamic,
            dynamo=False,
        )
