"""report.html of several runs: methods side by side, image by image; and the command that writes pages anew."""

from __future__ import annotations

import html
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.matrix.results import PAIRED, Estimate, Result, differences_of, metric_rows, paired_rows, pooled
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.ids import natural
from posterior.results.pictures import STD_SMOOTHING
from posterior.results.report_explorer import Explorer, Group, Shown
from posterior.results.report_folder import MAIN, Image, Picture, Run, read_run
from posterior.results.report_page import NAME, rounded, write_page
from posterior.results.report_shell import DotRow, dots, element, folded, page, table
from posterior.results.table import HEADINGS
from posterior.shell import Parser, in_words

log = logging.getLogger(__name__)

PLAN = "cells.json"
"""In a matrix's folder: the task, sampler and seed of each of its cells."""
SHARED = {"measurement": "measurement", "operator": "operator", "truth": "truth"}
"""Pictures that all methods share -> what they show."""
SMOOTHED = f"smoothed by {STD_SMOOTHING:g} pixel"
"""What the maps of standard deviations are."""
OWN = {
    "": "sample 0",
    "_phase": "sample 0, phase",
    "_mean": "mean of {}",
    "_std": f"standard deviation of {{}}, {SMOOTHED}",
}
"""What follows a method's number in the name of a picture of its -> what it shows, of so many samples."""
FILES = {"": "sample_000", "_phase": "sample_000_phase", "_mean": "mean", "_std": "std"}
DRAWN = (*PAIRED, "residual", "coverage")
"""Metrics that are drawn."""
LINES = {"residual": 1.0}
"""Metric -> where its upright line stands: what a right sample has."""


@dataclass(frozen=True)
class Task:
    """Runs of the same measurements.

    Args:
        name: for people; empty: there is one task alone.
        results: what each method has found.
        runs: method -> its run, the first being what the others are held against.
    """

    name: str
    results: Sequence[Result]
    runs: Mapping[str, Run]

    def ids(self) -> list[str]:
        """Of all images of any run, in natural order."""
        return sorted({image.id for run in self.runs.values() for image in run.images}, key=natural)


def tasks_of(results: Sequence[Result]) -> list[Task]:
    """Those of the results, in their order: a task and a seed each, since other seeds have other measurements.

    Raises:
        UserError: if a result's folder holds no run.
    """
    grouped: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        grouped.setdefault((result.task, result.seed), []).append(result)
    seeds = {seed for _, seed in grouped}
    found = []
    for (task, seed), own in grouped.items():
        name = f"{task}, seed {seed}" if len(seeds) > 1 else task
        found.append(Task(name if len(grouped) > 1 else "", own, {one.sampler: read_run(one.dir) for one in own}))
    return found


def write_comparison(
    folder: Path, results: Sequence[Result], lead: Sequence[str], notice: str | None = None, more: Sequence[str] = ()
) -> Path:
    """Write report.html (and, of many images, report_files/) of runs into a folder.

    Args:
        folder: where to.
        results: at least one.
        lead: what is said first.
        notice: what everybody must see.
        more: HTML that stands behind the tables.

    Returns:
        The file.

    Raises:
        UserError: if a result's folder holds no run.
        OSError: if it cannot be written.
    """
    tasks = tasks_of(results)
    parts = explorer(folder, tasks).written(folder)
    runs = [run for task in tasks for run in task.runs.values()]
    unfinished = [f"{os.path.relpath(run.folder, folder)}: {run.notice}" for run in runs if run.notice]
    told = " ".join(filter(None, [notice, *unfinished[:3], "..." if len(unfinished) > 3 else ""])) or None
    sections = [_section(folder, task) for task in tasks]
    settings = folded("Settings of the runs (config.yaml)", "".join(map(_settings, tasks)))
    text = page(
        folder.resolve().name,
        lead,
        "\n".join([parts.controls, *sections, *more, parts.plain]),
        title=f"{folder.resolve().name}: methods side by side",
        notice=told,
        settings=settings,
        versions=runs[0].session.versions,
        index=parts.index,
    )
    write_whole(folder / NAME, text.encode("utf-8", "replace"))
    parts.forget_others(folder)
    return folder / NAME


