"""The gallery's pages, from docs/gallery/cards.yaml and the numbers of docs/leaderboard.md and docs/judged.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

COLUMNS = ("measured", "sample", "sample", "sample", "sample", "mean of 8", "they differ", "truth")
"""Of a panel, as benchmarks/tools/gallery.py draws it."""
HOW = {
    "sampler": (
        "Two held-out toon faces under 4x super-resolution, noise 0.05, under a mixture of twelve Gaussians, for which "
        "[exact samples](sampler_exact_mixture.md) are known. Settings are those with which it is judged there."
    ),
    "task": "Two held-out toon faces under a mixture of twelve Gaussians, by {sampler}.",
}
SPREAD = (
    "“They differ” is the standard deviation over K = 8 samples, on the scale of values in [-1, 1]; its variance is "
    "smoothed by a Gaussian window of 1 pixel, and the brightest colour is 0.3. Made by `python -m benchmarks gallery`."
)
MARK = "<!-- cards: {kind}s -->"
"""In gallery.md: where the cards of a kind come."""

Row = Mapping[str, str]
"""Of a table: heading of a column -> cell."""


@dataclass(frozen=True)
class Card:
    """One page of the gallery.

    Args:
        kind: ``sampler`` or ``task``.
        name: of its picture and page.
        settings: what cards.yaml says of it.
    """

    kind: str
    name: str
    settings: Mapping[str, Any]

    @property
    def title(self) -> str:
        """For people."""
        return str(self.settings["title"])

    @property
    def page(self) -> str:
        """Where it stands, from docs/."""
        return f"gallery/{self.kind}_{self.name}.md"

    @property
    def picture(self) -> str | None:
        """File beside the page, None if there is no picture."""
        return None if "pictured" in self.settings else f"{self.kind}_{self.name}.png"

    @property
    def run(self) -> str:
        """One line that runs it."""
        return str(self.settings["run"])


@dataclass(frozen=True)
class Numbers:
    """What the two pages of verdicts say.

    Args:
        totals: sampler -> its row in the table of leaderboard.md whose problems have up to 32 numbers.
        board: problem -> sampler -> its row there.
        verdicts: problem -> row of verdicts in judged.md, by sampler.
        judged: problem -> sampler -> its row of numbers there.
    """

    totals: Mapping[str, Row]
    board: Mapping[str, Mapping[str, Row]]
    verdicts: Mapping[str, Row]
    judged: Mapping[str, Mapping[str, Row]]


def cards(docs: Path) -> list[Card]:
    """All cards, in their order: samplers, then tasks.

    Raises:
        ValueError: naming a card whose picture is not there.
    """
    told = yaml.safe_load((docs / "gallery" / "cards.yaml").read_text(encoding="utf-8"))
    found = [Card(kind, name, own) for kind in ("sampler", "task") for name, own in told[f"{kind}s"].items()]
    for card in found:
        if card.picture and not (docs / "gallery" / card.picture).is_file():
            raise ValueError(
                f"docs/gallery/{card.picture} is missing: python -m benchmarks gallery --only [{card.name}]"
            )
    return found


def tables(text: str) -> list[tuple[str, list[Row]]]:
    """Markdown's tables, each with the last heading before it."""
    found: list[tuple[str, list[Row]]] = []
    heading = ""
    for block in re.split(r"\n\s*\n", text):
        if head := re.findall(r"^#+ (.*)$", block, re.MULTILINE):
            heading = head[-1]
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if len(lines) > 2:
            names, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            found.append((heading, [dict(zip(names, row, strict=True)) for row in rows]))
    return found


