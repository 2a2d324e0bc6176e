"""Pictures of the gallery and of the site's first page: toon faces, every sampler on one task, every task once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.judge.calibrate import problem_of
from benchmarks.judge.command import of_settings
from benchmarks.judge.leaderboard import LIST, listed
from benchmarks.judge.leaderboard_faces import PRIOR, HeldOut
from benchmarks.judge.problems import SHIPPED, Problem, read_problem
from benchmarks.judge.running import Contestant
from posterior.errors import UserError
from posterior.files import say
from posterior.images import to_pixels
from posterior.measurement import Measurement
from posterior.random import Streams
from posterior.results.pictures import save_png, sheet, std_picture
from posterior.settings import read_settings
from posterior.shipped import CONFIGS

CARDS = Path("docs/gallery/cards.yaml")
PROBLEM = SHIPPED / "toon-super-resolution.yaml"
MIXTURE = CONFIGS / "prior" / "mixture_toon32.yaml"
NOISE = {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.05}}
EXACT = {"class_path": "posterior.samplers.ExactMixture"}
"""What tasks are shown by that name no sampler of their own."""
CONDITIONAL = {
    "class_path": "posterior.samplers.ConditionalDescent",
    "init_args": {"clip_search": True, "final_denoising": True},
}
"""What the first page is shown by."""
SEED, FACES, SAMPLES, SHOWN = 0, 2, 8, 4
"""Held-out faces of a picture; samples of each, and how many of them it shows."""
FIRST_FACES, ENLARGED, PACE = 4, 4, 700
"""Of the first page: faces, factor of enlargement, milliseconds a sample."""


def gallery(output: Path = Path("docs/gallery"), only: list[str] | None = None) -> None:
    """Draw the pictures of docs/gallery, and docs/flip.webp beside them. Run in a checkout.

    All are of held-out toon faces under a mixture of twelve Gaussians, whose posteriors are known. Samplers are shown
    under 4x super-resolution, with the settings with which they are judged there; tasks by exact samples where A is
    linear and the noise Gaussian, otherwise by DPS. The first page has the learned prior of toon faces.

    Args:
        output: folder of the pictures.
        only: names of cards that have a picture, and `flip` for the first page; None: all.

    Raises:
        UserError: if there is no picture of a name; at the end, naming samplers that did not run.
    """
    cards = read_settings(CARDS)
    known = {"flip", *(name for kind in ("samplers", "tasks") for name, _ in pictured(cards[kind]))}
    if unknown := sorted(set(only or ()) - known):
        raise UserError(f"--only: there is no picture {unknown[0]}; there are {', '.join(sorted(known))}")
    wanted, failed = known if only is None else set(only), {}
    for kind, shown in (("sampler", sampler_problems(cards)), ("task", task_problems(cards))):
        for name, problem, contestant in shown:
            if name in wanted:
                say(f"{kind} {name}")
                try:
                    save_png(panel(*drawn(problem, contestant, FACES)), output / f"{kind}_{name}.png")
                except UserError as error:
                    failed[name] = error
    if "flip" in wanted:
        problem = task_problem(cards["tasks"]["super_resolution"], PRIOR)
        save_flip(*drawn(problem, of_settings("conditional", CONDITIONAL), FIRST_FACES), output.parent / "flip.webp")
    if failed:
        raise UserError("; ".join(f"{name}: {error}" for name, error in failed.items()))


def pictured(cards: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cards of one kind that have a picture."""
    return ((name, card) for name, card in cards.items() if "pictured" not in card)


def sampler_problems(cards: Mapping[str, Any]) -> Iterator[tuple[str, Problem, Contestant]]:
    """Each sampler with the problem under the mixture, whose faces are held-out ones instead of draws."""
    problem = replace(read_problem(PROBLEM), truth=HeldOut())
    board = {entrant.name: entrant.judged for entrant in listed(LIST)}
    for name, card in pictured(cards["samplers"]):
        yield name, problem, board[card["board"]] if "board" in card else of_settings(name, card["settings"])


