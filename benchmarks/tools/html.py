"""Figures for pages, and tables for Markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.figure import Figure


def figure_png(figure: Figure, dpi: int = 90) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def pipes(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown: head and rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
