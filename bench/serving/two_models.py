"""Memory of a server of two models: ``python -m bench.serving.two_models``.

Each model encodes a photo and answers a click; then the server's resident memory is read. The servers are processes of
their own and run one after the other: one without weights, one of each model, and one of both.
"""

import hashlib
import json
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sam.references import exported
from tests.sam.references_sam2 import exported_sam2

from bench.command import benchmark
from bench.engines.models import files
from bench.serving.photos import jpeg
from bench.serving.run import click, where
from bench.serving.server import Server, running
from labeling_ground.models.catalogue import Role
from labeling_ground.models.store import ModelStore

WITHOUT = "classical"
MOST = 1.10
"""Of the servers of one model together."""


def _full(folder: Path) -> dict[str, Path]:
    return {f"{name}-random": files(name, folder)["encoder_path"].parent for name in ("mobile-sam", "sam2.1-tiny")}


def _small(_: Path) -> dict[str, Path]:
    return {"small-sam": exported()[0], "small-sam2": exported_sam2()[0]}


@dataclass(frozen=True)
class Plan:
    """Which two models: makes them in a folder, of seeded random weights, and returns where the files of each are."""

    make: Callable[[Path], Mapping[str, Path]]
    engine: str


FULL, TOY = Plan(_full, "auto"), Plan(_small, "onnx")


def run(plan: Plan) -> dict[str, Any]:
    """Resident megabytes of each server after its clicks."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        store = ModelStore(Path(home))
        made = plan.make(Path(folder))
        for name, of_this in made.items():
            for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER):
                file = of_this / f"{role.value}.onnx"
                store.add(file, name=name, role=role, family="sam2" if "sam2" in name else "sam")
        names = list(made)
        rows = [_row(served, home, plan.engine) for served in ([WITHOUT], *([name] for name in names), names)]
    alone = sum(row["resident_mb"] for row in rows[1:-1])
    return {
        "where": where(),
        "rows": rows,
        "ratio": rows[-1]["resident_mb"] / alone,
        "expected_mb": alone - rows[0]["resident_mb"],
    }


def _row(served: Sequence[str], home: str, engine: str) -> dict[str, Any]:
    # Work memory is given back after each image: how long it would stay depends on how fast the machine is.
    with running(models=",".join(served), models_dir=home, engine=engine, engine_idle_s="0") as server:
        for name in served:
            _use(server, name)
        listed = {model["id"]: model for model in server.get("/v1/models")["models"]}
        return {
            "models": served,
            "engines": [listed[name].get("engine", "") for name in served],
            "resident_mb": server.memory_mb("VmRSS"),
            "peak_mb": server.memory_mb("VmHWM"),
            "told_mb": sum(listed[name].get("memory_bytes", 0) for name in served) / 1e6,
        }


def _use(server: Server, model: str) -> None:
    photo = jpeg(0)
    masks = f"/v1/images/{hashlib.sha256(photo).hexdigest()}/masks"
    prompt = json.dumps({**json.loads(click(412, 301)), "model": model}).encode()
    for path, body in ((f"/v1/images?model={model}", photo), (masks, prompt)):
        asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body)
        with urllib.request.urlopen(asked, timeout=600) as answer:
            assert json.load(answer)["model"] == model


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    found, both = result["where"], result["rows"][-1]
    rows = [
        f"| {' and '.join(row['models'])} | {row['resident_mb']:.0f} | {row['peak_mb']:.0f} | {row['told_mb']:.0f} |"
        for row in result["rows"]
    ]
    return "\n".join(
        [
            f"Machine: {found['machine']}; commit {found['commit']}; {found['date']}.",
            "",
            "Each model, of random weights, has encoded a photo and answered a click; one server ran after the other.",
            "",
            "| served | resident MB | peak MB | `memory_bytes` in `/v1/models`, MB |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
            f"Both in one server, against the servers of one model together: {result['ratio']:.2f} × (target "
            f"≤ {MOST:.2f} ×). Those are {result['expected_mb']:.0f} MB where what a server takes without weights is "
            f"counted once: {both['resident_mb'] / result['expected_mb']:.2f} ×.",
            *(f"\n{name}: {engine}" for name, engine in zip(both["models"], both["engines"], strict=True)),
        ]
    )


if __name__ == "__main__":
    benchmark("bench.serving.two_models", "Memory of two models", run, table, FULL, TOY)
