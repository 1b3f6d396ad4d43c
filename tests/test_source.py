"""The source's bounds: a file, or a class, can be read in one go."""

import ast
from collections.abc import Iterator
from pathlib import Path

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
