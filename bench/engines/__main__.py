"""``python -m bench.engines``: run, print the table, and optionally write it down."""

import argparse
import json
import tempfile
from pathlib import Path

from bench.engines.run import run, table


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="only what needs no engine: a second")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--models", type=Path, help="folder of the exported models, kept for the next run")
    parser.add_argument("--model", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    given = parser.parse_args()
    folder = given.models or Path(tempfile.mkdtemp(prefix="labeling-ground-bench-"))
    result = run(folder, toy=given.toy, names=given.model, compiled=not given.no_compile)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        given.out.write_text(f"# Engines\n\nMade by `python -m bench.engines`.\n\n{table(result)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
