"""Docstrings as Markdown: a sign of comparison is no quotation and no tag."""

from __future__ import annotations

import re
from typing import Any

import griffe

MORE = re.compile(r"^(\s+[\w, ]+: |\s*)>(?=[= ])", re.MULTILINE)
"""A range that begins a description: `scale: > 0`."""
LESS = re.compile(r"^( {4,}.*|.*`[^`\n]*<[^`\n]*`.*)$|<(?=[A-Za-z])", re.MULTILINE)
"""A line of code, which stays as it is, or a sign that would begin a tag."""


class PlainSigns(griffe.Extension):
    """MkDocs' reader of docstrings calls this for every object."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Escape the signs of its docstring."""
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    """A docstring without signs that Markdown takes for its own."""
    return LESS.sub(lambda found: found[1] or "&lt;", MORE.sub(r"\1&gt;", text))