def explorer(folder: Path, tasks: Sequence[Task]) -> Explorer:
    """What a page in a folder leafs through."""
    runs = [run for task in tasks for run in task.runs.values()]
    methods = list(dict.fromkeys(name for task in tasks for name in task.runs))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    images, groups = [], []
    values: list[dict[str, list[Any]]] = [{name: [] for name in metrics} for _ in methods]
    for number, task in enumerate(tasks):
        groups.append(_group(folder, task, methods))
        found = {name: {image.id: image for image in run.images} for name, run in task.runs.items()}
        for image_id in task.ids():
            own = {methods.index(name): of[image_id] for name, of in found.items() if image_id in of}
            images.append(_shown(number, image_id, own, groups[number], methods, metrics))
            for method, columns in enumerate(values):
                for metric, column in columns.items():
                    column.append(rounded(own[method].value(metric)) if method in own else None)
    samples = max(run.session.samples_per_image for run in runs)
    return Explorer(samples, images, groups, methods, metrics, values)


def _group(folder: Path, task: Task, methods: Sequence[str]) -> Group:
    places = {name: f"{_place(folder, run.folder)}/images/" for name, run in task.runs.items()}
    base = next(iter(places))
    files = {name: (places[base], f"/{name}.png") for name in SHARED}
    for name, place in places.items():
        files |= {f"method_{methods.index(name)}{end}": (place, f"/{file}.png") for end, file in FILES.items()}
    counts = [task.runs[name].session.samples_per_image if name in task.runs else None for name in methods]
    return Group(task.name, (places[base], f"/{MAIN}"), files, counts, methods.index(base))


def _shown(
    number: int, image_id: str, own: Mapping[int, Image], group: Group, methods: Sequence[str], metrics: Sequence[str]
) -> Shown:
    measured = next((m for image in own.values() if (m := image.num_measured) is not None), None)
    thumbs = [image.folder / MAIN for image in own.values()]
    thumbs += [image.folder / "measurement.png" for image in own.values()]
    named = {methods[method]: image for method, image in own.items()}
    pictures, numbers = partial(_pictures, own, group, methods), partial(_numbers, image_id, named, metrics)
    return Shown(image_id, number, pictures, numbers, thumbs, measured)


def _pictures(own: Mapping[int, Image], group: Group, methods: Sequence[str]) -> list[Picture]:
    """Those that are there: of the measurement and the truth, then those of each method."""
    found = []
    for name, label in SHARED.items():
        paths = (image.folder / f"{name}.png" for image in own.values())
        if path := next((path for path in paths if path.is_file()), None):
            found.append(Picture(name, label, path))
    for number, image in own.items():
        for end, label in OWN.items():
            path = image.folder / f"{FILES[end]}.png"
            if path.is_file():
                told = f"{methods[number]}: {label.format(group.samples[number])}"
                found.append(Picture(f"method_{number}{end}", told, path))
    return found


def _numbers(image_id: str, own: Mapping[str, Image], metrics: Sequence[str]) -> str:
    """A row each method, a column each metric: the mean over the image's samples, and their range."""
    known = [metric for metric in metrics if any(image.value(metric) for image in own.values())]
    if not known:
        return "<p>Its numbers are in no journal: it is not complete.</p>"
    rows = [["", *(HEADINGS.get(name, name) for name in known)]]
    rows += [[name, *(_range(image.value(metric)) for metric in known)] for name, image in own.items()]
    return table(rows, f"Metrics of {image_id}")


