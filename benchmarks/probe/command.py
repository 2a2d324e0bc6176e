"""`probe`: whether a prior is what it claims to be, before a night is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.judge.running import device_here
from benchmarks.probe.measures import Measured, measure
from benchmarks.probe.page import FRAGMENT, about, as_text, write_page
from benchmarks.probe.verdict import Verdict, verdict_on
from benchmarks.tools.building import built, settings_of
from datamodules.array import load_arrays
from datamodules.idx import IdxImageSet
from posterior.checks import MOST_SIDE, whole
from posterior.errors import UserError
from posterior.images import ImageFile, from_pixels, list_images, load_image
from posterior.module import warn_once
from posterior.priors import Prior
from posterior.reading import read_pixels, shown
from posterior.settings import conformed
from posterior.shell import Parser
from posterior.terminal import Status, remark, say_place, say_result

FEWEST, MOST = 16, 512
"""Images: what a verdict needs, and what is read of more."""


def probe_command(arguments: Sequence[str]) -> None:
    """Read the command line, measure a prior on images, say what it is."""
    parser = Parser(
        prog="posterior-sampling probe",
        description="Whether a prior is what it claims to be, on images of its law that it was not trained on.",
        allow_abbrev=False,
    )
    parser.add_argument("--prior", required=True, help="a file of settings, or a shipped name (prior/toon_faces32)")
    parser.add_argument(
        "--images", type=Path, required=True, help=f"folder or zip of pictures, .npz or idx file; {FEWEST} at least"
    )
    parser.add_argument("--size", type=int, help="side in pixels, for a prior that has none of its own")
    parser.add_argument("--output", type=Path, help="folder of the page (results/probe/PRIOR)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (0)")
    parser.add_argument("--device", default="cpu", help="where the prior runs (cpu)")
    parser.add_argument("--allow-local", action="store_true", help="files may name classes that are not installed")
    options = parser.parse_args(list(arguments))
    whole("probe", "seed", options.seed, 0, 2**63)
    device_here(options.device)
    prior = built_prior(options.prior, options.allow_local)
    images, ids = images_for(prior, options.images, options.size)
    name = Path(options.prior).stem
    folder = options.output or Path("results/probe") / name
    probe(prior, images, ids, folder, name, options.seed, options.device)


def probe(
    prior: Prior,
    images: Tensor,
    ids: Sequence[str],
    folder: Path,
    name: str,
    seed: int = 0,
    device: str = "cpu",
    trained_here: bool = False,
) -> tuple[Measured, Verdict]:
    """Measure a prior, say what it is, write the page.

    Args:
        prior: which.
        images: (N, C, H, W) in [-1, 1], N >= `FEWEST`.
        ids: their names.
        folder: of the page.
        name: of the prior, for people.
        seed: of all random numbers.
        device: where it runs.
        trained_here: as `verdict_on` has it.

    Raises:
        UserError: if there are too few images, or the prior cannot take them.
    """
    if len(images) < FEWEST:
        raise UserError(f"probe: {len(images)} images are too few to say anything: {FEWEST} at least, better 64")
    if warning := prior.check_images(images.shape[1:]):
        warn_once(warning)
    status = Status(first=5.0)
    measured = measure(
        prior.to(device), images.to(device), ids, seed, told=lambda share, what: status.tell((share, what))
    )
    status.close()
    verdict = verdict_on(measured, trained_here)
    write_page(folder, name, measured, verdict)
    say_result(as_text(name, measured, verdict))
    remark(about(measured))
    if verdict.score_sigma is not None:
        say_result(f"settings: --config EXPERIMENT --config {folder / FRAGMENT}")
    say_place(f"page: {folder / 'probe.md'}")
    return measured, verdict


def built_prior(text: str, allow_local: bool = False) -> Prior:
    """A prior by its file of settings, shipped name or class.

    Raises:
        UserError: if there is no such file, or it is no prior's.
    """
    kinds, settings = {"prior": Prior}, {"prior": settings_of(text, "--prior")}
    made: Prior = built(conformed(settings, kinds, allow_local), kinds, "--prior")[0]
    return made


def images_for(prior: Prior, place: Path, size: int | None) -> tuple[Tensor, list[str]]:
    """At most `MOST` images, evenly spread over those that are there, as a prior takes them.

    Args:
        prior: whose size and channels they get.
        place: folder or zip of pictures, .npz file (`datamodules.array.load_arrays`), or idx file (.gz, -ubyte).
        size: side of a prior without a size of its own.

    Returns:
        Images (N, C, H, W) in [-1, 1], and their ids.

    Raises:
        UserError: naming what is missing, cannot be used, or does not fit.
    """
    if size is not None:
        whole("probe", "size", size, 1, MOST_SIDE)
        if prior.size is not None:
            raise UserError(f"--size: has no effect, as the prior is for images of {prior.size[0]}x{prior.size[1]}")
    if place.suffix == ".npz":
        arrays = load_arrays(place)
        kept = evenly(len(arrays["images"]))
        images, ids = from_pixels(arrays["images"][kept]), [str(arrays["ids"][one]) for one in kept]
    elif place.is_file() and (place.suffix == ".gz" or place.name.endswith("ubyte")):
        images = IdxImageSet(place, size=size or (prior.size or (32, 32))[0]).all()
        kept = evenly(len(images))
        images, ids = images[kept], [str(one) for one in kept]
    else:
        files = list_images(place)
        ids = [list(files)[one] for one in evenly(len(files))]
        images = pictures([files[one] for one in ids], (size, size) if size else prior.size)
    return in_channels(images, prior, place), ids


def evenly(count: int) -> list[int]:
    """At most `MOST` of so many, evenly spread."""
    most = min(count, MOST)
    return [place * count // most for place in range(most)]


def pictures(files: Sequence[ImageFile], size: tuple[int, int] | None) -> Tensor:
    """Pictures of one size, (N, 3, H, W): as they are, or else the largest central square reduced to that size.

    Raises:
        UserError: naming the file, if it cannot be used, or is of another size than the first and none is asked for, or
            than a prior that is not for squares.
    """
    found = []
    for file in files:
        image = load_image(file)
        if size is not None and tuple(image.shape[1:]) != size:
            if size[0] != size[1]:
                raise UserError(f"image {shown(file)} is {image.shape[1]}x{image.shape[2]}, the prior's are {size}")
            image = load_image(file, min(read_pixels(file).shape[:2]), size[0])
        found.append(image)
        if image.shape != found[0].shape:
            raise UserError(
                f"image {shown(file)} is {image.shape[1]}x{image.shape[2]}, others are "
                f"{found[0].shape[1]}x{found[0].shape[2]}: set --size"
            )
    return torch.stack(found)


def in_channels(images: Tensor, prior: Prior, place: Path) -> Tensor:
    """Grey pictures in one channel for a prior of one.

    Raises:
        UserError: if the prior is of grey images, and these have colours.
    """
    if prior.channels != 1 or images.shape[1] == 1:
        return images
    if not (images == images[:, :1]).all():
        raise UserError(f"--images: {shown(place)} has colours, the prior is for grey images")
    return images[:, :1]
