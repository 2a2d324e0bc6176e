"""Figure 4 of the paper in small: annealed Langevin against its step size, DPS as the line to beat."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tools.measuring import face_metrics, measured
from benchmarks.tools.tables import interval, spelt, write_rows
from benchmarks.tools.tuning import read_samplers
from datamodules.array import ImageArray
from datamodules.training import ToonFaceImages
from posterior.batch import Batch
from posterior.errors import UserError
from posterior.metrics.distances import kernel_distance, kernel_distance_left_out
from posterior.metrics.features import VGG16Features
from posterior.noise import GaussianNoise
from posterior.operators import GaussianBlur, OperatorFamily, RandomInpainting, SuperResolution
from posterior.priors import DiffusionPrior
from posterior.random import Streams
from posterior.samplers import AnnealedLangevin, ListedSigmas, ReverseDiffusion
from posterior.shipped import CONFIGS

TASKS: dict[str, tuple[OperatorFamily, float]] = {
    "inpainting 30-70 %": (RandomInpainting(), 0.5),
    "4x SR (averaging)": (SuperResolution(4, "average"), 0.3),
    "Gaussian blur, std 1": (GaussianBlur(9, 1.0), 0.3),
}
"""Small task -> operator and DPS scale."""
ANCHOR_SIGMA = 0.34226
"""Noise level at diffusion time t = 100."""
SIGMA_Y = 0.05
SAMPLERS = CONFIGS / "faces" / "samplers.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a method made of the faces: one value a face, and the pictures' features."""

    values: dict[str, Tensor]
    features: Tensor

    def paired(self, other: Outcome, name: str) -> tuple[float, float]:
        """Mean difference to another method and the half width of its 95 % interval, over faces."""
        return interval((self.values[name] - other.values[name]).double().numpy())

    def kernel(self, real: Tensor) -> tuple[float, float]:
        """Kernel distance to real faces and the half width of its 95 % interval, by the jackknife over faces."""
        return kernel_distance(self.features, real), _jackknife(kernel_distance_left_out(self.features, real))

    def paired_kernel(self, other: Outcome, real: Tensor) -> tuple[float, float]:
        """Difference of the kernel distances, with the half width of its 95 % interval."""
        left_out = kernel_distance_left_out(self.features, real) - kernel_distance_left_out(other.features, real)
        return kernel_distance(self.features, real) - kernel_distance(other.features, real), _jackknife(left_out)


