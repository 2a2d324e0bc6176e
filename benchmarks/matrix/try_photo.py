"""One photograph, one command: measured here or by its owner, restored, shown."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import lightning_cli
from benchmarks.tools.building import built, settings_at
from posterior.checks import MOST_SAMPLES, MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import from_pixels, resized
from posterior.listing import is_run
from posterior.operators import MaskInpainting
from posterior.operators.base import OperatorFamily
from posterior.priors import Prior
from posterior.reading import read_pixels
from posterior.results.pictures import png
from posterior.settings import conformed
from posterior.shell import Parser, in_words
from posterior.terminal import say_result

TASKS = ("inpainting", "super_resolution", "deblurring", "denoising")
SIGMA_Y = 0.05
SCALE = 4
SIDE = 256

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the photo."""
Inputs = tuple[dict[str, Any], dict[Path, bytes]]
"""Settings of a DataModule, and the files that it reads, which are still to be written."""


def try_command(arguments: Sequence[str]) -> None:
    """Read the command line, restore a photograph, say where to look."""
    parser = Parser(
        prog="posterior-sampling try",
        description="Restore one photograph: it is measured here, or, with --measured, it is the measurement.",
        allow_abbrev=False,
    )
    parser.add_argument("photo", type=Path, help="a PNG or JPEG file")
    parser.add_argument("--task", choices=TASKS, default="super_resolution", help="(super_resolution)")
    parser.add_argument("--measured", action="store_true", help="the photo is what was measured; needs --sigma_y")
    parser.add_argument("--mask", type=Path, help="of inpainting: a picture or .npy, white where pixels are known")
    parser.add_argument("--scale", type=int, help=f"of super_resolution ({SCALE})")
    parser.add_argument("--kernel", type=Path, help="of deblurring: a .npy array (k, k), k odd")
    parser.add_argument(
        "--sigma_y", type=float, help=f"standard deviation of the noise, of numbers in [-1, 1] ({SIGMA_Y}: 6 of 255)"
    )
    parser.add_argument("--prior", default="prior/photos", help="a file of settings, or a shipped name (prior/photos)")
    parser.add_argument("--sampler", default="sampler/conditional", help="the same (sampler/conditional)")
    parser.add_argument("--num_samples", type=int, default=8, help="samples (8)")
    parser.add_argument(
        "--side", type=int, help=f"the longer side is reduced to this, in pixels, unless the prior has a size ({SIDE})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of mask, noise and samples (0)")
    parser.add_argument("--output", type=Path, help="the run's folder (results/try/PHOTO_TASK)")
    parser.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    options = parser.parse_args(list(arguments))
    whole("try", "num_samples", options.num_samples, 1, MOST_SAMPLES)
    whole("try", "seed", options.seed, 0, 2**63)
    if options.sigma_y is not None:
        real("try", "sigma_y", options.sigma_y, above=0)
    check_belongs(options)
    folder = options.output or Path("results/try") / f"{options.photo.stem}_{options.task}"
    lightning_cli.quiet()
    prior = settings_at(options.prior, "--prior")
    picture = read_pixels(options.photo, "photo")
    size = sides_of(prior, options.allow_local)
    found = measured_data(picture, options, folder) if options.measured else photo_data(picture, size, options, folder)
    data, files = found
    settings = {
        "model": {
            "prior": prior,
            "sampler": settings_at(options.sampler, "--sampler"),
            "num_samples": options.num_samples,
        },
        "data": data,
        "trainer": {"devices": 1},
        "output": {"dir": str(folder)},
    }
    keep(files, folder)
    try:
        lightning_cli.run("predict", settings, lightning_cli.RunStarted(), options.allow_local)
    except (UserError, OSError):
        raise
    except Exception as error:  # jsonargparse wraps what a constructor raises
        raise UserError(in_words(error)) from error
    page = folder / "report.html"
    if page.is_file():
        say_result(f"look at {page}")


def check_belongs(options: Any) -> None:
    """Refuse what has no effect, or makes no sense; fill in the defaults of ``scale`` and ``side``.

    Raises:
        UserError: naming the option.
    """
    for name, task in {"mask": "inpainting", "kernel": "deblurring", "scale": "super_resolution"}.items():
        if getattr(options, name) is not None and options.task != task:
            raise UserError(f"--{name}: belongs to --task {task}, not to {options.task}")
    if options.scale is None:
        options.scale = SCALE if options.task == "super_resolution" else 1
    else:
        whole("try", "scale", options.scale, 2, MOST_SIDE)
    if options.side is not None:
        whole("try", "side", options.side, 2, MOST_SIDE)
        if options.measured:
            raise UserError("--side: has no effect on a photo that is the measurement, which is not reduced")


