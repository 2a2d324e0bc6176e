"""What samplers make of toon faces under the learned prior, where no posterior is known: errors and residuals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.judge.calibrate import problem_of
from benchmarks.judge.command import Progress, sample_work, work
from benchmarks.judge.problems import Case, Problem, Truth
from benchmarks.judge.running import Contestant, Sampled, Sizes, run
from benchmarks.tools.measuring import measured
from benchmarks.tools.tables import interval
from datamodules.array import load_arrays
from posterior.errors import UserError
from posterior.images import from_pixels
from posterior.metrics import ImageMetric
from posterior.settings import read_settings
from posterior.shipped import CONFIGS

PRIOR, HELD_OUT = CONFIGS / "prior" / "toon_faces32.yaml", CONFIGS / "data" / "toon_faces32.npz"
TASKS = ("inpainting", "super_resolution")
"""Of configs/task."""
AVERAGED = 8
"""Samples of a face whose mean is measured."""
MEASURES = {"l2": "L2", "lpips": "LPIPS", "residual": "residual", "l2_of_mean": f"L2 of the mean of {AVERAGED}"}
"""What is measured, and what tables call it; the last of the faces with several samples."""


class HeldOut(Truth):
    """Faces that no prior was trained on; the number that an id ends in says which.

    Args:
        path: an .npz of images.
    """

    exact = False

    def __init__(self, path: Path = HELD_OUT) -> None:
        self.images = load_arrays(path)["images"]
        self.digest = hashlib.blake2b(self.images.tobytes(), digest_size=8).hexdigest()

    def draw(self, ids: Sequence[str], seed: int, purpose: str = "truth") -> Tensor:
        return torch.cat([from_pixels(self.images[[int(one.rpartition("/")[2])]]) for one in ids])


def face_problems(faces: int) -> list[Problem]:
    """The tasks under the learned prior.

    Raises:
        UserError: if there are not so many faces.
    """
    truth = HeldOut()
    if faces > len(truth.images):
        raise UserError(f"--faces: there are {len(truth.images)} held-out faces, not {faces}")
    found = []
    for task in TASKS:
        settings = read_settings(CONFIGS / "task" / f"toon_{task}.yaml") | {"prior": read_settings(PRIOR)}
        problem = problem_of(settings, False, truth=truth)
        problem.prior.requires_grad_(False)
        found.append(replace(problem, name=f"faces-{task.replace('_', '-')}", tells="held-out toon faces"))
    return found


@dataclass(frozen=True)
class FaceRow:
    """What a sampler makes of the faces of a task.

    Args:
        sampler, task: names.
        values: measure (`MEASURES`) -> face -> value.
        diverged, total: faces with a chain that is not finite, of how many.
        forward, backward: calls a sample.
        seconds: a sample.
        failure: why there is nothing, if there is nothing.
    """

    sampler: str
    task: str
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    diverged: int = 0
    total: int = 0
    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0
    failure: str | None = None

    def mean(self, measure: str) -> tuple[float, float] | None:
        """Over faces, and half of its 95 % interval; None if it was not measured."""
        own = self.values.get(measure, {})
        return interval(list(own.values())) if own else None

    def paired(self, other: FaceRow, measure: str) -> tuple[float, float] | None:
        """Mean difference to another sampler on the faces that both have, and half of its 95 % interval."""
        own, others = self.values.get(measure, {}), other.values.get(measure, {})
        both = [own[face] - others[face] for face in own if face in others]
        return interval(both) if both else None


def face_rows(
    contestants: Sequence[Contestant],
    tasks: Sequence[Problem],
    metrics: Mapping[str, ImageMetric],
    sizes: Sizes,
    seed: int,
    cells: Path,
    device: str,
    quiet: bool = False,
) -> list[FaceRow]:
    """A row a task and sampler; all see the same measurements. What is kept in the cells is not sampled again.

    Args:
        contestants: the samplers.
        tasks: `face_problems`.
        metrics: L2, LPIPS, residual.
        sizes: ``pairs`` faces have ``ranked`` samples, of which the first is looked at; ``measurements`` faces have
            ``samples``, whose mean is looked at.
        seed: of measurements and samples.
        cells: folder.
        device: where samplers run.
        quiet: say nothing while it goes on.
    """
    progress, found = Progress(sum(work(one, sizes) for one in tasks) * len(contestants), quiet), []
    for task in tasks:
        known: dict[str, Case] = {}
        for contestant in contestants:
            progress.begin(f"{contestant.name} on {task.name}", sample_work(task))
            try:
                sampled = run(contestant, task, sizes, seed, cells, progress.told, device, known)
            except UserError as error:
                found.append(FaceRow(contestant.name, task.name, failure=str(error)))
                progress.skip(work(task, sizes))
            else:
                found.append(face_row(contestant.name, sampled, metrics))
    return found


@torch.no_grad()
def face_row(name: str, sampled: Sampled, metrics: Mapping[str, ImageMetric]) -> FaceRow:
    """Of samples that are there."""
    values: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for case, samples in (
        *zip(sampled.pairs, sampled.ranked, strict=True),
        *zip(sampled.cases, sampled.samples, strict=True),
    ):
        for measure, value in measured(metrics, samples[:, None], case.truth, case.measurement).items():
            if measure in values and measure.endswith("_of_mean") == (len(samples) > 1):
                values[measure][case.id] = float(value)
    rows = max(sampled.rows, 1)
    cost = np.array([sampled.forward, sampled.backward, sampled.seconds]) / rows
    return FaceRow(name, sampled.problem.name, values, len(sampled.diverged), sampled.total, *cost.tolist())
