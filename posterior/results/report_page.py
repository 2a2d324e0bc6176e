"""report.html of a run: one file to leaf through its images, opened by double click, without a network."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path

from posterior.files import write_whole
from posterior.metrics.distribution import nominal_coverage
from posterior.results.journal import NO_METRICS
from posterior.results.report_explorer import Explorer, Group, Shown, Value
from posterior.results.report_folder import MAIN, Image, Run, picture_labels, read_run
from posterior.results.report_shell import element, page, settings, table
from posterior.results.table import HEADINGS, cell
from posterior.terminal import say_place

log = logging.getLogger(__name__)

NAME = "report.html"


def write_page(folder: Path) -> Path:
    """Write report.html (and, of a large run, report_files/) from what a run's folder holds (`Explorer.written`).

    Returns:
        The file.

    Raises:
        UserError: if the folder holds no run.
        OSError: if it cannot be written.
    """
    run = read_run(folder)
    parts = explorer(run).written(folder)
    main = f"{parts.controls}\n{_means(run)}\n{_failed(run.failed)}\n{parts.plain}"
    name = folder.resolve().name
    text = page(
        name,
        [run.sentence()],
        main,
        title=f"{name}: samples of the posterior",
        notice=run.notice,
        settings=settings("Settings of the run (config.yaml)", run.settings or "config.yaml is not here."),
        versions=run.session.versions,
        index=parts.index,
    )
    write_whole(folder / NAME, text.encode("utf-8", "replace"))
    parts.forget_others(folder)
    return folder / NAME


def leave_page(folder: Path) -> None:
    """The page of a run at its end; that it cannot be written is a warning, since the run is complete without it."""
    try:
        say_place(f"page: {write_page(folder)}")
    except Exception as error:
        log.warning("%s could not be written: %s: %s", folder / NAME, type(error).__name__, error)


def explorer(run: Run) -> Explorer:
    """What the page of a run leafs through."""
    samples = run.session.samples_per_image
    images = [
        Shown(
            image.id,
            0,
            partial(lambda one: list(one.pictures(samples)), image),
            partial(_numbers, run, image),
            [image.folder / MAIN, image.folder / "measurement.png"],
            image.num_measured,
        )
        for image in run.images
    ]
    files = {name: ("images/", f"/{name}.png") for name in picture_labels(samples)}
    values = {name: [rounded(image.value(name)) for image in run.images] for name in run.metrics}
    group = Group("", ("images/", f"/{MAIN}"), files, [samples])
    return Explorer(samples, images, [group], [""], run.metrics, [values])


def rounded(value: tuple[float, float, float] | None) -> Value:
    """Four digits; one number, if all three are it."""
    if value is None:
        return None
    found = [float(f"{number:.4g}") for number in value]
    if not all(map(math.isfinite, found)):
        return None
    return found if found[1] < found[2] else found[0]


def _kinds(run: Run) -> dict[str, str]:
    """Kinds of rows in words."""
    mean = f"mean of {run.session.samples_per_image}"
    return {"sample": "one sample", "mean": mean, "best": "least residual", "oracle": "nearest to the truth"}


def _numbers(run: Run, image: Image) -> str:
    """A row each sample, a column each metric."""
    names = _kinds(run)
    records = {label: record for label, record in image.records.items() if label.isdecimal() or label in names}
    if not records:
        return "<p>Its numbers are not in the journal: it is not complete.</p>"
    own = dict.fromkeys(name for record in records.values() for name in record if name not in NO_METRICS)
    rows = []
    for label, record in records.items():
        head = names.get(label, f"sample {label}") + (f" (sample {record['picked']})" if "picked" in record else "")
        rows.append([head, *(_number(record.get(name)) for name in own)])
    return table([[""] + [HEADINGS.get(name, name) for name in own], *rows], f"Metrics of {image.id}")


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else "-" if value is None else str(value)


def _means(run: Run) -> str:
    names = _kinds(run)
    rows = [["", *(HEADINGS.get(name, name) for name in run.metrics)]]
    for kind, means in run.summary.items():
        cells = (cell(means.get(name), run.num_complete).replace("+-", "±") for name in run.metrics)
        rows.append([names.get(kind, kind), *cells])
    found = table(rows, "Means over images") if run.summary else "<p>No image is complete.</p>"
    return (
        f'<section><h2>Means over images</h2>{found}\n<p class="quiet">Mean ± standard error over images. '
        "resid.: ‖y &minus; A x‖ over its noise, about 1 for the truth and for a right sample.\n"
        f"{_coverage(run)}</p></section>"
    )


def _coverage(run: Run) -> str:
    """What the coverage of exact samples is, of a run that has it: not 1."""
    if "coverage" not in run.metrics:
        return ""
    samples = run.session.samples_per_image
    return (
        f"{HEADINGS['coverage']}: share of the values of the truth between the least and the greatest of {samples} "
        "samples. For exact samples, and truths of the prior, it is "
        f"(K - 1) / (K + 1) = {nominal_coverage(samples):.3g} on average."
    )


def _failed(failed: dict[str, str]) -> str:
    if not failed:
        return ""
    rows = [["image", "why it has no samples"], *([image_id, reason] for image_id, reason in failed.items())]
    return f"<section>{element('h2', f'Failed: {len(failed)}')}{table(rows, 'Images that failed')}</section>"
