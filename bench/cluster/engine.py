"""``labeling-ground engine``, with an engine that needs no weights: ``python -m bench.cluster.engine KEPT WORDS…``.

The command is the real one, ports, signals and all; only what computes is the toy of the tests, whose masks depend on
image and prompt.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

from tests.inference.toy_engine import ToyEngine, endpoint

from labeling_ground.cli.engine import engine
from labeling_ground.inference.remote.wire import EngineRole

DECODE_S = 0.005


def main() -> None:
    """Serve both halves."""
    kept = Path(sys.argv[1])

    def toys(*_: Any) -> Any:
        toy = ToyEngine(decode_s=DECODE_S)
        return [endpoint(EngineRole.ENCODER, toy, kept, workers=1), endpoint(EngineRole.DECODER, toy, kept)], "a toy"

    with mock.patch.object(sys.modules["labeling_ground.cli.engine"], "build_endpoints", toys):
        engine.main(sys.argv[2:])


if __name__ == "__main__":
    main()
