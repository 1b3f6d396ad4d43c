"""``python -m bench.stack``: build and start both stacks, measure, print the table, and optionally write it down."""

import argparse
import json
from pathlib import Path

from bench.stack.run import FULL, TOY, run, table


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="few of everything, to see that it works")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--engines", nargs="+", default=["torchserve", "own"], help="which stacks")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    result = run(TOY if given.toy else FULL, given.engines)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        made = f"Made by `python -m bench.stack --out {given.out.as_posix()}`."
        given.out.write_text(f"# The stack in containers\n\n{made}\n\n{table(result)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
