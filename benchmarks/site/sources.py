"""Code of the repository within a page, taken from its file when the site is built."""

from __future__ import annotations

import ast
import re
import textwrap
from itertools import dropwhile
from pathlib import Path

MARK = re.compile(
    r'^<!-- code: (?P<file>[\w/]+\.py) (?P<name>[\w.]+)(?: from "(?P<first>[^"]+)")? -->$',
    re.MULTILINE,
)
"""In a page: `<!-- code: FILE Class.function -->` is a function's body, `from "x ="` the part that begins so."""


def included(markdown: str, root: Path) -> str:
    """A page's Markdown with code in the place of its marks.

    Args:
        markdown: of the page.
        root: of the repository.

    Raises:
        ValueError: if a file has no function of that name, or no statement of it begins so.
    """

    def code(found: re.Match[str]) -> str:
        text = (root / found["file"]).read_text(encoding="utf-8")
        return f"```python\n{body(text, found['name'], found['first'] or '')}\n```"

    return MARK.sub(code, markdown)


def body(text: str, name: str, first: str = "") -> str:
    """Lines of a function, without its docstring.

    Args:
        text: of its module.
        name: of a function, or ``Class.function``.
        first: how the first statement begins that is wanted; empty: all are.

    Raises:
        ValueError: if there is no such function, or no such statement in its outermost block.
    """
    found: ast.AST | None = ast.parse(text)
    for part in name.split("."):
        inner = ast.iter_child_nodes(found) if found else iter(())
        found = next((one for one in inner if getattr(one, "name", None) == part), None)
    if not isinstance(found, ast.FunctionDef):
        raise ValueError(f"there is no function {name}")
    statements = found.body[ast.get_docstring(found) is not None :]
    kept = list(dropwhile(lambda one: not ast.unparse(one).startswith(first), statements))
    if not kept:
        raise ValueError(f"{name} has no statement that begins with {first!r}")
    return textwrap.dedent("\n".join(text.splitlines()[kept[0].lineno - 1 : kept[-1].end_lineno]))
