"""MRI and compressed sensing under priors whose posteriors are known."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.judge.problems import Problem, read_problem
from benchmarks.science.sensing import SAMPLERS, images, sensing
from benchmarks.tools.measuring import Cost, drawn, measured
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import interval, write_rows
from benchmarks.tools.tuning import best_scale, read_samplers
from datamodules import PhantomImages
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics import NMSE, MagnitudePSNR, MagnitudeSSIM, Residual
from posterior.metrics.distribution import bootstrap, coverage
from posterior.operators import CartesianMRI
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior
from posterior.samplers import AnnealedSampler
from posterior.shipped import CONFIGS

SETTINGS = CONFIGS / "science"
PROBLEMS = {"Gaussian field": "mri-field.yaml", "mixture": "mri-mixture.yaml"}
FIT_START = 100_000
"""First phantom that the priors are fitted to."""
FIRST = ("DPS", "Algorithm 3", "kinetic", "exact")
"""Methods of the page's first picture, under the last prior at the highest acceleration."""
CENTER = {4: 0.08, 8: 0.04}
"""Acceleration -> share of the columns that is always measured (fastMRI)."""
THRESHOLDS = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the LASSO, to choose from."""
SCALES = (0.1, 0.3, 1.0, 3.0)
"""Of DPS."""
ANCHOR_SIGMA = 0.1
"""Noise of Algorithm 2's anchor."""
CHOSEN = {"LASSO": "THRESHOLD", "DPS": "SCALE", "Algorithm 3": "RADIUS", "Algorithm 2": "ANCHOR"}
"""Method -> the blank of its settings that a row notes."""
METRICS = {"psnr": MagnitudePSNR(), "ssim": MagnitudeSSIM(), "nmse": NMSE(), "residual": Residual()}


@dataclass
class Row:
    """One method on one acceleration; errors are means over images, with half of their 95 % intervals."""

    prior: str
    acceleration: int
    coils: int
    method: str
    psnr: float
    psnr_half: float
    ssim: float
    ssim_half: float
    nmse: float
    nmse_half: float
    nmse_of_mean: float
    nmse_vs_lasso: float
    """Paired difference to the LASSO's, in % of its mean."""
    nmse_vs_lasso_half: float
    residual: float
    forward: float
    backward: float
    seconds: float
    """A sample."""
    coverage: float | None = None
    """Of 90 % intervals of single numbers; None for methods without samples."""
    coverage_low: float | None = None
    coverage_high: float | None = None
    setting: float | None = None
    """The LASSO's threshold, the scale of DPS, the noise of an anchor."""


def mri(
    output: Path = Path("results/mri"),
    size: int = 32,
    accelerations: Sequence[int] = (4, 8),
    coils: Sequence[int] = (1, 4),
    num_fitted: int = 2000,
    num_images: int = 48,
    num_samples: int = 19,
    calls: int = 300,
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
    smoke: bool = False,
    seed: int = 0,
) -> list[Row]:
    """Undersampled MRI, and compressed sensing, of phantom-like complex images; writes tables and pictures.

    A Gaussian field and a Gaussian mixture are fitted to phantoms; images are drawn from them, so that the posterior is
    known and a 90 % interval should hold the truth 90 times in 100 (between the least and the greatest of 19 samples).
    Methods: zero-filled; LASSO; DPS; Algorithm 3 from the LASSO (re-noised to its own error); kinetic from a proximal
    start; exact samples of p(x | y); and, in a table of its own, Algorithm 2, whose anchor is drawn from the truth, and
    whose target p(x | x0, y) is narrower than p(x | y). Both Langevin chains have averaged noise. The LASSO's threshold
    and the scale of DPS are the best of a few on eight other images. Problems and samplers are in configs/science.

    Args:
        output: folder of mri.csv, mri_from_anchor.csv, mri.png, mri_first.png, sensing.csv and sensing.png.
        size: side in pixels.
        accelerations: of the random masks, 4 or 8.
        coils: numbers of coils.
        num_fitted: phantoms to fit to.
        num_images: of each case.
        num_samples: K, of each image.
        calls: steps of DPS and of Langevin.
        shares: of the coefficients that compressed sensing measures.
        smoke: small sizes, under a minute.
        seed: of everything.

    Raises:
        UserError: if an acceleration is another one.
    """
    if strange := set(accelerations) - set(CENTER):
        raise UserError(f"mri: accelerations are {', '.join(map(str, CENTER))}, got {', '.join(map(str, strange))}")
    if smoke:
        size, num_fitted, num_images, calls, coils, shares = 16, 200, 4, 40, (1, 2), (0.2, 0.5)
    rows, pictures = [], {}
    changes = {"image_shape": [2, size, size], "prior": {"init_args": {"size": size, "count": num_fitted}}}
    for prior, file in PROBLEMS.items():
        fitted = read_problem(SETTINGS / file, changes=changes)
        for acceleration in accelerations:
            for count in coils:
                family = CartesianMRI(acceleration, CENTER[acceleration], num_coils=count)
                problem = replace(fitted, operator=family)
                blanks = tuned(problem, calls, seed)
                found = evaluate(problem, blanks, num_images, num_samples, seed)
                for method in found.samples:
                    setting = blanks.get(CHOSEN.get(method, ""))
                    rows.append(found.row(prior, acceleration, count, method, setting))
                    print(_line(rows[-1]), flush=True)
                    if count == coils[0]:
                        pictures[prior, acceleration, method] = found.picture(method)
                given = [row for row in rows if row.method == "Algorithm 2"]
                write_rows(output / "mri_from_anchor.csv", given)
                write_rows(output / "mri.csv", [row for row in rows if row not in given])
    draw(pictures, output / "mri.png")
    first = [(list(PROBLEMS)[-1], max(accelerations), method) for method in FIRST]
    draw({place: pictures[place] for place in first}, output / "mri_first.png")
    print(f"pictures: {output / 'mri.png'}, {output / 'mri_first.png'}")
    sensing(fitted, output, shares, num_images, calls, seed)  # under the last prior, the mixture
    return rows


