"""The part of a page that leafs through images: of one run, or of several runs of the same images."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
import PIL.Image

from posterior.files import write_whole
from posterior.metrics.distribution import nominal_coverage
from posterior.results.pictures import STD_RANGE, STD_SMOOTHING, STD_TICKS, png, std_colours
from posterior.results.report_folder import Picture
from posterior.results.report_shell import TEMPLATE, as_json, data_url
from posterior.results.report_spread import read_levels, spread_figure
from posterior.results.table import HEADINGS

BESIDE = "report_files"
MOST_INSIDE = 200
"""Images whose small picture and plain section are in the page."""
MOST_BESIDE = 1000
"""Images whose pictures are in scripts beside it."""
MOST_PIXELS = 60_000_000
"""Of the pictures that thumbnails are made of: what takes one or two seconds."""
SPREAD_VALUES = 120_000_000
"""Of samples and truths whose spread is drawn, of the first images: what takes about five seconds."""
INSIDE_BYTES = 24_000_000
"""Of PNG files that the page holds: 32 MB as text."""
BESIDE_BYTES = 256_000_000
"""Of PNG files that are written once more beside the page, so that it can read their pixels."""
SIDE = 96
"""Of a thumbnail, in pixels."""
COLOURS = 6
"""Of methods, before they come again."""
WORST: dict[str, str | float] = {"psnr": "low", "ssim": "low", "l2": "high", "nmse": "high", "residual": 1.0}
"""Which value of a metric is bad: the lowest, the highest, the one furthest from a number. Of others see `worst`."""

Source = Callable[[Picture], str]
Value = list[float] | float | None
"""Mean, least and greatest over an image's samples; one number if all three are it; None: not known."""


@dataclass(frozen=True)
class Shown:
    """An image.

    Args:
        id: of the image.
        group: number of the one that it belongs to.
        pictures: those that are there; ``sample_000``, ... of one run, ``method_0``, ... of several, and
            ``method_0_mean``, which belong to one of them.
        numbers: HTML of its metrics.
        thumbs: pictures that may stand for it; the first that is there does.
        num_measured: real numbers in y, if it is known.
    """

    id: str
    group: int
    pictures: Callable[[], list[Picture]]
    numbers: Callable[[], str]
    thumbs: Sequence[Path]
    num_measured: int | None


@dataclass(frozen=True)
class Group:
    """Images that are compared with one another, such as those of a task.

    Args:
        name: for people; empty: there is one group alone.
        main: what stands before and behind an image's id in the place of the picture that stands for it.
        files: picture -> the same; what images without a section are read from.
        samples: K of each method, None where it has no run.
        base: number of the method that the others are held against.
    """

    name: str
    main: tuple[str, str]
    files: Mapping[str, tuple[str, str]]
    samples: Sequence[int | None]
    base: int = 0

    @property
    def title(self) -> str:
        """What stands before an id."""
        return f"{self.name}: " if self.name else ""