def keep(files: dict[Path, bytes], folder: Path) -> None:
    """Write the files that a run reads; their names have digests, so that none of another run is overwritten.

    Raises:
        UserError: if the folder holds a run of others; nothing is written then.
        OSError: if one cannot be written.
    """
    if is_run(folder) and not all(file.is_file() for file in files):
        raise UserError(f"{folder} holds a run of another photo, mask or part of a photo: choose another --output")
    for file, content in files.items():
        write_whole(file, content)


def digest_of(*arrays: np.ndarray) -> str:
    """Eight hexadecimal digits of shapes and numbers."""
    digest = hashlib.blake2b(digest_size=4)
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def sides_of(prior: Any, allow_local: bool) -> tuple[int, int] | None:
    """Height and width of the images that a prior was made for, None if it takes any.

    Args:
        prior: its settings.
        allow_local: whether they may name classes that are not installed.

    Raises:
        UserError: if they are not those of a prior.
    """
    kinds = {"prior": Prior}
    made: Prior = built(conformed({"prior": prior}, kinds, allow_local), kinds, "--prior")[0]
    return made.size


def photo_data(picture: np.ndarray, size: tuple[int, int] | None, options: Any, folder: Path) -> Inputs:
    """Inputs of a DataModule that measures the photo, of which a part is taken, or which is reduced, first.

    Raises:
        UserError: if the operator does not fit it, or ``side`` has no effect.
    """
    if size is not None and options.side is not None:
        raise UserError(f"--side: has no effect, as the prior is for images of {size[0]}x{size[1]}")
    whole_size = (picture.shape[1], picture.shape[0])
    box, (width, height) = part(whole_size, size, options.side or SIDE, options.scale)
    operator = checked_operator(options, None if options.mask else (3, height, width))
    pixels = resized(picture, (width, height), box)
    mask = [] if options.mask is None else [fitted_mask(options.mask, whole_size, box, (width, height))]
    digest = digest_of(pixels, *mask)
    file = folder / "photo" / digest / f"{options.photo.stem}.png"
    files = {file: png(pixels)}
    for values in mask:
        mask_file = folder / "photo" / digest / "mask" / "mask.png"
        files[mask_file] = png(values)
        operator["init_args"]["mask"] = str(mask_file)
    if (width, height) != whole_size:
        larger = width > box[2] - box[0]
        told = f"enlarged to {height}x{width}, and restored" if larger else f"{height}x{width} of it is restored"
        say_result(f"{options.photo.name} is {whole_size[1]}x{whole_size[0]}: {told}")
    return data_settings("ImageFolder", file, operator, options), files


def fitted_mask(mask: Path, photo: tuple[int, int], box: Box, size: tuple[int, int]) -> np.ndarray:
    """The part of a mask that goes with a part of the photo, (H, W) of 0 and 255.

    Raises:
        UserError: if it is no mask, or not of the photo's size, or that part of it keeps nothing or everything.
    """
    values = MaskInpainting(mask).mask
    height, width = values.shape
    if (width, height) != photo:
        raise UserError(f"--mask: {mask} is {height}x{width}, the photo {photo[1]}x{photo[0]}")
    pixels = Image.fromarray((255 * values).byte().numpy())
    fitted = np.asarray(pixels.resize(size, Image.Resampling.NEAREST, box))
    if fitted.min() == fitted.max():
        left = "known" if fitted.max() == 0 else "masked"
        raise UserError(f"--mask: no {left} pixel of {mask} is left in the {size[1]}x{size[0]} that are restored")
    return fitted


