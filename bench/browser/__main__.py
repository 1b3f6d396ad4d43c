"""``python -m bench.browser``: run, print the table, and optionally write the figures down."""

import argparse
import json
import tempfile
from pathlib import Path

from bench.browser.run import FULL, TOY, run, table


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="a few clicks, to see that it works")
    parser.add_argument("--json", action="store_true", help="figures instead of a table")
    parser.add_argument("--models", type=Path, help="folder of the exported models, kept for the next run")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    folder = given.models or Path(tempfile.mkdtemp(prefix="labeling-ground-bench-"))
    result = run(TOY if given.toy else FULL, folder)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        given.out.write_text(
            "# Decoding in the browser\n\nMade by `python -m bench.browser --models FOLDER --out "
            f"{given.out.as_posix()}`.\n\n{table(result)}\n",
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
