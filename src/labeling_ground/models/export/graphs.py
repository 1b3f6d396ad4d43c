"""From modules to ONNX files, each compared with torch before it gets its name."""

import contextlib
import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling_ground.errors import BackendFailed
from labeling_ground.models.disk import digest_of
from labeling_ground.networks.checkpoint import Loaded
from labeling_ground.networks.decoders import FastDecoder, PlainDecoder

OPSET = 20
"""The first with GELU as an operator of its own."""
EXPORTER_VERSION = "4"
"""Raise it with every change that alters exported graphs."""
TOLERANCE = 1e-3
"""Largest absolute difference from torch, in fp32, with which a file is kept."""
LARGEST = 1_900_000_000
"""Bytes of weights in one file. An ONNX file ends at 2 GiB; the weights of a larger model get a file of their own."""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """One file to be made.

    Attributes:
        name: the file's name without ending.
        module: what is exported.
        inputs: names and examples, in the order of the module's arguments.
        outputs: names, in the order of the module's results.
        dynamic: input → axis → name of a size that may vary.
        trials: more inputs to compare with torch, of other sizes.
        shared: input → another one, both with as many rows; but a file may also be given one row of the former for all
            rows of the latter.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]]
    trials: Sequence[Mapping[str, Tensor]] = ()
    shared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was made and verified.

    Attributes:
        path: where it is.
        max_abs_error: largest difference from torch over all outputs and trials.
        data: the weights, where they are too large for the file itself. It lies beside it and is named ``sha256-`` and
            its digest, by which the graph knows it: so the graph's own digest stands for both.
    """

    path: Path
    max_abs_error: float
    data: Path | None = None


def write(graph: GraphPlan, folder: Path, metadata: Mapping[str, str], *, tolerance: float = TOLERANCE) -> Exported:
    """Export one graph, compare it with torch under ONNX Runtime, and only then give it its name.

    Raises:
        BackendFailed: the file does not compute what torch computes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{graph.name}-", suffix=".onnx")
    os.close(handle)
    draft, data, kept = Path(temporary), None, False
    weights = draft.with_name(f"{draft.name}.data")  # where the exporter puts them
    apart = sum(parameter.nbytes for parameter in graph.module.parameters()) > LARGEST
    try:
        _export(graph, draft, apart=apart)
        if graph.shared:
            _count_rows(draft, graph.shared)
        data = _name_by_digest(draft, weights) if apart else None
        error = compare(graph, draft)
        if not error <= tolerance:
            raise BackendFailed(
                f"{graph.name}.onnx is off by {error:.1e} from torch, and at most {tolerance:.0e} is allowed. "
                "It was not kept."
            )
        _annotate(draft, {**metadata, "graph": graph.name, "max_abs_error": f"{error:.2e}"})
        target = folder / f"{graph.name}.onnx"
        draft.chmod(0o644)
        draft.replace(target)
        kept = True
    finally:
        for left in (draft, weights, *([data] if data and not kept else [])):
            left.unlink(missing_ok=True)
    return Exported(target, error, data)


def compare(graph: GraphPlan, path: Path) -> float:
    """The largest absolute difference between a file under ONNX Runtime and its module under torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )
    worst = 0.0
    for trial in (graph.inputs, *graph.trials):
        with torch.inference_mode():
            expected = graph.module(*trial.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        actual = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in trial.items()})
        for want, got in zip(expected, actual, strict=True):
            worst = max(worst, _difference(want.numpy(), np.asarray(got)))
    return worst


def read_metadata(path: Path) -> dict[str, str]:
    """What ``write`` noted in a file, and nothing of others' files but their own."""
    model = onnx.load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def _difference(want: NDArray[Any], got: NDArray[Any]) -> float:
    if want.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(want - got).max(initial=0.0))


def _export(graph: GraphPlan, path: Path, *, apart: bool) -> None:
    sizes: dict[str, Any] = {}
    for axes in graph.dynamic.values():
        for name in axes.values():
            sizes.setdefault(name, torch.export.Dim(name, min=1, max=4096))
    dynamic = [
        {axis: sizes[size] for axis, size in graph.dynamic[name].items()} if name in graph.dynamic else None
        for name in graph.inputs
    ]
    by_argument = inspect.signature(graph.module.forward).bind(*dynamic).arguments
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=by_argument,
            external_data=apart,
            optimize=True,
            verbose=False,
        )


def _count_rows(path: Path, shared: Mapping[str, str]) -> None:
    """See that rows are counted where there are as many as prompts.

    To torch, inputs of one named size are as long as each other, and a file reads that size off any of them: also off
    one that may have a single row for all.
    """
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Shape" and {a.name: a.i for a in node.attribute} == {"start": 0, "end": 1}:
            node.input[0] = shared.get(node.input[0], node.input[0])
    onnx.save(model, str(path))


def _name_by_digest(draft: Path, weights: Path) -> Path:
    """Rename a file of weights, and say so in its graph."""
    weights.chmod(0o644)
    named = weights.replace(weights.with_name(f"sha256-{digest_of(weights)}"))
    model = onnx.load(str(draft), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = named.name
    onnx.save(model, str(draft))
    return named


def _annotate(path: Path, metadata: Mapping[str, str]) -> None:
    model = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, str(path))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shapes(tensors: Mapping[str, Tensor]) -> str:
    """Names and shapes as JSON, for the metadata."""
    return json.dumps({name: list(tensor.shape) for name, tensor in tensors.items()})


Progress = Callable[[str], None]
"""Told what is being done, a sentence at a time."""


_PROMPTS = {0: "prompts"}
_TOKENS = {0: "prompts", 1: "tokens"}
DYNAMIC = {"point_coords": _TOKENS, "point_labels": _TOKENS, "mask_input": _PROMPTS, "has_mask_input": _PROMPTS}
OUTPUTS = ("low_res_masks", "iou_predictions")

_SHAPES = ((1, 2, False), (1, 2, True), (5, 4, False), (3, 1, True), (1, 0, True), (1, 30, False))
"""Prompts, tokens and mask input of the trials: a click, a refinement, batches, a mask alone, a long prompt."""


def plan(loaded: Loaded) -> list[GraphPlan]:
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
        GraphPlan("encoder", loaded.encoder, {"image": image}, names, {}),
        GraphPlan("decoder", PlainDecoder(loaded.sam).eval(), example, OUTPUTS, dynamic, trials, shared),
        GraphPlan("decoder-fast", FastDecoder(loaded.sam).eval(), example, OUTPUTS, dynamic, trials, shared),
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
