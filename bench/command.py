"""What the benchmarks have in common as commands: run, print, optionally write down."""

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

P = TypeVar("P")
R = TypeVar("R")


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
    given = parser_of(module, toy="a few seconds, to see that it works").parse_args()
    report(given, module, title, run(toy if given.toy else full), table)


def parser_of(module: str, *, toy: str = "", models: bool = False) -> argparse.ArgumentParser:
    """What all benchmarks take: ``--json`` and ``--out``, and where it is wanted ``--toy`` and ``--models``.

    Args:
        module: what follows ``python -m``.
        toy: what ``--toy`` does.
        models: whether it exports models, which ``models_folder`` finds again in the next run.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="Run, print, and optionally write down.")
    if toy:
        parser.add_argument("--toy", action="store_true", help=toy)
    parser.add_argument("--json", action="store_true", help="figures instead of tables")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    if models:
        parser.add_argument("--models", type=Path, help="folder of the exported models, kept for the next run")
    return parser


def models_folder(given: argparse.Namespace) -> Path:
    """Where exported models are: the folder of ``--models``, or a new one."""
    return given.models or Path(tempfile.mkdtemp(prefix="labeling-ground-bench-"))


def report(
    given: argparse.Namespace, module: str, title: str, result: R, table: Callable[[R], str], about: str = ""
) -> None:
    """Print the figures, and write their tables to the file of ``--out``.

    Args:
        given: what ``parser_of`` parsed.
        module: what follows ``python -m``.
        title: of the file.
        result: the figures.
        table: gives them in Markdown.
        about: what the file says before the tables, instead of the command that made it.
    """
    print(json.dumps(result, indent=2) if given.json else table(result))
    if given.out:
        about = about or f"Made by `python -m {module} --out {given.out.as_posix()}`."
        given.out.write_text(f"# {title}\n\n{about}\n\n{table(result)}\n", encoding="utf-8")