def _jackknife(left_out: Tensor) -> float:
    n = len(left_out)
    return 1.96 * float(((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt())


@dataclass(frozen=True)
class Row:
    """A method on a task, at a step size h and a level where the score is read; numbers with their intervals."""

    task: str
    method: str
    h: float
    score_sigma: float
    ending: str
    l2: str
    lpips: str
    residual: str
    l2_vs_dps: str
    lpips_vs_dps: str
    kid: str
    kid_vs_dps: str


def step_size(
    prior: DiffusionPrior,
    output: Path = Path("results/step_size"),
    num_faces: int = 48,
    step_sizes: Sequence[float] = (5e-6, 2e-5, 1e-4, 4e-4, 1e-3),
    score_sigmas: Sequence[float] = (0.01, 0.08),
    num_levels: int = 1000,
    growth: float = 0.009,
    dps_steps: int = 1000,
    num_real: int = 2048,
    held_out: Path = CONFIGS / "data" / "toon_faces32.npz",
    cache: Path = Path("cache/toon"),
    seed: int = 0,
) -> None:
    """The paper's composition on the small toon-face tasks, swept over the step size and the score's smoothing level.

    DPS -> re-noise to t = 100 -> reverse diffusion -> annealed Langevin, one step a level, with the anchor term. Above
    the prior's lowest level the chain is also reported after one denoising step. Writes step_size.csv and
    step_size.png. Everything computed is kept in the folder and not computed again for the same prior and settings.

    Args:
        prior: e.g. configs/prior/toon_faces32.yaml.
        output: folder.
        num_faces: held-out faces.
        step_sizes: h of Langevin; those that are not stable with a level are left out.
        score_sigmas: where the score is read.
        num_levels, growth: of the published annealing schedule.
        dps_steps: DPS steps (respaced if fewer than 1000).
        num_real: real faces (numbers 1000 and on) for the kernel distance.
        held_out: the held-out faces.
        cache: folder of rendered faces.
        seed: of measurements and samples.

    Raises:
        UserError: if the folder holds results of other settings.
    """
    output.mkdir(parents=True, exist_ok=True)
    batches = {task: measured_faces(held_out, family, num_faces, seed) for task, (family, _) in TASKS.items()}
    scales = [scale for _, scale in TASKS.values()]
    settings = f"levels {num_levels} growth {growth} dps {dps_steps} {scales} anchor {ANCHOR_SIGMA} seed {seed}"
    _keep_settings(output / "settings.txt", f"{prior.fingerprint()} {settings} {_digest(batches)}")
    network = VGG16Features()
    real = network.of_set(ToonFaceImages(32, 1000, num_real, cache).all())
    rows = []
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, len(TASKS))
    for column, (task, (_, scale)) in enumerate(TASKS.items()):
        blanks = {"STEPS": dps_steps, "SCALE": scale, "NUM_LEVELS": num_levels, "GROWTH": growth}
        run = TaskRun(prior, batches[task], output / f"task{column}", network, blanks)
        dps = run.dps()
        outcomes = {("start", 0.0, 0.0, ""): run.start()}
        for score_sigma in score_sigmas:
            level = max(score_sigma, prior.sigma_min)
            limit = 2 / (1 / level**2 + 1 / SIGMA_Y**2 + 1 / ANCHOR_SIGMA**2)  # of stability, with ||A|| <= 1
            for h in step_sizes:
                if h < 0.9 * limit:
                    for ending, outcome in run.langevin(h, level).items():
                        outcomes[("Langevin", h, level, ending)] = outcome
        truth = network.of_set(run.truth)
        for (method, h, level, ending), outcome in {("DPS", 0.0, 0.0, ""): dps, **outcomes}.items():
            cells = {name: f"{float(outcome.values[name].mean()):.4f}" for name in ("l2", "lpips", "residual")}
            cells |= {f"{name}_vs_dps": spelt(outcome.paired(dps, name), 4) for name in ("l2", "lpips")}
            cells |= {"kid": spelt(outcome.kernel(real), 5), "kid_vs_dps": spelt(outcome.paired_kernel(dps, real), 5)}
            row = Row(task, method, h, round(level, 4), ending, **cells)
            rows.append(row)
            print(", ".join(f"{name} {value}" for name, value in asdict(row).items() if value != ""), flush=True)
        print(f"{task}: kernel distance of the true faces {kernel_distance(truth, real):.5f}", flush=True)
        _draw(panels[:, column], task, dps, outcomes, real)
    write_rows(output / "step_size.csv", rows)
    figure.savefig(output / "step_size.png", dpi=90)
    print(f"picture: {output / 'step_size.png'}")


class TaskRun:
    """The methods of one task, on the same measurements; what is in the folder is not computed again."""

    def __init__(
        self, prior: DiffusionPrior, batch: Batch, folder: Path, network: VGG16Features, blanks: dict[str, float]
    ) -> None:
        assert batch.measurement is not None
        assert batch.truth is not None
        self.prior, self.batch, self.folder, self.network = prior, batch, folder, network
        self.measurement, self.truth = batch.measurement, batch.truth
        self.metrics = face_metrics()
        self.sampler = read_samplers(SAMPLERS, "dps", blanks)["DPS"]
        paper = read_samplers(SAMPLERS, "from_dps", blanks, "paper")["paper"]
        assert isinstance(paper, AnnealedLangevin)
        self.paper = replace(paper, clip=False)
        folder.mkdir(exist_ok=True)
        self.estimate = self.begin = torch.empty(0)

    def rng(self) -> Streams:
        """Fresh streams: every method sees the same numbers for the same purpose."""
        return Streams(self.batch.seed, self.batch.ids)

    def dps(self) -> Outcome:
        """The warm start itself."""
        self.estimate = self._kept(
            "dps", lambda: self.sampler(self.prior, self.measurement, self.rng(), self._progress)
        )
        return self._judge(self.estimate)

    def start(self) -> Outcome:
        """Where Langevin starts: re-noised to t = 100, then reverse diffusion."""
        anchor, reverse = self._anchor(), self.paper.reverse
        assert reverse is not None
        self.begin = self._kept(
            "start",
            lambda: reverse.from_level(self.prior, self.measurement, anchor, ANCHOR_SIGMA, self.rng(), self._progress),
        )
        return self._judge(self.begin)

    def langevin(self, h: float, score_sigma: float) -> dict[str, Outcome]:
        """Annealed Langevin from there: ending -> outcome."""
        sampler = replace(self.paper, step_size=h, score_sigma=score_sigma)
        chain = self._kept(
            f"langevin_h{h:g}_s{score_sigma:.4g}",
            lambda: sampler.anneal(
                self.prior, self.measurement, self.begin, self._anchor(), self.rng(), self._progress
            ),
        )
        outcomes = {"": self._judge(chain)}
        if score_sigma > self.prior.sigma_min * 1.01:
            once = ReverseDiffusion(ListedSigmas([0.0]))
            denoised = once.from_level(self.prior, self.measurement, chain, score_sigma, self.rng())
            outcomes["denoised"] = self._judge(denoised)
        return outcomes

    def _anchor(self) -> Tensor:
        return self.estimate + ANCHOR_SIGMA * self.rng().randn_like("anchor", self.estimate)

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        path = self.folder / f"{name}.npy"
        if not path.exists():
            start = time.monotonic()
            partial = self.folder / f".{name}.partial.npy"
            np.save(partial, compute().numpy())
            partial.replace(path)
            print(f"{path}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        return torch.from_numpy(np.load(path))

    def _judge(self, x: Tensor) -> Outcome:
        values = measured(self.metrics, x[None], self.truth, self.measurement)
        return Outcome(values, self.network.of_set(x))

    def _progress(self, stage: str, step: int, total: int, x: Tensor) -> None:
        if step % 250 == 0:
            print(f"{self.folder.name}: {stage}, step {step} of {total}", file=sys.stderr, flush=True)


def measured_faces(held_out: Path, family: OperatorFamily, num_faces: int, seed: int) -> Batch:
    """The first held-out faces and their measurements under a small task."""
    data = ImageArray(held_out, family, GaussianNoise(SIGMA_Y), seed=seed, batch_size=num_faces, limit=num_faces)
    data.setup("predict")
    return data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)


def _digest(batches: dict[str, Batch]) -> str:
    """Of everything that was measured, and of the truths."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in batches.values():
        assert batch.measurement is not None
        assert batch.truth is not None
        digest.update(batch.measurement.y.numpy().tobytes() + batch.truth.numpy().tobytes())
    return digest.hexdigest()


def _keep_settings(path: Path, settings: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != settings:
        raise UserError(f"{path.parent} holds results of another prior or other settings: choose another output")
    path.write_text(settings, encoding="utf-8")


def _draw(
    panels: Sequence[Axes],
    task: str,
    dps: Outcome,
    outcomes: dict[tuple[str, float, float, str], Outcome],
    real: Tensor,
) -> None:
    """L2 above, kernel distance below; DPS dashed, the start dotted."""
    curves: dict[tuple[float, str], list[tuple[float, Outcome]]] = {}
    for (method, h, level, ending), outcome in outcomes.items():
        if method == "Langevin":
            curves.setdefault((level, ending), []).append((h, outcome))
    start = next(outcome for (method, *_), outcome in outcomes.items() if method == "start")

    def l2(outcome: Outcome) -> tuple[float, float]:
        values = outcome.values["l2"]
        return float(values.mean()), outcome.paired(dps, "l2")[1]

    def kid(outcome: Outcome) -> tuple[float, float]:
        return kernel_distance(outcome.features, real), outcome.paired_kernel(dps, real)[1]

    for axes, measure, title in zip(panels, (l2, kid), ("L2", "kernel distance (KID)"), strict=True):
        for (level, ending), points in curves.items():
            means, bars = zip(*(measure(outcome) for _, outcome in points), strict=True)
            label = f"score at sigma {level:.2g}{', denoised' if ending else ''}"
            axes.errorbar([h for h, _ in points], means, bars, marker="o", capsize=3, label=label)
        axes.axhline(measure(dps)[0], linestyle="--", color="black", label="DPS")
        axes.axhline(measure(start)[0], linestyle=":", color="grey", label="start of the chain")
        axes.set(xscale="log", xlabel="step size h", ylabel=title, title=task)
    panels[0].legend(fontsize="x-small")
