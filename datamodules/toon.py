"""Toon faces: rendered cartoon heads, deterministic by index, at any size.

The artwork is "ToonHead" by Johan Melin, licensed CC BY 4.0; `credit` returns the line that must accompany it.
It is drawn by `dicebear-core` and `dicebear-styles` (MIT) and rasterised by `resvg-py`: the extra ``faces``.
"""

from __future__ import annotations

import colorsys
import functools
import io
import json
from importlib import resources
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.drawn import DrawnData
from posterior.errors import UserError
from posterior.random import stream

RENDER_SIDE = 128
BACKGROUNDS = ("#b6e3f4", "#c0aede", "#d1d4f9", "#ffd5dc", "#ffdfbf", "#d9e8c8", "#e8e4d8", "#9fb8c8")
JITTERED = {"skin": 0.05, "hair": 0.08}
"""Palettes whose colours are varied, and by how much (standard deviation of saturation and value)."""


@functools.cache
def _style() -> Any:
    try:
        import resvg_py  # noqa: F401
        from dicebear import Style
    except ImportError as error:
        raise UserError(
            "toon faces need dicebear-core, dicebear-styles and resvg-py: pip install 'posterior-sampling[faces]'"
        ) from error
    text = resources.files("dicebear_styles").joinpath("toon-head.json").read_text("utf-8")
    return json.loads(text), Style(json.loads(text))


def require_renderer() -> None:
    """Raises:
    UserError: if the extra ``faces`` is not installed.
    """
    _style()


def credit() -> str:
    """The credit line of the artwork's licence."""
    return str(_style()[0]["meta"]["license"]["text"])


def _jitter(colour: str, amount: float, generator: torch.Generator) -> str:
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    shift = (amount * torch.randn(3, generator=generator)).tolist()
    hue = (hue + 0.1 * shift[0]) % 1
    saturation, value = (min(max(v + s, 0.0), 1.0) for v, s in zip((saturation, value), shift[1:], strict=True))
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hsv_to_rgb(hue, saturation, value))


def toon_tones(index: int) -> dict[str, str]:
    """The palettes' colours of skin, hair and background of face number ``index``, without drawing it."""
    return _colours(index)[0]


def _colours(index: int) -> tuple[dict[str, str], dict[str, Any]]:
    """The tones, and the options that the face is drawn with."""
    definition, _ = _style()
    generator = stream(0, f"toon/{index}", -1, "render")

    def pick(choices: tuple[str, ...] | list[str]) -> str:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    background = pick(BACKGROUNDS)
    tones = {"background": background}
    options = {
        "seed": f"toon-{index}",
        "backgroundColor": [_jitter(background, 0.05, generator)],
        "scale": 1.15,
        "translateY": 4,
    }
    for name, amount in JITTERED.items():
        tones[name] = pick(definition["colors"][name]["values"])
        options[f"{name}Color"] = [_jitter(tones[name], amount, generator)]
    return tones, options


def render_toon_face(index: int, size: int) -> tuple[Tensor, dict[str, Any]]:
    """Face number ``index``, and the parts and colours it was drawn with.

    Rendered at a multiple of ``size`` of at least 128 pixels and box-filtered down.

    Args:
        index: >= 0; names the face, the same on every machine.
        size: side in pixels, >= 8.

    Returns:
        (3, size, size) in [-1, 1], and the resolved options (a missing key: the part is hidden); "tones" are the
        palettes' colours of skin, hair and background before they were varied.
    """
    import resvg_py
    from dicebear import Avatar

    _, style = _style()
    tones, options = _colours(index)
    drawn = Avatar(style, options).to_json()
    factor = -(-RENDER_SIDE // size)
    png = resvg_py.svg_to_bytes(
        svg_string=drawn["svg"], width=factor * size, height=factor * size, skip_system_fonts=True
    )
    pixels = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    image = torch.from_numpy(pixels).permute(2, 0, 1).float()[None]
    return torch.nn.functional.avg_pool2d(image, factor)[0] / 127.5 - 1, drawn["options"] | {"tones": tones}


class ToonFaces(DrawnData):
    """Toon faces number ``start`` to ``start + count - 1``, rendered when they are asked for.

    Args:
        operator: family of measurement operators.
        likelihood: noise law.
        size: side in pixels, >= 8.
        start: first face, >= 0.
        count: number of faces, >= 1.
        seed: the run's seed, for operators, noise and samples.
        batch_size: images per batch and device.
        num_workers: processes that render.
        limit: only the first so many images, for smoke runs.

    Raises:
        UserError: if a number is out of range or the extra ``faces`` is not installed.
    """

    prefix = "toon"

    def list_ids(self) -> list[str]:
        require_renderer()
        return super().list_ids()

    def draw(self, number: int) -> Tensor:
        return render_toon_face(number, self.size)[0]
