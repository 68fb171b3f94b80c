"""The registered command: compile one Python module, lint it, print a report as JSON.

The path arrives on standard input, as the description of every task does. Exit code 0
means that there is a report; whether the report is good enough is the verifiers' business.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from pathlib import Path

LINES_MAX = 120
"""Longest function that the linter lets pass, in lines."""


def main() -> int:
    path = Path(sys.stdin.read().strip())
    source = path.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tree = ast.parse(source, filename=str(path))
        compile(tree, str(path), "exec", dont_inherit=True)
    problems = [f"line {w.lineno}: {w.message}" for w in caught]
    problems += [problem for node in ast.walk(tree) for problem in _problems(node)]
    report = {
        "module": path.stem,
        "lines": source.count(b"\n"),
        "functions": sum(_is_function(node) for node in ast.walk(tree)),
        "documented": ast.get_docstring(tree) is not None,
        "problems": sorted(set(problems)),
    }
    print(json.dumps(report))
    return 0


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _problems(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        return [f"line {node.lineno}: bare except"]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > LINES_MAX:
            return [f"line {node.lineno}: {node.name} has {length} lines"]
    return []


if __name__ == "__main__":
    sys.exit(main())
