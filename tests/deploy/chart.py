"""The chart of ``deploy/helm``, rendered by the real Helm."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.needs import needs_chart_tool

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "deploy" / "helm" / "labeling-ground"
NAMESPACE = "label"
SETS = ("default", "one-gpu", "six-gpus", "no-redis", "two-models")
"""The sets of values that come with the chart."""


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([needs_chart_tool("helm"), *words], capture_output=True, text=True, timeout=120)


def chosen(values: str) -> tuple[str, ...]:
    """The option for one of ``SETS``."""
    return () if values == "default" else ("-f", str(CHART / "values" / f"{values}.yaml"))


def template(values: str, *words: str) -> subprocess.CompletedProcess[str]:
    return helm("template", "lg", str(CHART), "--namespace", NAMESPACE, *chosen(values), *words)


@functools.cache
def rendered(values: str, *words: str) -> tuple[dict[str, Any], ...]:
    """All documents."""
    made = template(values, *words)
    assert made.returncode == 0, made.stderr
    return tuple(document for document in yaml.safe_load_all(made.stdout) if document is not None)


def of_kind(documents: tuple[dict[str, Any], ...], kind: str) -> dict[str, dict[str, Any]]:
    """Those of a kind, by name without the release's."""
    prefix = "lg-labeling-ground-"
    found = [document for document in documents if document["kind"] == kind]
    return {document["metadata"]["name"].removeprefix(prefix): document for document in found}


def containers(documents: tuple[dict[str, Any], ...]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container with its pod's specification, those that run before the others too."""
    pods = [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Deployment", "Pod")
    ]
    return [(pod, container) for pod in pods for container in (*pod.get("initContainers", ()), *pod["containers"])]


def mebibytes(text: str) -> int:
    assert text.endswith("Mi")
    return int(text.removesuffix("Mi"))