@dataclass(frozen=True)
class Explorer:
    """What the explorer shows.

    Args:
        samples: K of a run; of several runs the largest.
        images: in the order of the strip.
        groups: at least one.
        methods: names of the runs; of one run one, which may be empty.
        metrics: names.
        values: for each method, metric -> a value an image.
    """

    samples: int
    images: Sequence[Shown]
    groups: Sequence[Group]
    methods: Sequence[str]
    metrics: Sequence[str]
    values: Sequence[Mapping[str, Sequence[Value]]]

    def written(self, folder: Path) -> Written:
        """What goes into a page of a folder; what stands beside the page is written.

        The pictures of the first images are inside, up to `INSIDE_BYTES`; those of the next are in scripts beside the
        page, up to `BESIDE_BYTES`; those of the rest are shown as files, whose pixels a page may not read. One image is
        in memory at a time, beside the page itself.

        Raises:
            OSError: if it cannot be written.
        """
        sections: list[str] = []
        beside: set[str] = set()
        inside, readable, size, left = 0, 0, 0, SPREAD_VALUES
        for number, image in enumerate(self.images[:MOST_BESIDE]):
            pictures = image.pictures()
            size += sum(picture.path.stat().st_size for picture in pictures)
            levels = read_levels(pictures, left)
            left -= levels.count if levels else 0
            drawn = spread_figure(levels) if levels else ""
            source: Source = partial(_url, folder)
            if size <= INSIDE_BYTES and number < MOST_INSIDE:
                inside, readable, source = number + 1, number + 1, _inline
            elif pictures and size <= INSIDE_BYTES + BESIDE_BYTES:
                readable = number + 1
                text = as_json(self._section(number, image, pictures, drawn, _inline))
                write_whole(folder / BESIDE / f"{number}.js", f"beside[{number}]={text}\n".encode())
                beside.add(f"{number}.js")
            if number < MOST_INSIDE:
                sections.append(self._section(number, image, pictures, drawn, source))
        return Written(self._controls(), self._plain(sections), self._index(inside, readable), beside)

    def _controls(self) -> str:
        several = len(self.methods) > 1
        keys = "".join(
            f'<span class="key c{m % COLOURS}">{html.escape(name)}</span>' for m, name in enumerate(self.methods)
        )
        return Template((TEMPLATE / "explorer.html").read_text(encoding="utf-8")).substitute(
            flipped="method" if several else "sample", marks=f" Methods: {keys}" if several else ""
        )

    def _plain(self, sections: Sequence[str]) -> str:
        bar = std_colours(STD_RANGE * np.linspace(0, 1, 256) ** 2)
        content = data_url("png", png(np.broadcast_to(bar, (8, 256, 3)).copy()))
        left = len(self.images) - len(sections)
        more = f"<p>{left} more images are in the folder images/.</p>" if left else ""
        return (
            f'<section id="plain"><h2>Images</h2>\n<div class="scale quiet" id="scale"><img src="{content}" alt="">'
            f"{_ticks()}<span>standard deviation, values in [&minus;1,&nbsp;1]</span></div>\n"
            + "\n".join(sections)
            + f"{more}\n</section>"
        )

    def _section(self, number: int, image: Shown, pictures: Iterable[Picture], drawn: str, source: Source) -> str:
        """An image's pictures, numbers and drawings: what a page without scripts shows, and what its script reads."""
        name = html.escape(self.groups[image.group].title + image.id)
        figures = "".join(
            f'<figure><img loading="lazy" data-name="{picture.name}" alt="{html.escape(picture.label)} of {name}" '
            f'src="{source(picture)}"><figcaption>{html.escape(picture.label)}</figcaption></figure>'
            for picture in pictures
        )
        return (
            f'<section class="image" id="i{number}"><h3>{name}</h3><div class="pictures">{figures}</div>'
            f"{image.numbers()}{drawn}</section>"
        )

    def _index(self, inside: int, readable: int) -> dict[str, Any]:
        return {
            "inside": inside,
            "readable": readable,
            "thumbnails": list(_thumbnails(self.images)),
            "beside": BESIDE,
            "range": STD_RANGE,
            "window": STD_SMOOTHING,
            "groups": [
                {"name": one.name, "title": one.title, "main": one.main, "files": one.files}
                | {"samples": one.samples, "base": one.base}
                for one in self.groups
            ],
            "methods": self.methods,
            "metrics": [{"name": n, "label": HEADINGS.get(n, n), "worst": self.worst(n)} for n in self.metrics],
            "ids": [image.id for image in self.images],
            "group": [image.group for image in self.images],
            "measured": [image.num_measured for image in self.images],
            "values": self.values,
        }

    def worst(self, metric: str) -> str | float | None:
        """As in `WORST`; None: nobody has said."""
        if metric == "coverage":
            return nominal_coverage(self.samples)
        return "high" if metric.startswith("lpips") else WORST.get(metric)


@dataclass(frozen=True)
class Written:
    """What goes into a page: the explorer, the plain sections, the index; names of the scripts beside the page."""

    controls: str
    plain: str
    index: dict[str, Any]
    beside: set[str]

    def forget_others(self, folder: Path) -> None:
        """Remove scripts of an earlier page, which has read them until now."""
        unwanted = {f"{number}.js" for number in range(MOST_BESIDE)} - self.beside
        for old in (folder / BESIDE).glob("*.js"):
            if old.name in unwanted:
                old.unlink()


def _ticks() -> str:
    """What the colours of standard deviations mean, under their bar."""
    places = [(tick, (tick / STD_RANGE) ** 0.5) for tick in STD_TICKS]
    texts = (
        f'<text x="{at:.1%}" y="12" text-anchor="{("start", "middle", "end")[round(2 * at)]}">{tick:g}</text>'
        for tick, at in places
    )
    return f"<svg>{''.join(texts)}</svg>"


def _inline(picture: Picture) -> str:
    return data_url("png", picture.path.read_bytes())


def _url(folder: Path, picture: Picture) -> str:
    return quote(Path(os.path.relpath(picture.path, folder)).as_posix())


def _thumbnails(images: Sequence[Shown]) -> Iterator[str]:
    """Small pictures of the first images, as data; they end before all that must be decoded is much."""
    pixels = 0
    for image in images[:MOST_INSIDE]:
        path = next((path for path in image.thumbs if path.is_file()), None)
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
        return data_url("png", path.read_bytes())
    small, buffer = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(buffer, format="JPEG", quality=80)
    return data_url("jpeg", buffer.getvalue())
