"""``prove.py server|engine [--trim]``: import and use what an image runs; one that lacks something is not built.

The interpreter leaves the bytecode of exactly what was used behind, which makes the start of a container quick. With
``--trim`` those parts of scipy and scikit-image go that were not used: of both we call few functions, all of them here.
"""

import asyncio
import importlib
import io
import pkgutil
import shutil
import sys
from pathlib import Path

OPTIONAL = frozenset({"onnx", "onnxruntime", "onnxscript", "openvino", "pytest", "ray", "torch", "transformers"})
"""What modules of ours may lack, because they are for other images or for development."""


def import_everything() -> None:
    """Import all modules of ours."""
    package = importlib.import_module("labeling_ground")
    for module in pkgutil.walk_packages(package.__path__, "labeling_ground."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in OPTIONAL:
                raise


async def click() -> None:
    """One mask of the engine without weights."""
    import numpy as np

    from labeling_ground.inference.choose import choose_backend
    from labeling_ground.types import Image, Point, Prompt

    backend = choose_backend("classical", encode_threads=1, decode_threads=1)
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[10:30, 10:40] = (200, 60, 40)
    [embedding] = await backend.encode([Image("0" * 64, pixels)])
    [found] = await backend.decode([(embedding, Prompt((Point(20.0, 20.0, 1),)))])
    assert found.masks
    await backend.aclose()


def trim() -> None:
    """Delete the subpackages of the two that nothing has imported."""
    for name in ("scipy", "skimage"):
        for inner in Path(sys.modules[name].__path__[0]).glob("*/__init__.py"):
            if f"{name}.{inner.parent.name}" not in sys.modules:
                shutil.rmtree(inner.parent)


def main(what: str) -> None:
    """Use the server, or the engine server."""
    if what == "engine":
        importlib.import_module("labeling_ground.cli")
        assert not {"scipy", "skimage"} & set(sys.modules)
        return
    import_everything()
    asyncio.run(click())
    from rich.console import Console
    from rich.table import Table
    from scipy.optimize import linprog

    assert linprog([1.0, 2.0], A_ub=[[-1.0, 0.0]], b_ub=[-1.0]).x[0] == 1.0
    Console(file=io.StringIO()).print(Table("a", "b"))


if __name__ == "__main__":
    main(sys.argv[1])
    if "--trim" in sys.argv:
        trim()
