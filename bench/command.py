"""What the benchmarks have in common as commands: run, print, optionally write down."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

P = TypeVar("P")


def machine() -> str:
    """What ran a benchmark, in words."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def benchmark(
    module: str, title: str, run: Callable[[P], dict[str, Any]], table: Callable[[dict[str, Any]], str], full: P, toy: P
) -> None:
    """Parse, run, print.

    Args:
        module: what follows ``python -m``.
        title: of the file of results.
        run: takes a plan and gives figures.
        table: the figures in Markdown.
        full: the plan whose figures count.
        toy: the plan of ``--toy``.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Run, print, and optionally write down.")
    parser.add_argument("--toy", action="store_true", help="a few seconds, to see that it works")
    parser.add_argument("--json", action="store_true", help="figures instead of tables")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    result = run(toy if given.toy else full)
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        made = f"Made by `python -m {module} --out {given.out.as_posix()}`."
        given.out.write_text(f"# {title}\n\n{made}\n\n{table(result)}\n", encoding="utf-8")
