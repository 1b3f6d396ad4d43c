"""What labeling tools send, from the recordings of real ones in ``recorded/``, with a picture of our own put in."""

import base64
import json
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """One recorded exchange: ``method``, ``path``, ``headers``, ``body``, ``status``, ``answer``."""
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def in_base64(file: bytes) -> str:
    """An image file as text."""
    return base64.b64encode(file).decode("ascii")


def shape_of(value: Any) -> Any:
    """The fields of a JSON value and the types of what they hold; of a list, those of its first member."""
    if isinstance(value, dict):
        return {name: shape_of(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
