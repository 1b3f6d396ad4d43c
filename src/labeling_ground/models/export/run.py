"""One checkpoint in, a verified set of ONNX files out."""

import importlib
import importlib.metadata
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labeling_ground.errors import BadSettings
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION

if TYPE_CHECKING:
    from labeling_ground.models.export.graphs import Exported, GraphPlan, Progress
    from labeling_ground.networks.checkpoint import Loaded

NEEDS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
ENCODER, DECODER, FAST_DECODER = "encoder", "decoder", "decoder-fast"


@dataclass(frozen=True, slots=True)
class Report:
    """What an export made.

    Attributes:
        family: whose conventions the model follows.
        architecture: ``vit_b``, ``vit_t``, ``hiera_t``, …
        encoder: turns images into embeddings.
        decoder: turns any prompt into masks.
        fast_decoder: the same, faster for prompts of few points.
        seconds: how long it took.
    """

    family: Family
    architecture: str
    encoder: "Exported"
    decoder: "Exported"
    fast_decoder: "Exported"
    seconds: float

    @property
    def max_abs_error(self) -> float:
        """The largest difference from torch in any of the files."""
        return max(part.max_abs_error for part in (self.encoder, self.decoder, self.fast_decoder))


def export(checkpoint: Path, folder: Path, *, model: str = "", progress: "Progress | None" = None) -> Report:
    """Turn an official checkpoint into ``encoder.onnx``, ``decoder.onnx`` and ``decoder-fast.onnx``.

    Args:
        checkpoint: an official ``.pth`` or ``.pt`` file of SAM, SAM-HQ, MobileSAM, SAM 2, SAM 2.1, EfficientTAM or
            EdgeTAM.
        folder: where the files go; made if it is not there. What they replace is replaced one by one, when verified.
        model: the catalogue's name of the model, for the files' metadata.
        progress: told what is being done.

    Raises:
        BadSettings: the extra ``export`` is not installed.
        BadInput: the checkpoint cannot be used.
        BackendFailed: a file did not compute what torch computes; it was not kept.
    """
    check_installed()
    from labeling_ground.networks.checkpoint import load

    say = progress or (lambda _: None)
    say(f"Reading {checkpoint.name}.")
    return export_loaded(load(checkpoint), folder, model=model, progress=say)


def export_loaded(loaded: "Loaded", folder: Path, *, model: str = "", progress: "Progress | None" = None) -> Report:
    """The same for a model that is in memory."""
    from labeling_ground.models.export.graphs import plan, write

    say = progress or (lambda _: None)
    started = time.perf_counter()
    metadata = describe(loaded, model)
    made: dict[str, Exported] = {}
    graphs: list[GraphPlan] = plan(loaded)
    for graph in graphs:
        say(f"Exporting {graph.name}.onnx and comparing it with torch.")
        made[graph.name] = write(graph, folder, metadata)
    parts = (made[ENCODER], made[DECODER], made[FAST_DECODER])
    return Report(loaded.family, loaded.architecture, *parts, time.perf_counter() - started)


def describe(loaded: "Loaded", model: str) -> Mapping[str, str]:
    """The metadata that goes into every file of a set: what engines check before they put two files together."""
    from labeling_ground.models.export.graphs import EXPORTER_VERSION

    return {
        "producer": "labeling-ground",
        "model": model,
        "family": loaded.family.value,
        "architecture": loaded.architecture,
        "input_side": "1024",
        "source_sha256": loaded.source_sha256,
        "preprocessing_version": PREPROCESSING_VERSION,
        "exporter_version": EXPORTER_VERSION,
        "torch": importlib.metadata.version("torch"),
    }


def check_installed() -> None:
    """See that everything is there, without importing any of it twice.

    Raises:
        BadSettings: something is not; the sentence names it and the remedy.
    """
    missing = []
    for name in NEEDS:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 -- whatever a library does when it is imported: it cannot be used
            is_there = not isinstance(error, ModuleNotFoundError)
            missing.append(f"{name} ({type(error).__name__}: {error})" if is_there else name)
    if missing:
        raise BadSettings(f"Exporting needs {', '.join(missing)}: in a checkout, make engines installs what it takes.")
