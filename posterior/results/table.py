"""The result table of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from posterior.metrics import Summary

HEADINGS = {
    "nfe_forward": "NFE fwd",
    "nfe_backward": "NFE bwd",
    "seconds": "s/sample",
    "residual": "resid.",
    "coverage": "cover.",
}


def format_table(summary: Summary, num_samples: int) -> str:
    """Rows "sample", for K > 1 "mean of K", and those of picked samples, if there are; a dash is an unknown value.

    Cells are mean +- standard error over images. A value known for fewer images than the others says for how many.
    """
    names = list(dict.fromkeys([*summary["mean"], *summary["sample"]]))
    images = max(int(value["count"] or 0) for value in summary["sample"].values())
    rows = [["", *(HEADINGS.get(name, name) for name in names)]]
    labels = {"sample": "sample", "best": "least residual", "oracle": "oracle's choice"}
    if num_samples > 1:
        labels = {"sample": "sample", "mean": f"mean of {num_samples}"} | labels
    for key, label in labels.items():
        if key not in summary:
            continue
        rows.append([label, *(cell(summary[key].get(name), images) for name in names)])
    used = [column for column in range(len(rows[0])) if column == 0 or any(row[column] != "-" for row in rows[1:])]
    named = set(used) | {column for column, name in enumerate(names, start=1) if name.startswith("lpips")}
    widths = {column: max(len(row[column]) for row in rows) for column in named}
    return "\n".join("  ".join(row[column].rjust(widths[column]) for column in sorted(named)) for row in rows)


def format_distances(distances: Mapping[str, Mapping[str, float | int | str | None]]) -> Iterator[str]:
    """A line for each feature network with FID and KID."""
    for network, found in distances.items():
        fid, kid = (f"{found[name]:.4g}" if isinstance(found[name], float) else "-" for name in ("fid", "kid"))
        sides = f"{found['images']} images against {found['reference_images']}, {found['reference']}"
        warning = f" (warning: {found['warning']})" if found.get("warning") else ""
        yield f"FID ({network}) {fid}, KID {kid}: {sides}{warning}"


def cell(value: dict[str, float | int | None] | None, images: int) -> str:
    """Mean +- standard error, a dash where unknown, with the count where it is not ``images``."""
    if value is None or value["mean"] is None:
        return "-"
    mean = value["mean"]
    text = f"{mean:.0f}" if mean == round(mean) else f"{mean:.4g}"
    if value["sem"]:
        text += f" +- {value['sem']:.2g}"
    return text if value["count"] == images else f"{text} (n={value['count']})"