def phantom_field(size: int, count: int) -> GaussianFieldPrior:
    """A Gaussian field of two channels, fitted to so many phantoms."""
    return GaussianFieldPrior.fit(_phantoms(size, count))


def phantom_mixture(size: int, count: int, num_components: int = 8) -> GaussianMixturePrior:
    """A mixture, fitted to the same."""
    rank = min(32, count // 16)
    return GaussianMixturePrior.fit(_phantoms(size, count), num_components=num_components, rank=rank, num_steps=30)


@functools.lru_cache(maxsize=1)
def _phantoms(size: int, count: int) -> Tensor:
    print(f"drawing {count} phantoms to fit a prior to", file=sys.stderr, flush=True)
    return PhantomImages(size, FIT_START, count).all()


def tuned(problem: Problem, calls: int, seed: int) -> dict[str, float]:
    """The blanks of the samplers' settings; what has to be chosen is chosen on eight other images."""
    truth, measurement = images(problem, "mri", 8, seed + 1)
    blanks: dict[str, float] = {**dict.fromkeys(CHOSEN.values(), 1.0), "CALLS": calls, "ANCHOR": ANCHOR_SIGMA}

    def run(method: str, value: float) -> Tensor:
        with_value = blanks | {CHOSEN[method]: value}
        sampler = read_samplers(SAMPLERS, "from_y", with_value, method)[method]
        return sampler(problem.prior, measurement, PooledStreams(len(truth), seed + 1))

    def error(x: Tensor) -> float:
        return float(NMSE()(x, truth, measurement).mean())

    for method, choices in (("LASSO", THRESHOLDS), ("DPS", SCALES)):
        blanks[CHOSEN[method]] = best_scale(partial(run, method), error, choices)
    radius = (run("LASSO", blanks["THRESHOLD"]) - truth).square().mean().sqrt()
    return blanks | {"RADIUS": float(radius)}


@dataclass
class Found:
    """Samples of all methods, (K, B, 2, H, W), K = 1 for an estimate, and what one of them cost."""

    truth: Tensor
    measurement: Measurement
    samples: dict[str, Tensor]
    cost: dict[str, Cost]

    def row(self, prior: str, acceleration: int, coils: int, method: str, setting: float | None) -> Row:
        """Of the tables."""
        values = {name: value.numpy() for name, value in self._measured(method).items()}
        lasso = self._measured("LASSO")["nmse"].numpy()
        versus = interval(values["nmse"] - lasso)
        cost = self.cost[method]
        row = Row(
            prior,
            acceleration,
            coils,
            method,
            *interval(values["psnr"]),
            *interval(values["ssim"]),
            *interval(values["nmse"]),
            nmse_of_mean=float(values.get("nmse_of_mean", values["nmse"]).mean()),
            nmse_vs_lasso=100 * versus[0] / float(lasso.mean()),
            nmse_vs_lasso_half=100 * versus[1] / float(lasso.mean()),
            residual=float(values["residual"].mean()),
            forward=cost.forward,
            backward=cost.backward,
            seconds=cost.seconds,
            setting=setting,
        )
        if len(self.samples[method]) > 1:
            shares = coverage(self.samples[method], self.truth).numpy()
            row.coverage = float(shares.mean())
            row.coverage_low, row.coverage_high = bootstrap(shares, lambda values: float(np.mean(values)))
        return row

    def _measured(self, method: str) -> dict[str, Tensor]:
        return measured(METRICS, self.samples[method], self.truth, self.measurement)

    def picture(self, method: str) -> dict[str, np.ndarray]:
        """Magnitudes of the first image: truth, a sample, and with several their mean, its error and their spread."""
        samples, truth = self.samples[method][:, 0], _magnitude(self.truth[0])
        shown = {"truth": truth, "sample": _magnitude(samples[0])}
        if len(samples) > 1:
            mean = _magnitude(samples.mean(dim=0))
            shown |= {"mean": mean, "|error|": np.abs(mean - truth)}
            shown["std"] = torch.linalg.vector_norm(samples, dim=1).std(dim=0).numpy()
        else:
            shown["|error|"] = np.abs(shown["sample"] - truth)
        return shown


def evaluate(problem: Problem, blanks: Mapping[str, float], num_images: int, num_samples: int, seed: int) -> Found:
    """Run every method on every image."""
    truth, measurement = images(problem, "mri", num_images, seed)
    prior, rows = problem.prior, measurement.repeat(num_samples)
    draws: dict[str, Callable[[], Tensor]] = {
        "zero-filled": lambda: measurement.linear_operator("mri").adjoint(measurement.y)
    }
    for method, sampler in read_samplers(SAMPLERS, "from_y", blanks).items():
        seen = measurement if method == "LASSO" else rows
        draws[method] = partial(sampler, prior, seen, PooledStreams(len(seen.y), seed + 2))
    anchors = truth + ANCHOR_SIGMA * PooledStreams(len(truth), seed + 2).randn_like("given", truth)
    anchors = anchors.repeat(num_samples, 1, 1, 1)
    for method, sampler in read_samplers(SAMPLERS, "from_anchor", blanks).items():
        assert isinstance(sampler, AnnealedSampler)
        draws[method] = partial(sampler.from_anchor, prior, rows, anchors, PooledStreams(len(rows.y), seed + 2))
    names = [f"{number}" for number in range(num_images)]
    draws["exact"] = lambda: problem.exact_each(measurement, names, num_samples, seed).flatten(0, 1)
    found = Found(truth, measurement, {}, {})
    for method, draw_samples in draws.items():
        x, found.cost[method] = drawn(prior, draw_samples)
        found.samples[method] = x.view(-1, *truth.shape)
    return found


def _magnitude(x: Tensor) -> np.ndarray:
    return torch.linalg.vector_norm(x, dim=0).numpy()


def _line(row: Row) -> str:
    covered = "-" if row.coverage is None else f"{row.coverage:.3f} [{row.coverage_low:.3f}, {row.coverage_high:.3f}]"
    return (
        f"{row.prior:14s} {row.acceleration}x, {row.coils} coils, {row.method:11s} PSNR {row.psnr:5.2f} +- "
        f"{row.psnr_half:.2f}  SSIM {row.ssim:.3f}  NMSE {row.nmse:.4f} +- {row.nmse_half:.4f} (mean "
        f"{row.nmse_of_mean:.4f})  vs LASSO {row.nmse_vs_lasso:+.0f} +- {row.nmse_vs_lasso_half:.0f} %  residual "
        f"{row.residual:.3f}  coverage {covered}  calls {row.forward:.0f} + {row.backward:.0f}, {row.seconds:.3f} s"
    )


def draw(pictures: dict[tuple[str, int, str], dict[str, np.ndarray]], path: Path) -> None:
    """A row a prior, acceleration and method: truth, sample, mean, its error beside the spread of the samples."""
    columns = ("truth", "sample", "mean", "|error|", "std")
    figure = Figure(figsize=(2 * len(columns) + 1.5, 1.9 * len(pictures)), layout="constrained")
    panels = figure.subplots(len(pictures), len(columns), squeeze=False)
    for line, ((prior, acceleration, method), shown) in zip(panels, pictures.items(), strict=True):
        top = shown["truth"].max()
        for axes, column in zip(line, columns, strict=True):
            axes.set(xticks=[], yticks=[])
            if column not in shown:
                axes.axis("off")
                continue
            small = column in ("|error|", "std")
            axes.imshow(shown[column], cmap="magma" if small else "gray", vmin=0, vmax=top / 4 if small else top)
        line[0].set_ylabel(f"{prior}, {acceleration}x\n{method}", fontsize="small")
    for axes, column in zip(panels[0], columns, strict=True):
        axes.set_title(f"{column} (4x)" if column in ("|error|", "std") else column)
    figure.savefig(path, dpi=80)