def task_problems(cards: Mapping[str, Any]) -> Iterator[tuple[str, Problem, Contestant]]:
    """Each task under the mixture, with the sampler that it is shown by."""
    for name, card in pictured(cards["tasks"]):
        yield name, task_problem(card, MIXTURE), of_settings(name, card.get("sampler", EXACT))


def task_problem(card: Mapping[str, Any], prior: Path) -> Problem:
    """The problem of a task's card on held-out faces, under the prior of a file."""
    task = {"operator": card["operator"], "likelihood": card.get("likelihood", NOISE), "image_shape": [3, 32, 32]}
    problem = problem_of(task | {"prior": read_settings(prior)}, False, truth=HeldOut())
    problem.prior.requires_grad_(False)
    return problem


def drawn(problem: Problem, contestant: Contestant, faces: int) -> tuple[Tensor, Tensor, Tensor]:
    """Truths (B, C, H, W), views of their measurements likewise, and samples (B, K, C, H, W)."""
    ids = [f"gallery/{face}" for face in range(faces)]
    sampler = contestant.made(problem)
    truths, views, samples = [], [], []
    for case in problem.cases(ids, SEED):
        measurement: Measurement = case.measurement
        with torch.no_grad():
            found = sampler(problem.prior, measurement.repeat(SAMPLES), Streams(SEED, [case.id], SAMPLES))
        views.append(interpolate(as_picture(measurement), case.truth.shape[-2:], mode="nearest"))
        truths.append(case.truth)
        samples.append(found[None])
    return torch.cat(truths), torch.cat(views), torch.cat(samples)


def as_picture(measurement: Measurement) -> Tensor:
    """What the operator shows of y, (1, 3, H, W): nothing (grey), if y is no picture."""
    view = measurement.operator.view(measurement.y)
    return view.expand(-1, 3, -1, -1) if view.shape[1] in (1, 3) else 0 * view[:, :1].repeat(1, 3, 1, 1)


def panel(truths: Tensor, views: Tensor, samples: Tensor) -> np.ndarray:
    """A row a face: measurement, some samples, mean, standard deviation, truth, each at its own size, (H, W, 3)."""
    rows = []
    for truth, view, own in zip(truths, views, samples, strict=True):
        tiles = [to_pixels(image) for image in (view, *own[:SHOWN], own.mean(dim=0))]
        rows.append(np.concatenate([*tiles, std_picture(own.std(dim=0)), to_pixels(truth)], axis=1))
    return np.concatenate(rows, axis=0)


def save_flip(truths: Tensor, views: Tensor, samples: Tensor, path: Path) -> None:
    """An animated picture: measurements, samples that flip, where they differ, truths; a column a face."""
    spread = torch.stack([own.std(dim=0) for own in samples])
    heat = [enlarged(std_picture(one)) for one in spread]
    still = [strip(views), None, np.concatenate(heat, axis=1), strip(truths)]
    titles = ["measured", f"{SAMPLES} samples", "they differ", "truth"]
    frames = []
    for number in range(SAMPLES):
        rows = [strip(samples[:, number]) if row is None else row for row in still]
        frames.append(labelled(rows, titles))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=PACE, loop=0, quality=80, method=6)


def strip(images: Tensor) -> np.ndarray:
    """Images side by side, enlarged, (H, W, 3)."""
    return sheet(images, columns=len(images), enlarge=ENLARGED, gap=0)


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3), each pixel as a block."""
    return pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def labelled(rows: list[np.ndarray], titles: list[str]) -> Image.Image:
    """Rows below one another, a word at the left of each."""
    height, width, _ = rows[0].shape
    left, gap, font = 110, 4, ImageFont.load_default(size=16)
    page = Image.new("RGB", (left + width, len(rows) * (height + gap) - gap), "white")
    draw = ImageDraw.Draw(page)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = number * (height + gap)
        page.paste(Image.fromarray(row), (left, top))
        draw.text((left - 10, top + height // 2), title, fill="black", font=font, anchor="rm")
    return page
