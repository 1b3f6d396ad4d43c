"""The source's bounds: a file, or a class, can be read in one go."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import labeling_ground

SOURCE = Path(labeling_ground.__file__).parent
CLASS_LINES, CLASS_FUNCTIONS, FILE_LINES = 250, 20, 500


def too_large() -> Iterator[str]:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > FILE_LINES:
            yield str(file.relative_to(SOURCE))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                functions = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
                if (node.end_lineno or 0) - node.lineno + 1 > CLASS_LINES or functions > CLASS_FUNCTIONS:
                    yield node.name


def test_no_class_has_more_than_250_lines_or_20_functions_and_no_file_more_than_500_lines() -> None:
    assert not set(too_large())


_OPERATED = ("api", "cache", "engine_server", "cli/running.py", "cli/workers.py", "peers.py", "supervisor.py")
"""What an operator's server stands on: a number there may be a limit, and limits are settings."""


def numbers_without_a_sentence() -> Iterator[str]:
    for place in _OPERATED:
        for file in [SOURCE / place] if place.endswith(".py") else (SOURCE / place).rglob("*.py"):
            body = ast.parse(file.read_text(encoding="utf-8")).body
            for node, following in zip(body, [*body[1:], None], strict=True):
                is_sentence = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if isinstance(node, ast.Assign | ast.AnnAssign) and _is_number(node.value) and not is_sentence:
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}"


def _is_number(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return all(_is_number(each) for each in node.elts)
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)


def test_a_number_of_the_server_and_its_cache_says_what_it_is_for() -> None:
    """Whether it is a limit, which is to be a setting, is read off its sentence."""
    assert not list(numbers_without_a_sentence())


def test_types_are_checked_in_every_folder_that_holds_code() -> None:
    root = Path(__file__).parents[1]
    checked = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=False).stdout
    if not tracked:
        pytest.skip("this is no checkout")
    assert not [file for file in tracked.split() if not file.startswith(tuple(f"{folder}/" for folder in checked))]
