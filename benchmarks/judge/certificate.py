"""The page of a calibration: calibrate.md, calibrate.html (one file), calibrate.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.judge.page import about, as_json, draw_ranks, draw_samples, finding_rows
from benchmarks.judge.scores import Curve, Curves
from benchmarks.judge.statistics import band
from benchmarks.judge.verdict import Judged, summary
from benchmarks.tools import html
from posterior.files import write_whole
from posterior.results import report_shell as shell

CAPTION = """\
Samples of one measurement above truths of several; ranks of the truth by functional (grey: simultaneous 95 % band), and
of all numbers of an image, whose 95 % intervals are by images, since numbers of one image depend on each other:
distribution function less the uniform one. Below: share of the truth's numbers in central intervals of the samples;
TARP, the share of truths that are nearer to a random point than so many samples; error of the samples' mean against
what their spread says, by bins of images; sparsification, the error of the numbers of least spread against their share
(dotted: of those of least error). Dashed: an exact sampler. Under --recorded the held-out part of y stands for the
truth."""
TARP = "distance to a random point"


def write_certificate(
    folder: Path, told: str, seed: int, name: str, judged: Judged, curves: Curves | None, limits: str
) -> None:
    """Write calibrate.json, calibrate.md and calibrate.html into the folder.

    Args:
        folder: where.
        told: how much was sampled.
        seed: of truths and samples.
        name: of the sampler.
        judged: what was found.
        curves: what is drawn; None where nothing could be.
        limits: what a pass does not prove.
    """
    found = {name: [judged]}
    known = as_json(told, seed, found) | {"curves": curves and curves_json(curves)}
    parts = [f"{name}: {judged.verdict()}.", about(told, seed, found)]
    write_whole(folder / "calibrate.json", (json.dumps(known, indent=1) + "\n").encode())
    write_whole(folder / "calibrate.md", markdown(parts, judged, curves, limits).encode())
    write_whole(folder / "calibrate.html", page(parts, judged, curves, limits).encode())


def curves_json(curves: Curves) -> dict[str, dict[str, list[float]]]:
    """Curve -> x, y, low, high."""
    return {name: {axis: np.asarray(v).tolist() for axis, v in one.items()} for name, one in asdict(curves).items()}


def curve_rows(head: Sequence[str], curve: Curve) -> list[list[str]]:
    """Head, then a row a point: x, y, interval."""
    rows = [[*head, "95 % interval"]]
    for x, y, low, high in zip(curve.x, curve.y, curve.low, curve.high, strict=True):
        rows.append([f"{x:.3g}", f"{y:.3f}", f"{low:.3f} to {high:.3f}"])
    return rows


def number_rows(judged: Judged) -> list[list[str]]:
    """Head, then CRPS, energy score, cost."""
    rows = [["number", "value", "of what any sample has", "95 % interval"]]
    for one in judged.of("score", only_refuted=False):
        rows.append([one.test, f"{one.more['score']:.4g}", f"{one.effect:.3f}", f"{one.low:.3f} to {one.high:.3f}"])
    rows.append(["calls a sample, forward + backward", f"{judged.forward:.0f} + {judged.backward:.0f}", "", ""])
    rows.append(["ms a sample", f"{1e3 * judged.seconds:.3g}", "", ""])
    return rows


def tables(judged: Judged, curves: Curves | None) -> list[tuple[str, list[list[str]]]]:
    """Title and table, in the order of the page."""
    found = [("Numbers", number_rows(judged)), ("Tests", finding_rows(judged))]
    if curves is not None:
        found.append(("Coverage", curve_rows(["intervals that should hold", "hold"], curves.coverage)))
        found.append(("Spread and skill", curve_rows(["spread", "error of the mean"], curves.spread_skill)))
        head = ["share of numbers, those of least spread", "error, over that of all"]
        found.append(("Sparsification", curve_rows(head, curves.sparsification)))
    return found


def markdown(told: Sequence[str], judged: Judged, curves: Curves | None, limits: str) -> str:
    """calibrate.md."""
    lines = ["# Calibration", "", *(line for text in told for line in (text, ""))]
    for title, rows in tables(judged, curves):
        lines += [f"## {title}", "", *html.pipes(rows), ""]
    return "\n".join([*lines, "## What a pass does not prove", "", limits, ""])


def page(told: Sequence[str], judged: Judged, curves: Curves | None, limits: str) -> str:
    """calibrate.html."""
    parts = []
    if curves is not None:
        parts.append(shell.picture(html.figure_png(picture(judged, curves)), "png", CAPTION))
    for title, rows in tables(judged, curves):
        parts += [shell.element("h2", title), shell.table(rows, title, "sortable")]
    parts += [shell.element("h2", "What a pass does not prove"), shell.element("p", limits)]
    return shell.page(f"Calibration: {summary([judged])}", told, "\n".join(parts))


def picture(judged: Judged, curves: Curves) -> Figure:
    """Samples, ranks, pixel ranks, coverage; TARP, spread and skill, sparsification."""
    figure = Figure(figsize=(20, 9), layout="constrained")
    (samples, ranks, pixels, coverage), (tarp, skill, sparse, empty) = figure.subplots(2, 4)
    empty.set_axis_off()
    draw_samples(samples, judged)
    samples.set_xlabel("above: samples of one measurement; below: truths")
    draw_ranks(ranks, judged)
    draw_curve(pixels, curves.pixels, xlabel="rank of the truth's numbers", ylabel="difference from uniform")
    pixels.axhline(0, color="black", linestyle="--", linewidth=1)
    draw_curve(coverage, curves.coverage, xlabel="intervals that should hold so much", ylabel="share of numbers held")
    coverage.axline((0.5, 0.5), slope=1, color="black", linestyle="--", linewidth=1)
    draw_tarp(tarp, judged)
    draw_curve(skill, curves.spread_skill, xlabel="spread", ylabel="error of the mean", fmt="o")
    skill.axline((float(curves.spread_skill.x[0]),) * 2, slope=1, color="black", linestyle="--", linewidth=1)
    draw_curve(sparse, curves.sparsification, xlabel="share of numbers, least spread", ylabel="error, over that of all")
    sparse.plot(curves.sparsification_exact.x, curves.sparsification_exact.y, "--", color="black", linewidth=1)
    sparse.plot(curves.sparsification_least.x, curves.sparsification_least.y, ":", color="black", linewidth=1)
    empty.legend(*ranks.get_legend_handles_labels(), loc="center", fontsize="small")
    return figure


def draw_curve(axes: Axes, curve: Curve, fmt: str = "o-", **labels: Any) -> None:
    """Points with their intervals."""
    ends = [np.maximum(curve.y - curve.low, 0), np.maximum(curve.high - curve.y, 0)]
    axes.errorbar(curve.x, curve.y, ends, fmt=fmt, markersize=3, capsize=3, linewidth=1)
    axes.set(**labels)


def draw_tarp(axes: Axes, judged: Judged) -> None:
    """Expected coverage of balls around random points, with the 95 % band (Lemos et al., ICML 2023)."""
    ranks, bins = judged.ranks[TARP], judged.ranked + 1
    grid = np.arange(1, bins) / bins
    low, high = band(len(ranks), judged.ranked)
    axes.fill_between(grid, low, high, color="#dddddd")
    axes.plot(grid, np.cumsum(np.bincount(ranks, minlength=bins))[:-1] / len(ranks), linewidth=1.2)
    axes.axline((0.5, 0.5), slope=1, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="credibility of balls around random points", ylabel="share of truths inside", title="TARP")
