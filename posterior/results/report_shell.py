"""What all pages share: one file with style and script inside, tables, drawings; no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import posterior

TEMPLATE = Path(__file__).with_name("report_files")
WIDE, ROW, LEFT, LETTERS = 440, 24, 160, 20
"""Of a drawing, in its own pixels: its width, the height of a row, the room for names; the letters that it holds."""
MOST_DOTS = 400
"""Of a row."""


def page(
    name: str,
    lead: Sequence[str],
    main: str,
    title: str | None = None,
    notice: str | None = None,
    settings: str = "",
    versions: Mapping[str, str] | None = None,
    index: object = None,
) -> str:
    """A whole page. All but ``main`` and ``settings`` is text.

    Args:
        name: its heading.
        lead: paragraphs below it.
        main: HTML.
        title: of the window; the heading if None.
        notice: what everybody must see first.
        settings: HTML of folded settings (`folded`).
        versions: package -> version, of what made it.
        index: what the explorer reads, as JSON; None: the page has no explorer.
    """
    style, script = ((TEMPLATE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    made = {"posterior-sampling": posterior.__version__} if versions is None else versions
    filled = {
        "policy": f"default-src 'none'; img-src data: file: 'self'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}' 'strict-dynamic'; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "title": html.escape(title or name),
        "name": html.escape(name),
        "lead": "".join(f'<p class="lead">{html.escape(text)}</p>' for text in lead),
        "notice": "" if notice is None else f'<p class="notice" role="status">{html.escape(notice)}</p>',
        "main": main,
        "settings": settings,
        "versions": html.escape(", ".join(f"{package} {number}" for package, number in made.items())),
        "version": html.escape(posterior.__version__),
        "index": "" if index is None else f'<script type="application/json" id="index">{as_json(index)}</script>',
    }
    return Template((TEMPLATE / "page.html").read_text(encoding="utf-8")).substitute(filled)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def as_json(value: object) -> str:
    """JSON that may stand within a script element: no text of it can end the element, or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def data_url(kind: str, content: bytes) -> str:
    """A picture (``kind``: png, jpeg) as the source of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def element(tag: str, text: str) -> str:
    """Text in a tag."""
    return f"<{tag}>{html.escape(text)}</{tag}>"


def folded(summary: str, content: str) -> str:
    """HTML behind a line that opens it."""
    return f"<details>{element('summary', summary)}{content}</details>"


def settings(summary: str, text: str) -> str:
    """Settings, folded, with a button that copies them; one of a page."""
    button = '<button id="copy" type="button">Copy</button><output id="copied" aria-live="polite"></output>'
    content = f'<pre id="settings" tabindex="0">{html.escape(text)}</pre>'
    return folded(summary, f'<div class="bar scripted">{button}</div>{content}')


def table(rows: Sequence[Sequence[str]], caption: str, kind: str = "") -> str:
    """Head and rows of text, the first cell of each a heading; the caption is for those who listen.

    Args:
        rows: the head first.
        caption: what it is.
        kind: ``words``: cells are sentences; ``sortable``: a click on a head sorts by it.
    """
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in rows[0])
    lines = [f"<tr>{head}</tr>"]
    for row in rows[1:]:
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in row[1:])
        lines.append(f'<tr><th scope="row">{html.escape(row[0])}</th>{cells}</tr>')
    region = f'class="{f"wide {kind}".rstrip()}" tabindex="0" role="region" aria-label="{html.escape(caption)}"'
    return f"<div {region}><table>{''.join(lines)}</table></div>"


def picture(content: bytes, kind: str, caption: str) -> str:
    """An image file (``kind``: png, jpeg) inside the page."""
    text, source = html.escape(caption), data_url(kind, content)
    return (
        f'<figure class="plot" tabindex="0"><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
    )


@dataclass(frozen=True)
class DotRow:
    """A row of a drawing: dots, a mark with its interval, or both.

    Args:
        name: what stands before it.
        middle, low, high: the mark; low and high are None where no interval is known.
        values: the dots.
    """

    name: str
    middle: float
    low: float | None = None
    high: float | None = None
    values: Sequence[float] = ()


def dots(rows: Sequence[DotRow], caption: str, line: float | None = None) -> str:
    """Rows below one another on one scale.

    Args:
        rows: at least one, of finite numbers.
        caption: what it shows.
        line: where an upright line stands.
    """
    thin = [row.values[:: max(1, -(-len(row.values) // MOST_DOTS))] for row in rows]
    ends = [value for row in rows for value in (row.middle, row.low, row.high) if value is not None]
    ends += [value for values in thin for value in values] + ([] if line is None else [line])
    low, high = min(ends), max(ends)
    room = (high - low) or abs(high) or 1.0

    def across(value: float) -> str:
        return f"{LEFT + (WIDE - LEFT - 12) * (value - low + 0.04 * room) / (1.08 * room):.1f}"

    parts = [] if line is None else [_line(across(line), across(line), 2, ROW * len(rows), "upright")]
    for number, (row, values) in enumerate(zip(rows, thin, strict=True)):
        y = ROW * (number + 0.5)
        half = LETTERS // 2
        short = row.name if len(row.name) <= LETTERS else f"{row.name[:half]}…{row.name[1 - half :]}"
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4:g}" text-anchor="end">{html.escape(short)}</text>')
        parts += [f'<circle class="one" cx="{across(value)}" cy="{y:g}" r="3"/>' for value in values]
        if row.low is not None and row.high is not None:
            parts.append(_line(across(row.low), across(row.high), y, y, "span"))
        parts.append(f'<circle class="middle" cx="{across(row.middle)}" cy="{y:g}" r="4.5"/>')
    foot = ROW * len(rows) + 14
    for value, anchor in ((low, "start"), (high, "end")) if low < high else ((low, "middle"),):
        parts.append(f'<text x="{across(value)}" y="{foot}" text-anchor="{anchor}">{value:.4g}</text>')
    told = "; ".join(f"{row.name} {row.middle:.4g}" for row in rows)
    drawn = f'<svg viewBox="0 0 {WIDE} {foot + 6}" role="img" aria-label="{html.escape(f"{caption} {told}")}">'
    return f'<figure class="dots">{drawn}{"".join(parts)}</svg><figcaption>{html.escape(caption)}</figcaption></figure>'


def _line(x1: str, x2: str, y1: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1:g}" y2="{y2:g}"/>'
