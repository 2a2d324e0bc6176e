"""What the samples' spread tells of their error, drawn for one image from its pictures; no script, no network."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from posterior.metrics.samples import at_shares, sparsification, sparsification_area, spread_skill
from posterior.results.report_folder import Picture

WIDE, HIGH, LEFT, RIGHT, HEAD, FOOT = 280, 200, 60, 24, 24, 40
"""Of a drawing, in its own pixels: its sides, and the room round what is drawn."""
SHARES = torch.arange(1, 51) / 50
"""Where a sparsification curve has its points."""


@dataclass(frozen=True)
class Levels:
    """What the pictures of an image say of its values.

    Args:
        samples: (K, 1, C, H, W), on the scale of the images, in steps of 8 bits; K at least 2.
        truth: (1, C, H, W).
        kind: of pictures, in words.
    """

    samples: Tensor
    truth: Tensor
    kind: str

    @property
    def count(self) -> int:
        """Of values that were read."""
        return self.samples.numel() + self.truth.numel()


def read_levels(pictures: Sequence[Picture], most: int) -> Levels | None:
    """The truth and the samples among an image's pictures.

    Of complex images they are magnitudes. A grey picture has one channel.

    Args:
        pictures: all that are there.
        most: pixels of truth and samples together; more are not read.

    Returns:
        None where there is no truth, are fewer than two samples, or one of them cannot be read or is too large.
    """
    paths = {picture.name: picture.path for picture in pictures}
    names = [name for name in paths if re.fullmatch(r"sample_\d+", name)]
    if "truth" not in paths or len(names) < 2:
        return None
    try:
        own = [paths[name] for name in ("truth", *names)]
        sizes = {_size(path) for path in own}
        if len(sizes) > 1 or len(own) * math.prod(sizes.pop()) > most:
            return None
        levels = np.stack([_rgb(path) for path in own])
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):  # one is damaged, or no picture
        return None
    if (levels == levels[..., :1]).all():
        levels = levels[..., :1]
    complex_ = "truth_phase" in paths
    values = torch.from_numpy(levels).movedim(-1, 1)[:, None].float() / (255 if complex_ else 127.5)
    return Levels(values[1:], values[0], "magnitudes" if complex_ else "pictures")


def _size(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as picture:
        return picture.size


def _rgb(path: Path) -> np.ndarray:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def spread_figure(levels: Levels) -> str:
    """Two drawings of an image, and what they are in words: sparsification, and the error by the spread.

    Empty where the mean of the samples is the truth: there is no error to tell.
    """
    kept, best = sparsification(levels.samples, levels.truth)
    if not kept[0, -1]:
        return ""
    area, count = float(sparsification_area(kept, best)), len(levels.samples)
    said, made = (values[0].tolist() for values in spread_skill(levels.samples, levels.truth))
    caption = (
        f"<b>Does the spread say where the error is?</b> First: mean error of the mean of {count}, of the values of "
        "least spread, by their share. Dotted: of those of least error. "
        f"The area between the lines (AUSE) is {area:.3g}; it is 0 if the spread orders values as their errors do. "
        f"Second: values in {len(said)} bins of equal count by their spread, √(1 + 1/{count}) times the standard "
        "deviation; root mean squares. Exact samples are near the dashed diagonal, those above it are too sure. "
        f"All from 8-bit {levels.kind}."
    )
    found, least = (at_shares(curve / kept[:, -1:], SHARES)[0].tolist() for curve in (kept, best))
    drawn = _sparsification(found, least, area) + _spread_skill(said, made)
    return f'<figure class="spread">{drawn}<figcaption>{caption}</figcaption></figure>'


def _sparsification(found: Sequence[float], least: Sequence[float], area: float) -> str:
    shares = SHARES.tolist()
    half = shares.index(0.5)
    scale = _Scale(1.0, max(1.0, *found))
    lines = f'<path class="least" d="{scale.path(shares, least)}"/><path class="kept" d="{scale.path(shares, found)}"/>'
    told = (
        f"Sparsification: the half of the values with the least spread has {found[half]:.3g} of the mean error of all, "
        f"the half with the least error {least[half]:.3g}. Area between the lines, AUSE: {area:.3g}."
    )
    across, up = {0.0: "0", 0.5: "50 %", 1.0: "100 %"}, {0.0: "0", 0.5: "0.5", 1.0: "1"}
    return scale.drawing(lines, "share, least spread first", "error, over that of all", across, up, told)


def _spread_skill(said: Sequence[float], made: Sequence[float]) -> str:
    top = max(*said, *made)
    scale = _Scale(1.06 * top, 1.06 * top)
    dots = "".join(f'<circle cx="{scale.x(x)}" cy="{scale.y(y)}" r="3.5"/>' for x, y in zip(said, made, strict=True))
    diagonal = f'<path class="equal" d="{scale.path([0, top], [0, top])}"/>'
    told = (
        f"Error by spread, {len(said)} bins of values: where the spread is least, {said[0]:.3g}, the error of the mean "
        f"is {made[0]:.3g}; where it is greatest, {said[-1]:.3g}, the error is {made[-1]:.3g}."
    )
    ticks = {value: f"{value:.2g}" for value in (0.0, top / 2, top)}
    return scale.drawing(diagonal + dots, "spread of the samples", "error of the mean", ticks, ticks, told)


@dataclass(frozen=True)
class _Scale:
    """From values to places in a drawing.

    Args:
        right: the value at its right end; 0 is at the left one.
        top: at the upper end; 0 is at the lower one.
    """

    right: float
    top: float

    def x(self, value: float) -> str:
        return f"{LEFT + (WIDE - LEFT - RIGHT) * value / self.right:.1f}"

    def y(self, value: float) -> str:
        return f"{HIGH - FOOT - (HIGH - FOOT - HEAD) * value / self.top:.1f}"

    def path(self, across: Sequence[float], up: Sequence[float]) -> str:
        return "M" + "L".join(f"{self.x(x)} {self.y(y)}" for x, y in zip(across, up, strict=True))

    def drawing(
        self, marks: str, along: str, name: str, across: Mapping[float, str], up: Mapping[float, str], told: str
    ) -> str:
        """An SVG: marks, the two axes with their names and ticks (value -> text), and all of it in words."""
        base = HIGH - FOOT
        texts = [(str(LEFT), "14", "start", name), (str((LEFT + WIDE - RIGHT) // 2), str(HIGH - 6), "middle", along)]
        texts += [(self.x(value), str(base + 16), "middle", text) for value, text in across.items()]
        texts += [(str(LEFT - 6), f"{float(self.y(value)) + 4:.1f}", "end", text) for value, text in up.items()]
        words = "".join(f'<text x="{x}" y="{y}" text-anchor="{at}">{text}</text>' for x, y, at, text in texts)
        axes = f'<path class="axes" d="M{LEFT} {HEAD}V{base}H{WIDE - RIGHT}"/>'
        opened = f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{html.escape(told)}">'
        return f"{opened}{axes}{marks}{words}</svg>"
