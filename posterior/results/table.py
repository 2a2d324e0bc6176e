"""The result table of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from posterior.metrics import Summary
from posterior.terminal import WIDTH

HEADINGS = {
    "nfe_forward": "NFE fwd",
    "nfe_backward": "NFE bwd",
    "seconds": "s/sample",
    "residual": "resid.",
    "coverage": "cover.",
}
KINDS = {"sample": "sample", "mean": "mean of {}", "best": "least residual", "oracle": "oracle's choice"}
"""Kind of sample -> what stands above its column."""
LABEL = 28
"""Columns that a name may have; the middle of a longer one is left out."""


def format_table(summary: Summary, num_samples: int) -> str:
    """A row each metric; columns "sample", for K > 1 "mean of K", and those of picked samples, if there are.

    Cells are mean +- standard error over images, a dash where it is unknown. A value known for fewer images than the
    others says for how many. No line is longer than `WIDTH`.
    """
    names = list(dict.fromkeys([*summary["mean"], *summary["sample"]]))
    images = max(int(value["count"] or 0) for value in summary["sample"].values())
    kinds = [kind for kind in KINDS if kind in summary and (kind != "mean" or num_samples > 1)]
    rows = [["", *(KINDS[kind].format(num_samples) for kind in kinds)]]
    for name in names:
        cells = [cell(summary[kind].get(name), images) for kind in kinds]
        if set(cells) != {"-"} or name.startswith("lpips"):
            rows.append([HEADINGS.get(name, name), *cells])
    return fitted(rows)


def fitted(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """A table of text, head first, in lines of at most ``width``: columns that do not fit go into a block below.

    The first column stands in each block. A name (of the head, or of the first column) that is longer than `LABEL`
    loses its middle.
    """
    head, *rest = rows
    short = [[_short(text) for text in head], *([_short(first), *cells] for first, *cells in rest)]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    blocks: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if blocks[-1] and widths[0] + sum(2 + widths[one] for one in [*blocks[-1], column]) > width:
            blocks.append([])
        blocks[-1].append(column)
    lines = []
    for block in blocks:
        for row in short:
            line = row[0].ljust(widths[0]) + "".join("  " + row[one].rjust(widths[one]) for one in block)
            lines.append(line.rstrip())
        lines.append("")
    return "\n".join(lines[:-1])


def _short(text: str) -> str:
    half = (LABEL - 3) // 2
    return text if len(text) <= LABEL else f"{text[:half]}...{text[-half:]}"


def format_distances(distances: Mapping[str, Mapping[str, float | int | str | None]]) -> Iterator[str]:
    """A line for each feature network with FID and KID."""
    for network, found in distances.items():
        fid, kid = (f"{found[name]:.4g}" if isinstance(found[name], float) else "-" for name in ("fid", "kid"))
        sides = f"{found['images']} images against {found['reference_images']}, {found['reference']}"
        warning = f" (warning: {found['warning']})" if found.get("warning") else ""
        yield f"FID ({network}) {fid}, KID {kid}: {sides}{warning}"


def cell(value: dict[str, float | int | None] | None, images: int, digits: int = 4) -> str:
    """Mean +- standard error, a dash where unknown, with the count where it is not ``images``.

    The mean has so many digits, at least 3, and its error two fewer.
    """
    if value is None or value["mean"] is None:
        return "-"
    mean = value["mean"]
    text = f"{mean:.0f}" if mean == round(mean) else f"{mean:.{digits}g}"
    if value["sem"]:
        text += f" +- {value['sem']:.{digits - 2}g}"
    return text if value["count"] == images else f"{text} (n={value['count']})"
