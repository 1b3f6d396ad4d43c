"""``pins_of.py FILE NAME…``: the pins of these packages, and of what they need, out of a compiled requirements file.

An image needs a part of what ``requirements/`` pins. Under each pin the compiler noted which packages asked for it;
followed backwards, that gives the part, with its hashes. Standard library only: it runs before anything is installed.
"""

import re
import sys
from pathlib import Path


def pins_of(text: str, names: list[str]) -> str:
    """The blocks of ``names`` and of everything that they need, in the file's order.

    Raises:
        SystemExit: a name is not pinned in the file.
    """
    blocks: list[tuple[str, set[str], str]] = []
    for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
        pin, _, via = block.partition("# via")
        asked_by = {word for line in via.splitlines() for word in line.strip("# ").split() if "/" not in word}
        blocks.append((pin.split("==")[0], asked_by, pin.rstrip()))
    missing = set(names) - {name for name, _, _ in blocks}
    if missing:
        sys.exit(f"not pinned: {', '.join(sorted(missing))}")
    wanted, before = set(names), set[str]()
    while wanted != before:
        before = set(wanted)
        wanted |= {name for name, asked_by, _ in blocks if asked_by & wanted}
    return "\n".join(pin for name, _, pin in blocks if name in wanted)


if __name__ == "__main__":
    sys.stdout.write(pins_of(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:]) + "\n")
