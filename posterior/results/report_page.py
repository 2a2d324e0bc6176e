"""report.html of a run: one file to leaf through its images, opened by double click, without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from string import Template
from urllib.parse import quote

import numpy as np
import PIL.Image

import posterior
from posterior.errors import UserError
from posterior.files import say, write_whole
from posterior.metrics.distribution import nominal_coverage
from posterior.results.pictures import STD_RANGE, STD_SMOOTHING, STD_TICKS, png, std_colours
from posterior.results.report_folder import MAIN, NO_METRICS, Image, Picture, Run, as_json, picture_labels, read_run
from posterior.results.table import HEADINGS, cell
from posterior.shell import Parser, in_words

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("report_files")
NAME, BESIDE = "report.html", "report_files"
MOST_INSIDE = 200
"""Images whose small picture and plain section are in the page."""
MOST_BESIDE = 1000
"""Images whose pictures are in scripts beside it."""
MOST_PIXELS = 60_000_000
"""Of the pictures that thumbnails are made of: what takes one or two seconds."""
INSIDE_BYTES = 24_000_000
"""Of PNG files that the page holds: 32 MB as text."""
BESIDE_BYTES = 256_000_000
"""Of PNG files that are written once more beside the page, so that it can read their pixels."""
SIDE = 96
"""Of a thumbnail, in pixels."""
WORST: dict[str, str | float] = {"psnr": "low", "ssim": "low", "l2": "high", "nmse": "high", "residual": 1.0}
"""Which value of a metric is bad: the lowest, the highest, the one furthest from a number. Of others see `_worst`."""

Source = Callable[[Picture], str]


def write_page(folder: Path) -> Path:
    """Write report.html (and, of a large run, report_files/) from what a run's folder holds.

    The pictures of the first images are inside the page, up to `INSIDE_BYTES`; those of the next are in scripts beside
    it, up to `BESIDE_BYTES`; those of the rest are shown from ``images/``, where a page may not read their pixels. One
    image is in memory at a time, beside the page itself.

    Returns:
        The file.

    Raises:
        UserError: if the folder holds no run.
        OSError: if it cannot be written.
    """
    run = read_run(folder)
    unwanted = {f"{number}.js" for number in range(MOST_BESIDE)}
    sections: list[str] = []
    inside, readable, size = 0, 0, 0
    for number, image in enumerate(run.images[:MOST_BESIDE]):
        pictures = list(image.pictures(run.session.samples_per_image))
        size += sum(picture.path.stat().st_size for picture in pictures)
        source: Source = partial(_url, folder)
        if size <= INSIDE_BYTES and number < MOST_INSIDE:
            inside, readable, source = number + 1, number + 1, _inline
        elif pictures and size <= INSIDE_BYTES + BESIDE_BYTES:
            readable = number + 1
            text = as_json(_section(run, number, image, pictures, _inline))
            write_whole(folder / BESIDE / f"{number}.js", f"beside[{number}]={text}\n".encode())
            unwanted.remove(f"{number}.js")
        if number < MOST_INSIDE:
            sections.append(_section(run, number, image, pictures, source))
    write_whole(folder / NAME, _page(run, sections, inside, readable).encode("utf-8", "replace"))
    for old in (folder / BESIDE).glob("*.js"):  # of an earlier page, which has read them until now
        if old.name in unwanted:
            old.unlink()
    return folder / NAME


def leave_page(folder: Path) -> None:
    """The page of a run at its end; that it cannot be written is a warning, since the run is complete without it."""
    try:
        say(f"page: {write_page(folder)}")
    except Exception as error:
        log.warning("%s could not be written: %s: %s", folder / NAME, type(error).__name__, error)


def report(arguments: Sequence[str]) -> None:
    """The command ``posterior-sampling report FOLDER``: write the page anew, also of a run that was killed.

    All folders are tried. The first mistake is raised at the end, and those after it are warnings.

    Raises:
        UserError: if a folder holds no run, or none is named.
        OSError: if a page cannot be written.
    """
    parser = Parser(prog="posterior-sampling report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path, help="of a run: results/NAME")
    mistakes: list[UserError | OSError] = []
    for folder in parser.parse_args(arguments).folders:
        try:
            print(f"page: {write_page(folder)}", file=sys.stdout)
        except (UserError, OSError) as error:
            mistakes.append(error)
    for mistake in mistakes[1:]:
        log.warning("%s", in_words(mistake))
    if mistakes:
        raise mistakes[0]


def _page(run: Run, sections: Sequence[str], inside: int, readable: int) -> str:
    """The template, filled."""
    style, script = ((TEMPLATE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    bar = std_colours(STD_RANGE * np.linspace(0, 1, 256) ** 2)
    thumbnails = list(_thumbnails(run))
    index = {
        "samples": run.session.samples_per_image,
        "inside": inside,
        "readable": readable,
        "thumbnails": thumbnails,
        "main": MAIN,
        "pictures": list(picture_labels(run.session.samples_per_image)),
        "beside": BESIDE,
        "range": STD_RANGE,
        "window": STD_SMOOTHING,
        "metrics": [{"name": n, "label": HEADINGS.get(n, n), "worst": _worst(run, n)} for n in run.metrics],
        "ids": [image.id for image in run.images],
        "measured": [image.num_measured for image in run.images],
        "values": {name: [_rounded(image.value(name)) for image in run.images] for name in run.metrics},
    }
    shown = len(sections)
    more = f"<p>{len(run.images) - shown} more images are in the folder images/.</p>" if shown < len(run.images) else ""
    filled = {
        "policy": f"default-src 'none'; img-src data: file: 'self'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}' 'strict-dynamic'; base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "name": html.escape(run.folder.resolve().name),
        "sentence": html.escape(run.sentence()),
        "notice": "" if run.notice is None else f'<p class="notice" role="status">{html.escape(run.notice)}</p>',
        "index": as_json(index),
        "bar": _data("png", png(np.broadcast_to(bar, (8, 256, 3)).copy())),
        "ticks": _ticks(),
        "sections": "\n".join(sections) + more,
        "means": _means(run),
        "coverage": _coverage(run),
        "failed": _failed(run.failed),
        "settings": html.escape(run.settings) or "config.yaml is not here.",
        "versions": html.escape(", ".join(f"{name} {number}" for name, number in run.session.versions.items())),
        "version": html.escape(posterior.__version__),
    }
    return Template((TEMPLATE / "page.html").read_text(encoding="utf-8")).substitute(filled)


def _ticks() -> str:
    """What the colours of standard deviations mean, under their bar."""
    places = [(tick, (tick / STD_RANGE) ** 0.5) for tick in STD_TICKS]
    texts = (
        f'<text x="{at:.1%}" y="12" text-anchor="{("start", "middle", "end")[round(2 * at)]}">{tick:g}</text>'
        for tick, at in places
    )
    return f"<svg>{''.join(texts)}</svg>"


def _worst(run: Run, metric: str) -> str | float | None:
    """As in `WORST`; None: nobody has said."""
    if metric == "coverage":
        return nominal_coverage(run.session.samples_per_image)
    return "high" if metric.startswith("lpips") else WORST.get(metric)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _inline(picture: Picture) -> str:
    return _data("png", picture.path.read_bytes())


def _url(folder: Path, picture: Picture) -> str:
    return quote(picture.path.relative_to(folder).as_posix())


def _rounded(value: tuple[float, float, float] | None) -> list[float] | float | None:
    """Four digits; one number, if all three are it."""
    if value is None:
        return None
    found = [float(f"{number:.4g}") for number in value]
    if not all(map(math.isfinite, found)):
        return None
    return found if found[1] < found[2] else found[0]


def _thumbnails(run: Run) -> Iterable[str]:
    """Small pictures of the first images, as data; they end before all that must be decoded is much."""
    pixels = 0
    for image in run.images[:MOST_INSIDE]:
        path = next((p for p in (image.folder / MAIN, image.folder / "measurement.png") if p.is_file()), None)
        if path is None:
            yield ""
            continue
        try:
            with PIL.Image.open(path) as picture:
                pixels += picture.width * picture.height
                if pixels > MOST_PIXELS:
                    return
                yield _thumbnail(picture, path)
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):  # it is damaged, or no picture
            yield ""


def _thumbnail(picture: PIL.Image.Image, path: Path) -> str:
    if max(picture.size) <= SIDE:
        picture.verify()
        return _data("png", path.read_bytes())
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(buffer, format="JPEG", quality=80)
    return _data("jpeg", buffer.getvalue())


def _section(run: Run, number: int, image: Image, pictures: Iterable[Picture], source: Source) -> str:
    """An image's pictures and numbers: what a page without scripts shows, and what its script reads."""
    name = html.escape(image.id)
    figures = "".join(
        f'<figure><img loading="lazy" data-name="{picture.name}" alt="{html.escape(picture.label)} of {name}" '
        f'src="{source(picture)}"><figcaption>{html.escape(picture.label)}</figcaption></figure>'
        for picture in pictures
    )
    return (
        f'<section class="image" id="i{number}"><h3>{name}</h3><div class="pictures">{figures}</div>'
        f"{_numbers(run, image)}</section>"
    )


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
    return table(rows, "Means over images") if run.summary else "<p>No image is complete.</p>"


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
    return f"<section><h2>Failed: {len(failed)}</h2>{table(rows, 'Images that failed')}</section>"


def table(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Head and rows of text, the first cell of each a heading; the caption is for those who listen."""
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in rows[0])
    lines = [f"<tr>{head}</tr>"]
    for row in rows[1:]:
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in row[1:])
        lines.append(f'<tr><th scope="row">{html.escape(row[0])}</th>{cells}</tr>')
    told = html.escape(caption)
    return f'<div class="wide" tabindex="0" role="region" aria-label="{told}"><table>{"".join(lines)}</table></div>'
