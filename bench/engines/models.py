"""The models of the benchmark: seeded random weights, exported once into a folder that later runs find again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.sam.references import export_official_decoder, mobile, sam
from tests.sam.references_sam2 import OFFICIAL, as_official, sam2

from labeling_ground.sam.family import Family


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the benchmark.

    Attributes:
        family: whose conventions.
        reference: makes the reference implementation, in torch, with seeded random weights.
        weights: its weights by their official names.
        encode: the reference's encode, of a normalised square.
        decode: the reference's decode of one click, up to its low-res logits.
        encode_gflop: arithmetic of one image.
        decode_gflop: arithmetic of one click, as the reference computes it.
        rounds: how often an image is encoded.
        has_own_decoder: not where another model of the list has the same.
    """

    family: Family
    reference: Callable[[], Any]
    weights: Callable[[Any], Mapping[str, Any]]
    encode: Callable[[Any, Any], object]
    decode: Callable[[Any, Mapping[str, Any], tuple[Any, Any]], object]
    encode_gflop: float
    decode_gflop: float
    rounds: int
    has_own_decoder: bool = True


def _decode_sam(model: Any, embedding: Mapping[str, Any], points: tuple[Any, Any]) -> object:
    sparse, dense = model.prompt_encoder(points, None, None)
    return model.mask_decoder(
        image_embeddings=embedding["image_embeddings"],
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )


def _decode_sam2(model: Any, embedding: Mapping[str, Any], points: tuple[Any, Any]) -> object:
    names = ("high_res_features_0", "high_res_features_1", "image_embeddings")
    return model(
        input_points=points[0][None],
        input_labels=points[1].int()[None],
        image_embeddings=[embedding[name] for name in names],
        multimask_output=True,
    )


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "mobile-sam": Model(
            Family.SAM, mobile, lambda m: m.state_dict(), lambda m, x: m.image_encoder(x), _decode_sam, 77.5, 3.62, 5
        ),
        "sam2.1-tiny": Model(
            Family.SAM2,
            cache(lambda: sam2(OFFICIAL["hiera_t"][1], (5, 7, 9))),
            lambda m: {"model": as_official(m.state_dict())},
            lambda m, x: m.get_image_embeddings(x),
            _decode_sam2,
            292.0,
            3.67,
            4,
        ),
        "sam-vit-b": Model(
            Family.SAM,
            lambda: sam(12),
            lambda m: m.state_dict(),
            lambda m, x: m.image_encoder(x),
            _decode_sam,
            972.0,
            3.62,
            2,
            has_own_decoder=False,
        ),
    }
)
"""What is timed. To add a model, add how its reference is made and called."""


def files(name: str, folder: Path) -> dict[str, Any]:
    """Our files of one model, made if they are not there."""
    import torch

    from labeling_ground.models.export.run import export

    home = folder / name
    if not (home / "decoder-fast.onnx").exists():
        home.mkdir(parents=True, exist_ok=True)
        checkpoint = home / "weights.pth"
        torch.save(MODELS[name].weights(MODELS[name].reference()), checkpoint)
        export(checkpoint, home, model=name)
    return {
        "encoder_path": home / "encoder.onnx",
        "decoder_path": home / "decoder.onnx",
        "fast_decoder_path": home / "decoder-fast.onnx",
        "model": name,
    }


def official_decoder(name: str, folder: Path) -> Path | None:
    """The decoder as the reference's own script exports it, all four masks at the image's size, where it has one."""
    if MODELS[name].family is not Family.SAM:
        return None
    path = folder / name / "official-decoder.onnx"
    if not path.exists():
        export_official_decoder(MODELS[name].reference(), path)
    return path


DISC = 38.0
"""Radius of the largest of the four discs in low-res pixels: 9.2 % of an image of 4:3."""


def discs(family: str, folder: Path) -> dict[str, Any]:
    """The same files with decoders whose masks are discs around the click, for what comes after the engine.

    Random weights make noise of a mask, and noise is dearer to upsample, to encode and to send than any object is. A
    few nodes behind the graph add its logits to those of a disc; everything that the graph computes it still computes.
    """
    made = files(family, folder)
    for part in ("decoder_path", "fast_decoder_path"):
        plain = made[part]
        target = plain.with_name(f"{plain.stem}-discs.onnx")
        if not target.exists():
            add_discs(plain, target)
        made[part] = target
    return made


def add_discs(source: Path, target: Path) -> None:
    """``logits + radius² - distance²`` to the first point, in units of a low-res pixel, a radius for each candidate.

    Where a prompt has no point, the middle of the image is taken for it.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(source))
    graph = model.graph
    name = "low_res_masks"
    for node in graph.node:
        node.output[:] = [f"{name}_noise" if output == name else output for output in node.output]
    centres = (np.arange(256, dtype=np.float32) + 0.5) * 4
    constants = {
        "disc_columns": centres.reshape(1, 1, 1, 256),
        "disc_rows": centres.reshape(1, 1, 256, 1),
        "disc_radii": (4 * DISC * np.array([1.0, 0.8, 0.9, 1.0], np.float32)).reshape(1, 4, 1, 1) ** 2,
        "disc_scale": np.float32(1 / (4 * DISC)),
        "disc_x": np.array([0]),
        "disc_y": np.array([1]),
        "disc_first": np.array([0]),
        "disc_second": np.array([1]),
        "disc_axes": np.array([1]),
        "disc_pads": np.array([0, 0, 0, 0, 1, 0]),
        "disc_middle": np.float32(512.0),
        "disc_shape": np.array([-1, 1, 1, 1]),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())

    def link(kind: str, inputs: list[str], output: str) -> None:
        graph.node.append(helper.make_node(kind, inputs, [output], name=f"disc/{output}"))

    link("Pad", ["point_coords", "disc_pads", "disc_middle"], "disc_points")
    link("Slice", ["disc_points", "disc_first", "disc_second", "disc_axes"], "disc_point")
    for axis, along, index in (("x", "disc_columns", "disc_x"), ("y", "disc_rows", "disc_y")):
        graph.node.append(helper.make_node("Gather", ["disc_point", index], [f"disc_{axis}_one"], axis=2))
        link("Reshape", [f"disc_{axis}_one", "disc_shape"], f"disc_{axis}_place")
        link("Sub", [along, f"disc_{axis}_place"], f"disc_{axis}_away")
        link("Mul", [f"disc_{axis}_away", f"disc_{axis}_away"], f"disc_{axis}_squared")
    link("Add", ["disc_x_squared", "disc_y_squared"], "disc_away")
    link("Sub", ["disc_radii", "disc_away"], "disc_inside")
    link("Mul", ["disc_inside", "disc_scale"], "disc_logits")
    link("Add", ["disc_logits", f"{name}_noise"], name)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))
