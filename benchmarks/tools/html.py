"""Pages that are one file: tables and pictures inside, no network; and tables for Markdown."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
th { border-bottom: 2px solid #888; }
table.words td { white-space: normal; text-align: left; vertical-align: top; }
img { max-width: 100%; }
figure { margin: 1rem 0; } figcaption { color: #555; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of parts that are HTML already."""
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}</style>"
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *parts])
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n{body}\n</body></html>\n"


def element(tag: str, text: str) -> str:
    """Text in a tag."""
    return f"<{tag}>{html.escape(text)}</{tag}>"


def table(rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """Head and rows; with ``words`` cells are sentences."""

    def line(row: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(element(tag, cell) for cell in row) + "</tr>"

    kind = " class='words'" if words else ""
    return f"<table{kind}>\n" + "\n".join([line(rows[0], "th"), *(line(row, "td") for row in rows[1:])]) + "\n</table>"


def picture(content: bytes, kind: str, caption: str) -> str:
    """An image file (``kind``: png, jpeg) inside the page."""
    data, text = base64.b64encode(content).decode(), html.escape(caption)
    return f"<figure><img alt='{text}' src='data:image/{kind};base64,{data}'><figcaption>{text}</figcaption></figure>"


def figure_png(figure: Figure, dpi: int = 90) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def pipes(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown: head and rows."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
