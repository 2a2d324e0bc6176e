"""What the leaderboard leaves: leaderboard.md, leaderboard.html (one file), leaderboard.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogFormatter

from benchmarks.judge.leaderboard_faces import AVERAGED, MEASURES, FaceRow
from benchmarks.judge.leaderboard_running import (
    MOST_CALLS,
    Board,
    Choice,
    Point,
    shipped_point,
    tuned_name,
)
from benchmarks.judge.page import LEGEND as JUDGE_LEGEND
from benchmarks.judge.page import LIMITS, about, as_json, number_rows
from benchmarks.judge.problems import Problem
from benchmarks.judge.verdict import Judged
from benchmarks.tools import html
from benchmarks.tools.tables import spelt
from posterior.files import write_whole
from posterior.results import report_shell as shell

NEAR = 1.2
"""W2 over its floor up to which a sampler counts as having reached the posterior."""
CALLS = (100, 300, 1000)
"""Budgets of the table at equal cost."""
FORMAT = 1
"""Of leaderboard.json; it changes when its fields change their meaning."""
COLOURS = 10
"""Of lines, before they come again in another style."""
LEGEND = f"""\
Order: problems on which a sampler is judged and not refuted; then, the fewest first, those on which it diverges; then
the geometric mean of its medians of W2 / floor on the others; then calls. In brackets: the worst measurement.
Intervals of medians are 95 % ones from six measurements on; of three they go from the least to the largest, which is
75 %. Calls and milliseconds are those on the last problem of the row. "At equal cost" takes each sampler as it ships
and, where its budget was varied, at every budget; verdicts are of samplers as they ship. At most {MOST_CALLS} calls a
sample, forward and backward, those of all particles. Faces: L2, LPIPS and residual of one sample, and L2 of the mean
of {AVERAGED}, as samplers ship; differences are paired over faces; no posterior is known there. "Their code": other
libraries' code on our priors and operators runs with its own defaults, some of which clip at [-1, 1] where these
posteriors leave it, and is not tuned unless a row says so. "Tuned": with the settings that were chosen for each
problem (see Tuned); such rows stand below the sampler as it ships, and count neither in the order nor at equal cost."""
TUNED = """\
Settings that each sampler was tried with: the nearest to the posterior by the median of W2 / floor is taken, of equal
ones the first. Tried on other measurements than those that are reported, half as many, with half as many samples. In
brackets: that median there; the reported one is in the tables."""


def write_board(folder: Path, board: Board, problems: Sequence[Problem]) -> None:
    """Write leaderboard.json, leaderboard.md and leaderboard.html into the folder, and a .png of each picture."""
    pictures = {name: html.figure_png(picture(board, name)) for name in drawn_problems(board)}
    for name, content in pictures.items():
        write_whole(folder / f"leaderboard-{name}.png", content)
    write_whole(folder / "leaderboard.json", (json.dumps(board_json(board), indent=1) + "\n").encode())
    write_whole(folder / "leaderboard.md", markdown(board).encode())
    write_whole(folder / "leaderboard.html", page(board, problems, pictures).encode())


def medians(board: Board, name: str) -> list[float]:
    """W2 over its floor of a sampler on each problem; those without a number are left out."""
    points = [shipped_point(name, one) for one in board.found[name]]
    return [one.ratio for one in points if math.isfinite(one.ratio)]


def ordered(board: Board) -> list[str]:
    """Names of samplers, the best first; see `LEGEND`."""

    def key(name: str) -> tuple[float, ...]:
        found, ratios = board.found[name], medians(board, name)
        mean = float(np.exp(np.mean(np.log(ratios)))) if ratios else math.inf
        judged = sum(one.failure is None for one in found)
        return (
            -passed(found),
            judged - len(ratios),
            mean,
            max((one.forward + one.backward for one in found), default=0.0),
        )

    return sorted(board.found, key=key)


def passed(found: Sequence[Judged]) -> int:
    """Problems on which a sampler is judged and not refuted."""
    return sum(one.failure is None and not one.refuted for one in found)


def refuted(found: Sequence[Judged]) -> str:
    """On how many problems of those on which it is judged."""
    judged = [one for one in found if one.failure is None]
    return f"{sum(one.refuted for one in judged)} of {len(judged)}"


def sentences(board: Board) -> list[str]:
    """What the numbers say, a sentence each in Markdown; where another sampler is better than ours, in bold."""
    told = [_fewest(board), _cheapest_said(board), _better(board)]
    return [*told, *_tuned_said(board)] if board.ours and board.tuned else told


def _fewest(board: Board) -> str:
    judged = {name: [one for one in found if one.failure is None] for name, found in board.found.items()}
    most = max(len(found) for found in judged.values())
    counts = {name: sum(one.refuted for one in found) for name, found in judged.items() if len(found) == most > 0}
    if not counts:
        return "No sampler could be judged on any problem."
    least = min(counts.values())
    first = [name for name, count in counts.items() if count == least]
    rest = sorted((count, name) for name, count in counts.items() if count != least)
    then = f"; then {', '.join(f'{name} ({count})' for count, name in rest)}" if rest else ""
    return f"Refuted on the fewest of {most} problems: {', '.join(first)} ({least}){then}."


def _cheapest_said(board: Board) -> str:
    told = []
    for problem in problems_of(board):
        found = cheapest(board.points(problem))
        told.append(f"{problem}: {'nobody' if found is None else found.told()}")
    return f"The cheapest within {NEAR} floors (calls; W2 / floor): {'; '.join(told)}."


def _better(board: Board) -> str:
    """Of samplers that are not ours, beside the first of ours that are in the table."""
    if not board.ours:
        return "No sampler of this project is in the table."
    ours = board.ours[0]
    others = {name: found for name, found in board.found.items() if name not in board.ours}
    told = []
    for place, own in enumerate(board.found[ours]):
        told += _nearer(ours, own, {name: found[place] for name, found in others.items()})
        told += _cheaper(board, own.problem)
    for row in board.faces:
        own_row = _row(board.faces, ours, row.task)
        for measure, words in MEASURES.items():
            pair = None if own_row is None else row.paired(own_row, measure)
            if row.sampler in others and measure != "residual" and pair is not None and pair[0] + pair[1] < 0:
                told.append(f"{row.task}: {words} of {row.sampler} is lower by {-pair[0]:.3g} ± {pair[1]:.2g}")
    if not told:
        return (
            f"Nobody else is better than {ours} beyond the intervals of medians, on average and in the worst "
            f"measurement, nor cheaper within {NEAR} floors."
        )
    return f"**Others are better than {ours} here: {'; '.join(told)}.**"


def _nearer(ours: str, own: Judged, others: Mapping[str, Judged]) -> list[str]:
    """Who is better in truth on one problem, and by what."""
    told, mine = [], shipped_point(ours, own)
    for name, other in others.items():
        point = shipped_point(name, other)
        if other.failure is None and not other.refuted and (own.refuted or own.failure):
            told.append(f"{own.problem}: {name} is not refuted, {ours} is")
        elif point.ratio < mine.low:
            told.append(f"{own.problem}: W2 / floor {point.ratio:.2f} by {name}, {mine.ratio:.2f} by {ours}")
        elif steadier(other, own):
            told.append(f"{own.problem}: W2 / floor on average {_spread(other)} by {name}, {_spread(own)} by {ours}")
    return told


def _cheaper(board: Board, problem: str) -> list[str]:
    """Who is near for the fewest calls on one problem, if that is none of ours."""
    points = board.points(problem)
    first, least = cheapest(points), cheapest([one for one in points if one.sampler in board.ours])
    if first is None or first.sampler in board.ours or (least is not None and least.calls <= first.calls):
        return []
    beside = f"{least.calls:.0f} ({least.sampler})" if least is not None else "none of ours"
    return [f"{problem}: {first.sampler} is within {NEAR} floors for {first.calls:.0f} calls, {beside}"]


def _tuned_said(board: Board) -> list[str]:
    """Whom tuning brings as near as the first of ours as it ships; and who is better than that by tuning, in bold.

    Of the problems on which others were tuned; nothing where nobody else was.
    """
    ours, near, better = board.ours[0], [], []
    others = {name: found for name, found in board.tuned.items() if name not in board.ours}
    names = list(dict.fromkeys(one.problem for one in board.choices if one.sampler in others))
    if not names:
        return []
    for place, own in enumerate(board.found[ours]):
        if own.problem not in names:
            continue
        mine, brought = shipped_point(ours, own), []
        for name, found in others.items():
            before, after = (shipped_point(name, one[place]).ratio for one in (board.found[name], found))
            if after <= mine.high < before and math.isfinite(mine.high):
                brought.append(f"{name} ({after:.2f}; as it ships {before:.2f})")
        near.append(f"{own.problem}: {', '.join(brought) or 'nobody'}")
        better += _nearer(ours, own, {tuned_name(name): found[place] for name, found in others.items()})
    told = [f"Tuning brings others within the interval of {ours} (W2 / floor): {'; '.join(near)}."]
    if better:
        return [*told, f"**Tuned, others are better than {ours} here: {'; '.join(better)}.**"]
    return [*told, f"Tuned on {', '.join(names)}, nobody else is better there than {ours}."]


def spread(judged: Judged) -> dict[str, float] | None:
    """Mean and worst W2 over its floor, over measurements; None if there is none."""
    found = next((one.more for one in judged.findings if one.test == "distribution"), None)
    return None if judged.diverged else found


def _spread(judged: Judged) -> str:
    found = spread(judged)
    return "-" if found is None else f"{found['mean']:.2f} (worst {found['worst']:.2f})"


def steadier(other: Judged, own: Judged) -> bool:
    """Whether the other is nearer on average, and its worst measurement by the factor `NEAR`: a median hides that."""
    theirs, mine = spread(other), spread(own)
    if theirs is None or mine is None:
        return False
    return theirs["mean"] < mine["mean"] and NEAR * theirs["worst"] < mine["worst"]


def problems_of(board: Board) -> list[str]:
    """Names of all problems, those of the judge first."""
    names = [one.problem for found in board.found.values() for one in found] + [one.problem for one in board.curves]
    return list(dict.fromkeys(names))


def drawn_problems(board: Board) -> list[str]:
    """Those on which budgets were varied."""
    return list(dict.fromkeys(one.problem for one in board.curves))


def cheapest(points: Sequence[Point]) -> Point | None:
    """Of those within `NEAR` floors."""
    return min((one for one in points if one.ratio <= NEAR), key=lambda one: (one.calls, one.ratio), default=None)


def best(points: Sequence[Point], calls: int) -> Point | None:
    """The nearest of those that take so many calls at most."""
    return min((one for one in points if one.calls <= calls), key=lambda one: (one.ratio, one.calls), default=None)


def equal_rows(board: Board) -> list[list[str]]:
    """Head, then a row a problem: the cheapest, and the best for some numbers of calls with those as good."""
    rows = [["problem", f"cheapest within {NEAR} floors", *(f"best at {calls} calls" for calls in CALLS)]]
    for problem in problems_of(board):
        points = board.points(problem)
        cheap = cheapest(points)
        row = [problem, "nobody" if cheap is None else cheap.told()]
        for calls in CALLS:
            first = best(points, calls)
            near = {one.sampler for one in points if first and one.calls <= calls and one.ratio <= first.high}
            told = "-" if first is None else first.told()
            also = sorted(near - {first.sampler}) if first else []
            row.append(told + (f"; in its interval: {', '.join(also)}" if also else ""))
        rows.append(row)
    return rows


def listing(board: Board) -> list[tuple[str, str, Sequence[Judged]]]:
    """Rows of tables, the best first, tuned ones below the same sampler as it ships: (name, whose, verdicts)."""
    rows = []
    for name in ordered(board):
        whose = "ours" if name in board.ours else "their code" if name in board.theirs else "peer"
        rows.append((name, whose, board.found[name]))
        if name in board.tuned:
            rows.append((tuned_name(name), f"{whose}, tuned", board.tuned[name]))
    return rows


def main_rows(board: Board) -> list[list[str]]:
    """Head, then a row a sampler, the best first: truth, cost, faces."""
    names = [one.problem for one in next(iter(board.found.values()))]
    tasks = list(dict.fromkeys(row.task for row in board.faces))
    head = ["sampler", "whose", "refuted", *names, "calls", "ms a sample"]
    head += [f"{task}: {words}" for task in tasks for words in MEASURES.values()]
    rows = [[*head, "not judged"]]
    for name, whose, found in listing(board):
        judged = [one for one in found if one.failure is None]
        last = judged[-1] if judged else None
        row = [name, whose, refuted(found), *(_ratio(name, one) for one in found)]
        row.append("-" if last is None else f"{last.forward:.0f} + {last.backward:.0f}")
        row.append("-" if last is None else f"{1e3 * last.seconds:.3g}")
        for task in tasks:
            own = _row(board.faces, name, task)
            row += [_mean(own, measure) for measure in MEASURES]
        told = [f"{one.problem}: {one.failure}" for one in found if one.failure is not None]
        told += [f"{one.task}: {one.failure}" for one in board.faces if one.sampler == name and one.failure]
        rows.append([*row, "; ".join(told) or "-"])
    return rows


def _ratio(name: str, judged: Judged) -> str:
    if judged.failure is not None:
        return "-"
    found = spread(judged)
    return "diverged" if found is None else f"{shipped_point(name, judged).ratio:.2f} ({found['worst']:.2f})"


def _row(rows: Sequence[FaceRow], sampler: str, task: str) -> FaceRow | None:
    return next((one for one in rows if (one.sampler, one.task) == (sampler, task)), None)


def _mean(row: FaceRow | None, measure: str) -> str:
    pair = None if row is None else row.mean(measure)
    return "-" if pair is None else f"{pair[0]:.4f}"


def problem_rows(board: Board, place: int) -> list[list[str]]:
    """One problem: head, then a row a sampler, the best first, with its verdict behind the numbers.

    Tuned ones are left out where they are not tuned.
    """
    chosen = {(tuned_name(one.sampler), one.problem) for one in board.choices}
    every = [(name, judged[place]) for name, _, judged in listing(board)]
    found = {name: [one] for name, one in every if name in board.found or (name, one.problem) in chosen}
    head, *rows = number_rows(found)
    told = [*(one.verdict() for (one,) in found.values())]
    state = [
        "no" if one.failure is None and not one.refuted else "yes" if one.failure is None else "-"
        for (one,) in found.values()
    ]
    return [
        [head[1], "refuted", *head[2:], "verdict"],
        *([row[1], bad, *row[2:], words] for row, bad, words in zip(rows, state, told, strict=True)),
    ]


def tuned_rows(board: Board) -> list[list[str]]:
    """Head, then a row a sampler: what it was tried with, and what was chosen on each problem."""
    problems = list(dict.fromkeys(one.problem for one in board.choices))
    choices = {(one.sampler, one.problem): one for one in board.choices}
    rows = [["sampler", *problems, "tried"]]
    for name in (one for one in ordered(board) if one in board.tuned):
        own = [choices[name, problem] for problem in problems]
        rows.append([name, *map(_chosen, own), "; ".join(map(_tried, zip(*(one.tried for one in own), strict=True)))])
    return rows


def _tried(points: Sequence[Point]) -> str:
    """One setting, with the problems on which it gave no number."""
    failed = [one.problem for one in points if one.failure is not None]
    return points[0].setting + (f" (failed on {', '.join(failed)})" if failed else "")


def _chosen(choice: Choice) -> str:
    best = choice.best
    return f"none: {choice.tried[0].failure}" if best is None else f"{best.setting} ({best.ratio:.2f})"


def face_table(board: Board, task: str) -> list[list[str]]:
    """One task: head, then a row a sampler, the least error of the mean first."""
    ours = _row(board.faces, board.ours[0], task) if board.ours else None
    head = ["sampler", *MEASURES.values()]
    if ours is not None:
        head += [f"{words} less {ours.sampler}'s" for words in MEASURES.values()]
    rows = [[*head, "diverged", "calls", "ms a sample", "not measured"]]
    own = [row for row in board.faces if row.task == task]
    own.sort(key=lambda row: next((pair[0] for m in ("l2_of_mean", "l2") if (pair := row.mean(m))), math.inf))
    for row in own:
        cells = [row.sampler, *(_spelt(row.mean(measure)) for measure in MEASURES)]
        if ours is not None:
            cells += [_spelt(row.paired(ours, measure), "+") if row is not ours else "-" for measure in MEASURES]
        cells.append(f"{row.diverged} of {row.total}")
        rows.append([*cells, f"{row.forward:.0f} + {row.backward:.0f}", f"{1e3 * row.seconds:.3g}", row.failure or "-"])
    return rows


def _spelt(pair: tuple[float, float] | None, sign: str = "") -> str:
    return spelt(pair, 4, sign).replace("+-", "±")


def failures(board: Board) -> list[str]:
    """Budgets and settings that gave no number, and why."""
    points = [*board.curves, *(one for choice in board.choices for one in choice.tried)]
    return [f"{one.sampler} ({one.setting}) on {one.problem}: {one.failure}" for one in points if one.failure]


def markdown(board: Board) -> str:
    """leaderboard.md."""
    lines = [
        "# Leaderboard",
        "",
        *(f"{line}\n" for line in sentences(board)),
        about(board.budget, board.seed, board.found),
    ]
    lines += ["", *html.pipes(main_rows(board)), "", LEGEND, "", "## At equal cost", "", *html.pipes(equal_rows(board))]
    for name in drawn_problems(board):
        lines += ["", f"![{caption(name)}](leaderboard-{name}.png)"]
    if board.tuned:
        lines += ["", "## Tuned", "", TUNED, "", *html.pipes(tuned_rows(board))]
    lines += ["", *(f"- {line}" for line in failures(board))]
    for place, name in enumerate(one.problem for one in next(iter(board.found.values()))):
        lines += ["", f"## {name}", "", *html.pipes(problem_rows(board, place))]
    lines += ["", JUDGE_LEGEND]
    for task in dict.fromkeys(row.task for row in board.faces):
        lines += ["", f"## {task}", "", *html.pipes(face_table(board, task))]
    return "\n".join([*lines, "", "## What a pass does not prove", "", LIMITS, ""])


def page(board: Board, problems: Sequence[Problem], pictures: dict[str, bytes]) -> str:
    """leaderboard.html: a click on a column's head sorts by it."""
    parts = [_paragraph(line) for line in sentences(board)]
    parts += [shell.table(main_rows(board), "Samplers", "sortable"), shell.element("p", LEGEND)]
    parts.append(shell.element("p", about(board.budget, board.seed, board.found)))
    parts += [shell.element("h2", "At equal cost"), shell.table(equal_rows(board), "At equal cost", "words sortable")]
    parts += [shell.picture(content, "png", caption(name)) for name, content in pictures.items()]
    if board.tuned:
        parts += [shell.element("h2", "Tuned"), shell.element("p", TUNED)]
        parts.append(shell.table(tuned_rows(board), "Tuned", "words sortable"))
    parts += [shell.element("p", line) for line in failures(board)]
    tables = {f"{one.name}: {one.tells}": problem_rows(board, place) for place, one in enumerate(problems)}
    parts += [*_titled(tables), shell.element("p", JUDGE_LEGEND)]
    tasks = dict.fromkeys(row.task for row in board.faces)
    parts += _titled({f"{task}: held-out toon faces": face_table(board, task) for task in tasks})
    parts += [shell.element("h2", "What a pass does not prove"), shell.element("p", LIMITS)]
    return shell.page("Leaderboard", [], "\n".join(parts))