def measured_data(picture: np.ndarray, options: Any, folder: Path) -> Inputs:
    """Inputs of a DataModule whose one measurement is the photo.

    Raises:
        UserError: if what it was measured with is not known, or does not fit it.
    """
    needed = {"inpainting": "mask", "deblurring": "kernel"}.get(options.task)
    for name in ("sigma_y", *([needed] if needed else [])):
        if getattr(options, name) is None:
            raise UserError(f"--{name}: has to be given for a photo that is the measurement of {options.task}")
    height, width = (options.scale * side for side in picture.shape[:2])
    whole("try", "scale times the photo's longer side", max(height, width), 1, MOST_SIDE)
    operator = checked_operator(options, (3, height, width))
    y = from_pixels(picture.transpose(2, 0, 1)).numpy()
    seen = y if options.mask is None else y * MaskInpainting(options.mask).mask.numpy()
    if (seen == seen[:1]).all():  # one number with one noise, repeated: their mean has the noise that is so
        options.sigma_y *= math.sqrt(len(y))
        told = f"its noise counts once, {options.sigma_y:.3g} in each of 3 channels; a right residual is then"
        say_result(f"{options.photo.name} is grey: {told} {len(y) ** -0.5:.2f}, not 1")
    file = folder / "measured" / digest_of(y) / f"{options.photo.stem}.npy"
    content = io.BytesIO()
    np.save(content, y)
    settings = data_settings("RecordedMeasurements", file, operator, options)
    settings["init_args"]["image_shape"] = [3, height, width]
    return settings, {file: content.getvalue()}


def data_settings(name: str, file: Path, operator: dict[str, Any], options: Any) -> dict[str, Any]:
    """Of a DataModule."""
    sigma_y = SIGMA_Y if options.sigma_y is None else options.sigma_y
    likelihood = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": sigma_y}}
    arguments = {"root": str(file), "operator": operator, "likelihood": likelihood, "seed": options.seed}
    return {"class_path": f"datamodules.{name}", "init_args": arguments}


def checked_operator(options: Any, image_shape: tuple[int, int, int] | None) -> dict[str, Any]:
    """Settings of the operator that a task means, which has been built once.

    Args:
        options: of the command line.
        image_shape: (C, H, W) of the images; None: not compared with them.

    Raises:
        UserError: what the operator has against its settings, or the shape.
    """
    settings, kinds = operator_of(options), {"operator": OperatorFamily}
    culprit = next((name for name in ("mask", "kernel") if getattr(options, name) is not None), "task")
    made: OperatorFamily = built(conformed({"operator": settings}, kinds), kinds, f"--{culprit}")[0]
    if image_shape is not None:
        made.realise(image_shape, [torch.Generator()])
    return settings


def operator_of(options: Any) -> dict[str, Any]:
    """Settings of the operator that a task means."""
    name, arguments = {
        "inpainting": ("RandomInpainting", {}) if options.mask is None else ("MaskInpainting", {"mask": options.mask}),
        "super_resolution": ("SuperResolution", {"scale": options.scale}),
        "deblurring": ("GaussianBlur", {}) if options.kernel is None else ("GivenBlur", {"kernel": options.kernel}),
        "denoising": ("Denoising", {}),
    }[options.task]
    told = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    return {"class_path": f"posterior.operators.{name}", "init_args": told}


def part(
    photo: tuple[int, int], size: tuple[int, int] | None, side: int, multiple: int = 1
) -> tuple[Box, tuple[int, int]]:
    """What of a photo (width, height) is restored: a box of it, and the width and height that the box is brought to.

    It is the photo, its longer side reduced to ``side``, without the margins that make its sides no multiples of
    ``multiple``; or its largest central part of the shape (height, width) that a prior was made for, at that size.

    Raises:
        UserError: if less than ``multiple`` pixels are left of a side.
    """
    width, height = photo
    if size is not None:
        factor = min(width / size[1], height / size[0])
        left, top = (width - factor * size[1]) / 2, (height - factor * size[0]) / 2
        return (left, top, left + factor * size[1], top + factor * size[0]), (size[1], size[0])
    factor = max(1.0, max(photo) / side)
    reduced = [max(1, round(length / factor)) for length in photo]
    kept = [length - length % multiple for length in reduced]
    if 0 in kept:
        more = f" (reduced from {height}x{width}: a larger --side keeps more)" if factor > 1 else ""
        raise UserError(f"photo: at {reduced[1]}x{reduced[0]} pixels{more} it is too small for a scale of {multiple}")
    pixels = [length / number for length, number in zip(photo, reduced, strict=True)]
    left, top = (pixel * ((a - b) // 2) for pixel, a, b in zip(pixels, reduced, kept, strict=True))
    return (left, top, left + pixels[0] * kept[0], top + pixels[1] * kept[1]), (kept[0], kept[1])
