"""Samples of one measurement sorted by class, beside bars of the classes' exact shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.judge.problems import Case
from benchmarks.tools.html import figure_png
from posterior.images import to_pixels
from posterior.measurement import Measurement
from posterior.metrics.classifier import CLASSES

COLUMNS, FRAME = 8, 2
"""Of a sheet: images in a row, pixels of the frame around each."""
LEAST = 0.04
"""Share from which a bar's part has its class written on it."""


@dataclass(frozen=True)
class Panel:
    """A sampler's samples of the measurement: its name, (N, C, H, W), and their classes, (N,)."""

    name: str
    samples: Tensor
    classes: Tensor


def picture(title: str, case: Case, shares: Tensor, panels: Sequence[Panel]) -> bytes:
    """A PNG: truth and measurement, then for each panel its samples, the exact shares and its own.

    Args:
        title: over all.
        case: whose samples they are.
        shares: exact, of the classes, (C,).
        panels: at least one.
    """
    figure = Figure(figsize=(1.3 + 4.1 * len(panels), 3.9), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    widths = [1.2, *([3.4, 0.35, 0.35] * len(panels))]
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths)
    for row, (name, image) in enumerate((("truth", case.truth), ("what is seen", seen(case.measurement)))):
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(to_pixels(image[0]))
        axes.set(title=name, xticks=[], yticks=[])
    for number, panel in enumerate(panels):
        first, own = figure.add_subplot(grid[:, 3 * number + 1]), panel.classes.bincount(minlength=len(shares))
        first.imshow(sorted_sheet(panel.samples, panel.classes), interpolation="nearest")
        first.set_title(panel.name)
        first.axis("off")
        for place, (name, part) in enumerate((("exact", shares), ("here", own / len(panel.classes)))):
            bar(figure.add_subplot(grid[:, 3 * number + 2 + place]), name, part)
    return figure_png(figure, dpi=80)


def seen(measurement: Measurement) -> Tensor:
    """y as a picture (1, C, H, W); numbers that are none, as one row."""
    view = measurement.operator.view(measurement.y)
    return view if view.shape[1] in (1, 3) else measurement.y.reshape(1, 1, 1, -1)


def colours(classes: Tensor) -> np.ndarray:
    """A colour for each class (N,), (N, 3) in [0, 1]; those on their head are paler."""
    found = np.asarray(colormaps["tab10"](classes.numpy() % CLASSES))[:, :3]
    return np.where((classes.numpy() >= CLASSES)[:, None], (1 + found) / 2, found)


def sorted_sheet(samples: Tensor, classes: Tensor) -> np.ndarray:
    """Samples (N, C, H, W) in order of their classes, each in a frame of its class's colour, (H', W', 3) uint8."""
    order = classes.argsort(stable=True)
    frames = (255 * colours(classes[order])).round().astype(np.uint8)
    height, width = (side + 2 * FRAME for side in samples.shape[-2:])
    sheet = np.full((-(-len(samples) // COLUMNS) * height, COLUMNS * width, 3), 255, dtype=np.uint8)
    for place, (image, frame) in enumerate(zip(samples[order], frames, strict=True)):
        top, left = place // COLUMNS * height, place % COLUMNS * width
        sheet[top : top + height, left : left + width] = frame
        sheet[top + FRAME : top + height - FRAME, left + FRAME : left + width - FRAME] = to_pixels(image)
    return sheet


def bar(axes: Axes, name: str, shares: Tensor) -> None:
    """Shares of classes (C,) one below the other, the first at the top."""
    bottom = 1.0
    for label, share in enumerate(shares.tolist()):
        bottom -= share
        axes.bar(0, share, 1, bottom, color=colours(shares.new_tensor([label]).long()))
        if share >= LEAST:
            axes.text(0, bottom + share / 2, str(label % CLASSES), ha="center", va="center", fontsize="small")
    axes.set(title=name, xlim=(-0.5, 0.5), ylim=(0, 1), xticks=[], yticks=[])
    axes.title.set_fontsize("small")
