"""One photograph, one command: measured here or by its owner, restored, shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import lightning_cli
from benchmarks.tools.building import built
from benchmarks.tools.parsing import Parser
from posterior.checks import MOST_SAMPLES, MOST_SIDE, real, whole
from posterior.errors import UserError
from posterior.files import say, write_whole
from posterior.operators import MaskInpainting
from posterior.priors import Prior
from posterior.reading import read_picture
from posterior.results.pictures import png
from posterior.settings import conformed, read_settings
from posterior.settings.places import named_file
from posterior.shipped import near

TASKS = ("inpainting", "super_resolution", "deblurring", "denoising")
SIGMA_Y = 0.05


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
    parser.add_argument("--scale", type=int, default=4, help="of super_resolution (4)")
    parser.add_argument("--kernel", type=Path, help="of deblurring: a .npy array (k, k), k odd")
    parser.add_argument(
        "--sigma_y", type=float, help=f"standard deviation of the noise, of numbers in [-1, 1] ({SIGMA_Y}: 6 of 255)"
    )
    parser.add_argument("--prior", default="prior/photos", help="a file of settings, or a shipped name (prior/photos)")
    parser.add_argument("--sampler", default="sampler/conditional", help="the same (sampler/conditional)")
    parser.add_argument("--num_samples", type=int, default=8, help="samples (8)")
    parser.add_argument("--side", type=int, default=256, help="the longer side is reduced to this, in pixels (256)")
    parser.add_argument("--seed", type=int, default=0, help="of mask, noise and samples (0)")
    parser.add_argument("--output", type=Path, help="the run's folder (results/try/PHOTO_TASK)")
    parser.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    options = parser.parse_args(list(arguments))
    whole("try", "num_samples", options.num_samples, 1, MOST_SAMPLES)
    whole("try", "side", options.side, 1, MOST_SIDE)
    whole("try", "seed", options.seed, 0, 2**63)
    if options.sigma_y is not None:
        real("try", "sigma_y", options.sigma_y, above=0)
    given = {"mask": "inpainting", "kernel": "deblurring"}
    for name, task in given.items():
        if getattr(options, name) is not None and options.task != task:
            raise UserError(f"--{name}: belongs to --task {task}, not to {options.task}")
    folder = options.output or Path("results/try") / f"{options.photo.stem}_{options.task}"
    lightning_cli.quiet()
    prior = _settings_of("--prior", options.prior)
    picture = read_picture(options.photo, "photo")
    size = sides_of(prior, options.allow_local)
    data = measured_data(picture, options, folder) if options.measured else photo_data(picture, size, options, folder)
    settings = {
        "model": {
            "prior": prior,
            "sampler": _settings_of("--sampler", options.sampler),
            "num_samples": options.num_samples,
        },
        "data": data,
        "trainer": {"devices": 1},
        "output": {"dir": str(folder)},
    }
    lightning_cli.run("predict", settings, lightning_cli.RunStarted(), options.allow_local)
    say(f"look at {folder / 'report.html'}")


def _settings_of(option: str, text: str) -> Any:
    path = named_file(text)
    if path is None:
        raise UserError(f"{option}: the file of settings {text} does not exist{near(text)}")
    return read_settings(path)


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


def photo_data(picture: Image.Image, size: tuple[int, int] | None, options: Any, folder: Path) -> dict[str, Any]:
    """Settings of a DataModule that measures the photo: it is reduced, or cropped, first, and kept in the folder."""
    box, (width, height) = part(picture.size, size, options.side)
    if (width, height) != picture.size:
        say(f"{options.photo.name} is {picture.height}x{picture.width}: {height}x{width} of it is restored")
    file = folder / "photo" / f"{options.photo.stem}.png"
    write_whole(file, png(np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box))))
    if options.mask is not None:
        options.mask = fitted_mask(options.mask, picture.size, box, (width, height), folder)
    return data_settings("ImageFolder", file, operator_of(options), options)


def fitted_mask(
    mask: Path, photo: tuple[int, int], box: tuple[float, float, float, float], size: tuple[int, int], folder: Path
) -> Path:
    """The part of a mask that goes with a part of the photo, as a file of its own.

    Raises:
        UserError: if it is no mask, or not of the photo's size.
    """
    values = MaskInpainting(mask).mask
    height, width = values.shape
    if (width, height) != photo:
        raise UserError(f"--mask: {mask} is {height}x{width}, the photo {photo[1]}x{photo[0]}")
    pixels = Image.fromarray((255 * values).byte().numpy())
    fitted = pixels.resize(size, Image.Resampling.NEAREST, box)
    file = folder / "photo" / "mask.png"
    write_whole(file, png(np.asarray(fitted)))
    return file


def measured_data(picture: Image.Image, options: Any, folder: Path) -> dict[str, Any]:
    """Settings of a DataModule whose one measurement is the photo.

    Raises:
        UserError: if what it was measured with is not known.
    """
    needed = {"inpainting": "mask", "deblurring": "kernel"}.get(options.task)
    for name in ("sigma_y", *([needed] if needed else [])):
        if getattr(options, name) is None:
            raise UserError(f"--{name}: has to be given for a photo that is the measurement of {options.task}")
    y = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    file = folder / "measured" / f"{options.photo.stem}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, y)
    scale = options.scale if options.task == "super_resolution" else 1
    settings = data_settings("RecordedMeasurements", file, operator_of(options), options)
    settings["init_args"]["image_shape"] = [3, scale * picture.height, scale * picture.width]
    return settings


def data_settings(name: str, file: Path, operator: dict[str, Any], options: Any) -> dict[str, Any]:
    """Of a DataModule."""
    sigma_y = SIGMA_Y if options.sigma_y is None else options.sigma_y
    likelihood = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": sigma_y}}
    arguments = {"root": str(file), "operator": operator, "likelihood": likelihood, "seed": options.seed}
    return {"class_path": f"datamodules.{name}", "init_args": arguments}


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
    photo: tuple[int, int], size: tuple[int, int] | None, side: int
) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    """What of a photo (width, height) is restored: a box of it, left, top, right, bottom; and its width and height.

    All of it, its longer side reduced to ``side``; or its largest central part of the shape (height, width) that a
    prior was made for, at that size.
    """
    width, height = photo
    if size is None:
        factor = max(1.0, max(photo) / side)
        return (0, 0, width, height), (max(1, round(width / factor)), max(1, round(height / factor)))
    factor = min(width / size[1], height / size[0])
    left, top = (width - factor * size[1]) / 2, (height - factor * size[0]) / 2
    return (left, top, left + factor * size[1], top + factor * size[0]), (size[1], size[0])
