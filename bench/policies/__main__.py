"""``python -m bench.policies``: run, print the tables, and optionally write them down."""

import argparse
import json
from pathlib import Path

from bench.policies.run import FULL, TOY, run, table


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--json", action="store_true", help="figures instead of tables")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    result = run(TOY if given.toy else FULL)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        given.out.write_text(
            "# Eviction policies\n\n"
            f"Made by `python -m bench.policies --out {given.out.as_posix()}`.\n\n{table(result)}\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