def numbers(docs: Path) -> Numbers:
    """From the pages as they are."""
    board, judged = (tables((docs / name).read_text(encoding="utf-8")) for name in ("leaderboard.md", "judged.md"))
    by_problem = {
        heading: {row["sampler"]: row for row in rows}
        for heading, rows in board
        if {"sampler", "verdict"} <= rows[0].keys()
    }
    (small,) = (rows for heading, rows in board if heading == "Up to 32 numbers")
    (verdicts,) = (rows for heading, rows in judged if heading == "Verdicts")
    (counted,) = (rows for heading, rows in judged if heading == "Numbers")
    problems = [row["problem"] for row in verdicts]
    return Numbers(
        totals={row["sampler"]: row for row in small},
        board=by_problem,
        verdicts={row["problem"]: row for row in verdicts},
        judged={one: {row["sampler"]: row for row in counted if row["problem"] == one} for one in problems},
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose last column is a sentence, and gets the room; site.css makes it."""
    return f'<div class="verdicts" markdown>\n\n{table(head, rows)}\n\n</div>'


def flip_book(picture: str, face: int, title: str) -> str:
    """A box in which the samples of one face follow one another; site.css moves it."""
    label = escape(f"{title}: four samples of face {face + 1}, one after the other")
    row = f"background-image:url({picture});background-position-y:{100 * face}%"
    return f'<div class="flip" role="img" aria-label="{label}" style="{row}"></div>'


def panel(card: Card) -> str:
    """Pictures of a card, or why there are none."""
    if card.picture is None:
        return f"*No picture: {card.settings['pictured'].partition(', ')[2]}.*"
    books = "".join(flip_book(card.picture, face, card.title) for face in (0, 1))
    heads = "".join(f"<span>{column}</span>" for column in COLUMNS)
    alt = escape(f"{card.title}: {', '.join(COLUMNS)}; two faces")
    sheet = (
        f'<div class="sheet" tabindex="0"><div class="heads">{heads}</div><img src="{card.picture}" alt="{alt}"></div>'
    )
    shown_by = card.settings.get("sampler", {}).get("class_path")
    sampler = f"`{shown_by.rpartition('.')[2]}`" if shown_by else "[exact samples](sampler_exact_mixture.md)"
    how = HOW[card.kind].format(sampler=sampler)
    return f'<div class="books">{books}</div>\n\n{sheet}\n\n*{how}* {SPREAD}'


def sampler_numbers(card: Card, known: Numbers) -> tuple[str, str]:
    """Cost and verdict of a sampler."""
    name = str(card.settings.get("board"))
    total = known.totals.get(name)
    if total is None:
        return (
            "Not measured with the others.",
            "It has no row in the [leaderboard](../leaderboard.md), which is of samplers of any prior.",
        )
    cost = (
        f"{total['calls']} calls of the network a sample, forward + backward; {total['ms a sample']} ms a sample "
        "without a network, on problems of up to 32 numbers ([leaderboard](../leaderboard.md))."
    )
    rows = [
        [problem, own[name]["refuted"], own[name]["W2 / floor: median"], own[name]["worst"], own[name]["verdict"]]
        for problem, own in known.board.items()
        if name in own
    ]
    head = ["problem", "refuted", "distance / floor, median", "worst", "verdict"]
    verdict = (
        f"Refuted on {total['refuted']} problems of up to 32 numbers of the [leaderboard](../leaderboard.md).\n\n"
        f"{verdicts(head, rows)}"
    )
    if judged := card.settings.get("judged"):
        faces = [
            [problem, own[judged]["calls"], own[judged]["coverage"], known.verdicts[problem][judged]]
            for problem, own in known.judged.items()
            if problem.startswith("toon-") and judged in own
        ]
        head = ["problem", "calls", "coverage", "verdict"]
        verdict += f"\n\nOn toon faces, 3072 numbers ([all verdicts](../judged.md)):\n\n{verdicts(head, faces)}"
    return cost, verdict


def task_numbers(card: Card, known: Numbers) -> tuple[str, str]:
    """Cost and verdict of a task."""
    problem = str(card.settings.get("judged"))
    cost = "That of the sampler: [the samplers' cards](../gallery.md#samplers)"
    if problem not in known.judged:
        more = card.settings.get("more", "conditional.md")
        return (
            f"{cost}.",
            f"Samplers have no row for this task in [all verdicts](../judged.md); read [{more}](../{more}).",
        )
    rows = [
        [name, own["calls"], own["W2 / floor: median"], own["coverage"], known.verdicts[problem][name]]
        for name, own in known.judged[problem].items()
    ]
    head = ["sampler", "calls", "distance / floor, median", "coverage", "verdict"]
    cost += ". The table below has the calls of the network a sample, forward + backward."
    return cost, f"On `{problem}` ([all verdicts](../judged.md)):\n\n{verdicts(head, rows)}"


def page(card: Card, known: Numbers, reference: str) -> str:
    """Markdown of a card's page.

    Args:
        card: whose.
        known: numbers.
        reference: the class's place in the reference, from docs/.
    """
    cost, verdict = (sampler_numbers if card.kind == "sampler" else task_numbers)(card, known)
    more = f", [more](../{card.settings['more']})" if "more" in card.settings else ""
    parts = [
        f"# {card.title}",
        card.settings["does"],
        panel(card),
        f"## Where it is unsure\n\n{card.settings['unsure']}",
        f"## Cost\n\n{cost}",
        f"## Run it\n\n    {card.run}",
        f"## Verdict\n\n{verdict}",
        f"In code: [`{card.settings['class']}`](../{reference}){more}. [All cards](../gallery.md).",
    ]
    return "\n\n".join(parts) + "\n"


def grid(found: Sequence[Card]) -> str:
    """Cards side by side, for gallery.md."""
    lines = ['<div class="cards">']
    for card in found:
        href = card.page.removesuffix(".md") + ".html"
        book = flip_book(f"gallery/{card.picture}", 0, card.title) if card.picture else '<div class="flip none"></div>'
        does = escape(str(card.settings["does"]).partition(". ")[0].rstrip(".") + ".")
        lines.append(
            f'<a class="card" href="{href}">{book}<strong>{escape(card.title)}</strong><span>{does}</span></a>'
        )
    return "\n".join([*lines, "</div>"])