def _titled(tables: Mapping[str, list[list[str]]]) -> list[str]:
    return [shell.element("h2", title) + shell.table(rows, title, "sortable") for title, rows in tables.items()]


def _paragraph(line: str) -> str:
    """A sentence whose bold parts stand between double asterisks."""
    parts = [shell.element("strong" if place % 2 else "span", part) for place, part in enumerate(line.split("**"))]
    return f"<p>{''.join(parts)}</p>"


def caption(problem: str) -> str:
    """Of the picture of a problem."""
    return (
        f"{problem}: distance to the posterior over network calls, W2 / floor, median over measurements; 1 is what "
        f"exact samples have, dotted {NEAR}; squares: as it ships; thick: ours."
    )


def picture(board: Board, problem: str) -> Figure:
    """Distance over calls, a line a sampler whose budget was varied, a square for each as it ships."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots()
    points = [one for one in board.points(problem) if 0 < one.calls <= MOST_CALLS]
    for number, name in enumerate(board.found):
        style, width = ("-", "--", ":")[number // COLOURS % 3], 3.0 if name in board.ours else 1.4
        colour = f"C{number % COLOURS}"
        own = sorted((one for one in points if one.sampler == name), key=lambda one: one.calls)
        if not own:
            continue
        varied, shipped = [one for one in own if one.setting], [one for one in own if not one.setting]
        calls, ratios = [one.calls for one in varied], [one.ratio for one in varied]
        axes.plot(calls, ratios, color=colour, linestyle=style, linewidth=width, marker="o", markersize=4, label=name)
        for one in shipped:
            axes.plot(one.calls, one.ratio, color=colour, marker="s", markersize=8, markerfacecolor="none")
    for level, style in ((1.0, "--"), (NEAR, ":")):
        axes.axhline(level, color="black", linestyle=style, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="network calls a sample, forward + backward, of all particles")
    axes.set(ylabel="sliced W2 to exact samples / floor", title=problem)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
    figure.legend(loc="outside right center", fontsize="small")
    return figure


def board_json(board: Board) -> dict[str, Any]:
    """leaderboard.json: all numbers of the page."""
    cheap = {name: cheapest(board.points(name)) for name in problems_of(board)}
    return {
        "format": FORMAT,
        "sentences": sentences(board),
        "order": ordered(board),
        "ours": list(board.ours),
        "theirs": list(board.theirs),
        "judged": as_json(board.budget, board.seed, board.found),
        "tuned": as_json(board.budget, board.seed, board.tuned),
        "choices": [
            {
                "sampler": one.sampler,
                "problem": one.problem,
                "chosen": None if one.best is None else one.best.setting,
                "tried": {point.setting: point.ratio if point.failure is None else None for point in one.tried},
            }
            for one in board.choices
        ],
        "points": [_point(one) for problem in problems_of(board) for one in board.points(problem)],
        "failures": failures(board),
        "at_equal_cost": [
            {
                "problem": name,
                "cheapest": None if one is None else _point(one),
                "best": {str(calls): _point(found) for calls in CALLS if (found := best(board.points(name), calls))},
            }
            for name, one in cheap.items()
        ],
        "faces": [asdict(row) for row in board.faces],
    }


def _point(point: Point) -> dict[str, Any]:
    return {key: value for key, value in asdict(point).items() if key != "failure"}