def _range(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = value
    return f"{mean:.4g}" + (f" ({low:.4g} to {high:.4g})" if low < high else "")


def _section(folder: Path, task: Task) -> str:
    """A task's tables and drawings, and where its runs have their own pages."""
    title = task.name or task.results[0].task
    parts = [f"<section>{element('h2', title or 'Means over images')}"]
    head, *rows = metric_rows(task.results)
    parts.append(table([head[1:], *(row[1:] for row in rows)], f"Means of {title}", "sortable"))
    parts.append('<p class="quiet">Means over images ± half a 95 % interval (Student\'s t).</p>')
    counts = ", ".join(f"{name} {run.session.samples_per_image}" for name, run in task.runs.items())
    told = f"Samples of each image: {counts}. Maps of the standard deviation over them are {SMOOTHED}."
    parts.append(f'<p class="quiet">{html.escape(told)}</p>')
    parts.append(f'<div class="plots">{"".join(drawings(task.results))}</div>')
    head, *rows = paired_rows(task.results)
    if rows:
        parts.append(table([head[1:], *(row[1:] for row in rows)], f"Paired differences of {title}", "sortable"))
        parts.append('<p class="quiet">Differences on the same images and measurements ± half a 95 % interval.</p>')
    links = [(name, run.folder / NAME) for name, run in task.runs.items() if (run.folder / NAME).is_file()]
    if links:
        told = ", ".join(f'<a href="{_place(folder, path)}">{html.escape(name)}</a>' for name, path in links)
        parts.append(f"<p>Pages of the runs: {told}.</p>")
    return "\n".join([*parts, "</section>"])


def _place(folder: Path, path: Path) -> str:
    """A path beside a page; nothing is left in it that means something in HTML."""
    return quote(Path(os.path.relpath(path, folder)).as_posix(), safe="/")


def drawings(results: Sequence[Result]) -> list[str]:
    """Each metric of a task, and each difference to the first method: dots over images, means with intervals."""
    found = []
    for metric in DRAWN:
        label = HEADINGS.get(metric, metric)
        every = {one.sampler: list(pooled([one], metric).values()) for one in results}
        if rows := _dot_rows(every):
            found.append(dots(rows, f"{label}: a dot an image; mean with its 95 % interval", LINES.get(metric)))
        base = results[0]
        paired = {one.sampler: differences_of([one], [base], metric) for one in results[1:]}
        if metric in PAIRED and (rows := _dot_rows(paired)):
            found.append(dots(rows, f"{label} less that of {base.sampler}, on the same images", 0.0))
    return found


def _dot_rows(values: Mapping[str, Sequence[float]]) -> list[DotRow]:
    rows = []
    for name, own in values.items():
        if own and all(map(math.isfinite, own)):
            mean = Estimate.of(own)
            low, high = (None, None) if mean.half is None else (mean.mean - mean.half, mean.mean + mean.half)
            rows.append(DotRow(name, mean.mean, low, high, own))
    return rows


def _settings(task: Task) -> str:
    title = f"{task.name}, " if task.name else ""
    return "".join(
        folded(f"{title}{name}", f'<pre tabindex="0">{html.escape(run.settings or "config.yaml is not here.")}</pre>')
        for name, run in task.runs.items()
    )


def write_plan(folder: Path, places: Iterable[tuple[str, str, int]]) -> None:
    """Keep which cells a matrix has, (task, sampler, seed) each, so that its page can be made of what is there."""
    write_whole(folder / PLAN, json.dumps({"cells": list(places)}).encode())


def read_plan(folder: Path) -> list[tuple[str, str, int]]:
    """What `write_plan` has kept.

    Raises:
        UserError: if it cannot be read.
    """
    path = folder / PLAN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [(str(task), str(sampler), int(seed)) for task, sampler, seed in found]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): start the matrix once more") from error


def write_matrix_page(folder: Path) -> Path:
    """The page of a matrix from its folder alone, also of one that was killed.

    Raises:
        UserError: if none of its cells has begun, or `PLAN` cannot be read.
        OSError: if it cannot be written.
    """
    places, found, lost = read_plan(folder), [], []
    for task, sampler, seed in places:
        cell = folder / task / sampler / f"seed_{seed}"
        try:
            found.append(Result.of_run(task, sampler, seed, read_run(cell)))
        except UserError:
            lost.append(f"{task} / {sampler} / seed {seed}")
    if not found:
        raise UserError(f"{folder}: no cell of the matrix has begun")
    lead = [f"{len(found)} of {len(places)} cells of the matrix, made anew from the folder."]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    notice = f"This matrix has not come to its end. Not begun: {', '.join(lost[:3])}{more}." if lost else None
    return write_comparison(folder, found, lead, notice)


def report(arguments: Sequence[str]) -> None:
    """The command ``posterior-sampling report FOLDER``: write the page anew, also of what was killed.

    All folders are tried. The first mistake is raised at the end, and those after it are warnings.

    Raises:
        UserError: if a folder holds neither a run nor a matrix, or none is named.
        OSError: if a page cannot be written.
    """
    parser = Parser(prog="posterior-sampling report", description="The page of a run or a matrix, from its folder.")
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="of a run or a matrix: results/NAME")
    mistakes: list[UserError | OSError] = []
    for folder in parser.parse_args(arguments).folders:
        try:
            write = write_matrix_page if (folder / PLAN).is_file() else write_page
            print(f"page: {write(folder)}")
        except (UserError, OSError) as error:
            mistakes.append(error)
    for mistake in mistakes[1:]:
        log.warning("%s", in_words(mistake))
    if mistakes:
        raise mistakes[0]
