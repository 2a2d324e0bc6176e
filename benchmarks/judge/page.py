"""What the judge leaves: report.html (one file), judge.md, judge.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import posterior
from benchmarks.judge.problems import Problem
from benchmarks.judge.statistics import POWER, Finding, band
from benchmarks.judge.verdict import LEVEL, Judged, summary
from benchmarks.tools import html
from posterior.files import write_whole
from posterior.results import report_shell as shell
from posterior.results.pictures import sheet
from posterior.results.report_page import NAME

FORMAT = 1
"""Of judge.json; it changes when its fields change their meaning."""
DRAWN = {
    "distance": ("Distance to the posterior over that of exact samples, W2 / floor, mean over measurements", 1.0),
    "width": ("Width: standard deviation over the exact one", 1.0),
    "shares": ("Shares of modes: how far off", 0.0),
    "shift": ("Shift, in standard deviations", 0.0),
    "coverage": ("Share of truths that intervals hold; names have the nominal one", None),
}
"""Kind of finding -> what its drawing shows, and where its upright line stands: what exact samples have."""
COLOURS = 10
"""Of lines, before they come again, dotted."""
LIMITS = """\
A pass says that these tests, on these problems, at this budget, found nothing. It does not say: that samples are right
under another prior, operator, noise level or dimension (a learned prior's posterior is not known at all); that a mode \
rarer than about one in the number of samples is visited; that functionals that nobody looked at are right; that the \
sampler is exact: differences smaller than what each verdict names pass. In the worst case posterior sampling is \
intractable, so no sampler passes on every problem."""


LEGEND = """\
W2 / floor: sliced W2 to exact sets over that between exact sets, over measurements. Widths are ratios of standard
deviations; shifts root mean squares over directions alike; shares the root of half their squared distance, total
variation if there are two modes, less what chance makes of equal ones;
coverage the share of the truth's numbers between the least and the greatest of K samples. Brackets: 95 % intervals.
Calls: forward + backward, a sample."""


def write_page(
    folder: Path,
    budget: str,
    seed: int,
    found: Mapping[str, Sequence[Judged]],
    problems: Sequence[Problem],
    settings: Mapping[str, str],
) -> None:
    """Write judge.json, judge.md and report.html into the folder; ``settings`` of each sampler are as text."""
    told = about(budget, seed, found)
    write_whole(folder / "judge.json", (json.dumps(as_json(budget, seed, found), indent=1) + "\n").encode())
    write_whole(folder / "judge.md", markdown(told, found).encode())
    write_whole(folder / NAME, page(told, found, problems, settings).encode("utf-8", "replace"))


def about(budget: str, seed: int, found: Mapping[str, Sequence[Judged]]) -> str:
    """How it was judged."""
    tests = max((sum(len(one.findings) for one in judged) for judged in found.values()), default=0)
    return (
        f"Samplers saw y, the operator and the prior; never the truth. Budget {budget}, seed {seed}, version "
        f"{posterior.__version__}. Of each sampler all tests together ({tests} p-values at most, corrected by Holm) "
        f"refute an exact one with probability {LEVEL:.0%}; power is stated for a probability of {POWER:.0%}."
    )


def verdict_rows(found: Mapping[str, Sequence[Judged]]) -> list[list[str]]:
    """Head, then a row a problem: a sampler's verdict in each column."""
    rows = [["problem", *found]]
    first = next(iter(found.values()))
    for place, one in enumerate(first):
        rows.append([one.problem, *(judged[place].verdict() for judged in found.values())])
    return rows


def number_rows(found: Mapping[str, Sequence[Judged]]) -> list[list[str]]:
    """Head, then a row a problem and sampler: distances, widths, shares, cost."""
    head = ["problem", "sampler", "W2 / floor: median", "mean", "worst", "width, measured", "width, unmeasured"]
    head += ["width, within modes", "shift (std)", "shares", "coverage", "calls", "ms a sample"]
    rows = [head]
    first = next(iter(found.values()))
    for place, one in enumerate(first):
        for name, judged in found.items():
            own = judged[place]
            by_test = {finding.test: finding for finding in own.findings}
            distance = by_test.get("distribution")
            cells = ["-"] * 3
            if distance is not None:
                mean, low, high = (distance.more[key] for key in ("mean", "mean low", "mean high"))
                cells = [
                    f"{distance.effect:.2f}",
                    f"{mean:.2f} ± {(high - low) / 2:.2f}",
                    f"{distance.more['worst']:.2f}",
                ]
            cells += [
                _cell(by_test.get(test))
                for test in ("width, measured", "width, unmeasured", "width, within modes", "shift", "shares of modes")
            ]
            coverage = next((one for one in own.findings if one.kind == "coverage"), None)
            cells.append("-" if coverage is None else f"{_cell(coverage)} of {coverage.more['nominal']:.2f}")
            calls = "-" if own.failure else f"{own.forward:.0f} + {own.backward:.0f}"
            rows.append([one.problem, name, *cells, calls, "-" if own.failure else f"{1e3 * own.seconds:.3g}"])
    return rows


def _cell(finding: Finding | None) -> str:
    return "-" if finding is None else f"{finding.effect:.2f} [{finding.low:.2f}, {finding.high:.2f}]"


def finding_rows(judged: Judged) -> list[list[str]]:
    """Head, then a row a test."""
    rows = [["test", "effect", "95 % interval", "p", "p, corrected", f"found with probability {POWER:g}"]]
    for one, corrected in zip(judged.findings, judged.corrected, strict=True):
        reach = "-" if one.reach is None else f"{one.reach(judged.level):.3g}"
        rows.append(
            [one.test, f"{one.effect:.3f}", f"{one.low:.3f} to {one.high:.3f}", _p(one.p), _p(corrected), reach]
        )
    return rows


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def markdown(told: str, found: Mapping[str, Sequence[Judged]]) -> str:
    """judge.md."""
    lines = ["# Verdicts", ""]
    lines += [f"- **{name}**: {summary(judged)}." for name, judged in found.items()]
    lines += ["", told, "", *html.pipes(verdict_rows(found)), "", "## Numbers", "", *html.pipes(number_rows(found))]
    lines += ["", LEGEND, ""]
    lines += ["## What a pass does not prove", "", LIMITS, ""]
    return "\n".join(lines)


def as_json(budget: str, seed: int, found: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """judge.json: everything but the samples."""
    return {
        "format": FORMAT,
        "version": posterior.__version__,
        "budget": budget,
        "seed": seed,
        "level": LEVEL,
        "power": POWER,
        "samplers": [
            {"name": name, "summary": summary(judged), "problems": [_judged_json(one) for one in judged]}
            for name, judged in found.items()
        ],
    }


def _judged_json(judged: Judged) -> dict[str, Any]:
    return {
        "problem": judged.problem,
        "tells": judged.tells,
        "verdict": judged.verdict(),
        "refuted": judged.refuted,
        "failure": judged.failure,
        "diverged": [judged.diverged, judged.total],
        "calls": {"forward": judged.forward, "backward": judged.backward},
        "seconds_a_sample": judged.seconds,
        "samples_of_a_pair": judged.ranked,
        "ranks": {name: values.tolist() for name, values in judged.ranks.items()},
        "findings": [
            {
                "test": one.test,
                "kind": one.kind,
                "effect": _finite(one.effect),
                "low": _finite(one.low),
                "high": _finite(one.high),
                "p": one.p,
                "p_corrected": corrected,
                "detectable": None if one.reach is None else _finite(one.reach(judged.level)),
                "more": {name: _finite(value) for name, value in one.more.items()},
            }
            for one, corrected in zip(judged.findings, judged.corrected, strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def page(
    told: str,
    found: Mapping[str, Sequence[Judged]],
    problems: Sequence[Problem],
    settings: Mapping[str, str],
) -> str:
    """report.html."""
    parts = [f'<p class="verdict">{escape(f"{name}: {summary(judged)}.")}</p>' for name, judged in found.items()]
    parts += [shell.table(verdict_rows(found), "Verdicts", "words"), shell.element("h2", "Numbers")]
    parts += [shell.table(number_rows(found), "Numbers", "sortable"), shell.element("p", LEGEND)]
    for place, problem in enumerate(problems):
        own = {name: judged[place] for name, judged in found.items()}
        parts.append(f"<section>{shell.element('h2', f'{problem.name}: {problem.tells}')}")
        shown = {name: one for name, one in own.items() if one.failure is None and one.findings}
        parts.append(f'<div class="plots">{"".join(drawings(shown))}</div>')
        if shown:
            caption = (
                "Samples beside exact ones of one measurement; ranks of the truth, their distribution function less "
                "the uniform one, grey: 95 % band."
            )
            parts.append(shell.picture(html.figure_png(picture(shown)), "png", caption))
        for name, one in own.items():
            parts.append(shell.element("p", f"{name}: {one.verdict()}."))
            if one.findings:
                tests = f"Tests of {name} on {problem.name}"
                parts.append(shell.folded(tests, shell.table(finding_rows(one), tests)))
        parts.append("</section>")
    parts += [shell.element("h2", "What a pass does not prove"), shell.element("p", LIMITS)]
    text = "\n\n".join(f"{name}\n{own}" for name, own in settings.items())
    return shell.page("Verdicts", [told], "\n".join(parts), settings=shell.settings("Settings of the samplers", text))


def drawings(found: Mapping[str, Judged]) -> list[str]:
    """One problem: distances, widths, shares, shifts and coverage of all samplers, each on its scale."""
    drawn = []
    for kind, (caption, line) in DRAWN.items():
        rows = [row for name, one in found.items() for row in _rows(name, one, kind)]
        if rows:
            drawn.append(shell.dots(rows, f"{caption}, with its 95 % interval", line))
    return drawn


def _rows(name: str, judged: Judged, kind: str) -> Iterator[shell.DotRow]:
    for one in judged.findings:
        if one.kind != kind or (kind == "distance" and "mean" not in one.more):
            continue
        told = f"{one.more['nominal']:.0%}" if kind == "coverage" else one.where
        keys = ("mean", "mean low", "mean high")
        numbers = [one.more[key] for key in keys] if kind == "distance" else [one.effect, one.low, one.high]
        if all(map(math.isfinite, numbers)):
            middle, low, high = numbers
            yield shell.DotRow(f"{name}, {told}" if told else name, middle, low, high)


def picture(found: Mapping[str, Judged]) -> Figure:
    """One problem: a row a sampler; samples and exact ones, ranks."""
    figure = Figure(figsize=(10, 3.4 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False)
    for (name, judged), (samples, ranks) in zip(found.items(), panels, strict=True):
        draw_samples(samples, judged)
        samples.set_title(name)
        draw_ranks(ranks, judged)
    lines = next((axes for axes in panels[:, 1] if axes.lines), None)
    if lines is not None:
        figure.legend(*lines.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return figure


def draw_samples(axes: Axes, judged: Judged) -> None:
    """Samples beside exact ones, pictures or points along principal axes."""
    if judged.shown is None:
        axes.set_axis_off()
        return
    own, exact = judged.shown
    if min(own.shape[-2:]) >= 16 and own.shape[1] in (1, 3):
        axes.imshow(sheet(torch.cat([own[:6], exact[:6]]).clamp(-1, 1), columns=6))
        axes.set(xlabel="above: samples; below: exact ones", xticks=[], yticks=[])
        return
    x, y = principal(own, exact)
    for points, label, colour in ((y, "exact", "#bbbbbb"), (x, "samples", "C0")):
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6, color=colour, label=label)
    axes.set(xlabel="first two principal axes of exact samples")
    axes.legend(fontsize="small")


def principal(own: Tensor, exact: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sets along the two directions in which exact samples vary most."""
    centre = exact.flatten(1).double().mean(dim=0)
    _, _, axes = torch.linalg.svd(exact.flatten(1).double() - centre, full_matrices=False)
    found = [((x.flatten(1).double() - centre) @ axes[:2].mT).numpy() for x in (own, exact)]
    return found[0], found[1]


def draw_ranks(axes: Axes, judged: Judged) -> None:
    """Distribution functions of the truth's ranks less the uniform one, with the 95 % band."""
    if not judged.ranks:
        axes.set_axis_off()
        return
    grid = np.arange(1, judged.ranked + 1) / (judged.ranked + 1)
    pairs = len(next(iter(judged.ranks.values())))
    low, high = band(pairs, judged.ranked)
    axes.fill_between(grid, low - grid, high - grid, color="#dddddd", step="mid")
    for number, (name, ranks) in enumerate(judged.ranks.items()):
        counts = np.cumsum(np.bincount(ranks, minlength=judged.ranked + 1))[: judged.ranked] / pairs
        style = "-" if number < COLOURS else ":"
        axes.plot(grid, counts - grid, f"C{number % COLOURS}{style}", label=name, linewidth=1.2)
    axes.set(
        xlabel="rank of the truth",
        ylabel="difference from uniform",
        title=f"{pairs} pairs, {judged.ranked} samples each",
    )
