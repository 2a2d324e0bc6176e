"""Folders of runs that nothing was sampled for: a journal, numbers and pictures that a test knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from posterior.results.journal import Journal
from posterior.results.pictures import save_png, std_colours
from posterior.results.report import Session, write_report

CONFIG = """\
model:
  prior: {class_path: posterior.priors.GaussianFieldPrior.from_folder, init_args: {checkpoint: a/b/prior.safetensors}}
  sampler: {class_path: posterior.samplers.ExactGaussian}
data:
  init_args:
    operator: {class_path: posterior.operators.SuperResolution, init_args: {scale: 4}}
    likelihood: {class_path: posterior.noise.GaussianNoise, init_args: {sigma_y: 0.05}}
"""
METRICS = ["psnr", "residual"]
COVERAGE = [0.6, 0.95, 0.2, 0.55, 0.9]
"""Of images 0 to 4, and again; of exact samples it is 0.6, if there are four."""
COST = {"nfe_forward": 122.0, "nfe_backward": 0.0, "seconds": 0.4}


def psnr(number: int, sample: int) -> float:
    """Of an image's sample; the lowest is neither the first image nor the last."""
    return 30.0 + (number * 7 + 3) % 10 + 0.2 * sample


def pixels(number: int, name: str, side: int, run: int = 0) -> np.ndarray:
    """A picture's grey levels (side, side, 3) uint8; runs share the measurement and the truth."""
    seed = [number, *name.encode(), *([run] if run and name not in ("measurement", "truth") else [])]
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_journal(
    folder: Path, ids: Sequence[str], samples: int, cost: Mapping[str, float] = COST, better: float = 0.0
) -> tuple[Journal, Session]:
    """A journal of images that are complete; PSNR is ``better`` by so much."""
    labels = [*range(samples), *(["mean"] if samples > 1 else [])]
    columns = {"sample": [*METRICS, *cost], "mean": [*METRICS, "coverage"]}
    versions = {"torch": "2.9"}
    session = Session(columns, set(map(str, labels)), samples, {}, "cpu", 1, versions)
    journal = Journal(folder / "journal")
    journal.begin(session.record() | {"session": 1})
    records = [
        {"id": image_id, "sample": label, "psnr": better + psnr(number, label if isinstance(label, int) else samples)}
        | {"residual": 1.0 + 0.01 * number, "num_measured": 192, "session": 1}
        | (dict(cost) if isinstance(label, int) else {"coverage": COVERAGE[number % len(COVERAGE)]})
        for number, image_id in enumerate(ids)
        for label in labels
    ]
    journal.append(records, 0)
    return journal, session


def write_pictures(folder: Path, number: int, samples: int, side: int = 16, run: int = 0) -> None:
    """An image's pictures, of noise."""
    names = ["measurement", "truth", *(f"sample_{k:03d}" for k in range(samples))]
    for name in names + ["mean"] * (samples > 1):
        save_png(pixels(number, name, side, run), folder / f"{name}.png")
    if samples > 1:
        save_png(std_colours(np.full((side, side), 0.1)), folder / "std.png")


def write_run(
    folder: Path, ids: Sequence[str], samples: int = 4, side: int = 16, finished: bool = True, better: int = 0
) -> Path:
    """A whole run; it was killed before its end, if it is not ``finished``. Its samples differ by ``better``."""
    journal, session = write_journal(folder, ids, samples, better=better)
    for number, image_id in enumerate(ids):
        write_pictures(folder / "images" / image_id, number, samples, side, better)
    (folder / "config.yaml").write_text(CONFIG)
    if finished:
        write_report(folder, journal, session)
    return folder
