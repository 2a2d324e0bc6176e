"""MRI and compressed sensing under priors whose posteriors are known."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.science.sensing import sensing
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import interval, write_rows
from benchmarks.truth.exact_posterior import best_scale, plain_dps
from datamodules import PhantomImages
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics import NMSE, ImageMetric, MagnitudePSNR, MagnitudeSSIM, Residual
from posterior.metrics.distribution import bootstrap, coverage
from posterior.noise import GaussianNoise
from posterior.operators import CartesianMRI
from posterior.priors import GaussianFieldPrior, GaussianMixturePrior
from posterior.random import stream
from posterior.samplers import (
    AnnealedLangevin,
    ExactGaussian,
    GeometricAnnealing,
    GeometricSigmas,
    KineticLangevin,
    Lasso,
    MixturePosterior,
    ProximalDenoising,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
)

FIT_START = 100_000
"""First phantom that the priors are fitted to."""
CENTER = {4: 0.08, 8: 0.04}
"""Acceleration -> share of the columns that is always measured (fastMRI)."""
ExactPrior = GaussianFieldPrior | GaussianMixturePrior
Draw = Callable[["Case", Measurement, int], Tensor]
"""Of (images, their measurements with a row a chain, seed): samples (R, C, H, W)."""
THRESHOLDS = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of the LASSO, to choose from."""
ANCHOR_SIGMA = 0.1
"""Noise of Algorithm 2's anchor, and the level at which the kinetic chain begins."""


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


@dataclass(frozen=True)
class Case:
    """Images of a prior, and their measurements."""

    prior: ExactPrior
    truth: Tensor
    measurement: Measurement

    @classmethod
    def draw(cls, prior: ExactPrior, family: CartesianMRI, count: int, sigma_y: float, seed: int, size: int) -> Case:
        """``count`` samples of the prior, measured."""
        generator = stream(seed, "mri", -1, "truth")
        if isinstance(prior, GaussianMixturePrior):
            truth = prior.sample(count, generator)
        else:
            truth = prior.sample_from(torch.randn(count, 2, size, size, generator=generator))
        operator = family.realise(truth.shape[1:], [stream(seed, f"{n}", -1, "operator") for n in range(count)])
        noise = torch.randn(count, *operator.measurement_shape, generator=stream(seed, "mri", -1, "noise"))
        return cls(prior, truth, Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise))


def mri(
    output: Path = Path("results/mri"),
    size: int = 32,
    accelerations: Sequence[int] = (4, 8),
    coils: Sequence[int] = (1, 4),
    sigma_y: float = 0.02,
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
    Methods: zero-filled; LASSO; DPS; Algorithm 3 from the LASSO (re-noised to its own error); Algorithm 2, whose anchor
    is drawn from the truth, and whose target p(x | x0, y) is narrower than p(x | y); kinetic from a proximal start; and
    exact samples of p(x | y). Both Langevin chains have averaged noise. The LASSO's threshold and the scale of DPS are
    the best of a few on eight other images.

    Args:
        output: folder of mri.csv, mri.png, sensing.csv and sensing.png.
        size: side in pixels.
        accelerations: of the random masks, 4 or 8.
        coils: numbers of coils.
        sigma_y: noise of a real or imaginary part; the brightest pixels have a magnitude near 1.
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
    priors = fitted(size, num_fitted, seed)
    for prior_name, prior in priors.items():
        for acceleration in accelerations:
            for count in coils:
                family = CartesianMRI(acceleration, CENTER[acceleration], num_coils=count)
                case = Case.draw(prior, family, num_images, sigma_y, seed, size)
                other = Case.draw(prior, family, 8, sigma_y, seed + 1, size)
                chosen = methods(other, calls, seed)
                found = evaluate(case, chosen.draws, num_samples, seed)
                for method, row in found.rows(prior_name, acceleration, count):
                    row.setting = chosen.settings.get(method)
                    rows.append(row)
                    print(_line(row), flush=True)
                    if count == coils[0]:
                        pictures[prior_name, acceleration, method] = found.picture(method)
                write_rows(output / "mri.csv", rows)
    draw(pictures, output / "mri.png")
    print(f"picture: {output / 'mri.png'}")
    mixture = priors["mixture"]
    assert isinstance(mixture, GaussianMixturePrior)
    sensing(mixture, output, shares, num_images, calls, sigma_y, seed)
    return rows


def fitted(size: int, count: int, seed: int) -> dict[str, ExactPrior]:
    """Priors of two channels, fitted to phantoms."""
    print(f"drawing {count} phantoms, fitting priors", file=sys.stderr, flush=True)
    phantoms = PhantomImages(size, FIT_START, count).all()
    rank = min(32, count // 16)
    return {
        "Gaussian field": GaussianFieldPrior.fit(phantoms),
        "mixture": GaussianMixturePrior.fit(phantoms, num_components=8, rank=rank, num_steps=30, seed=seed),
    }


@dataclass(frozen=True)
class Methods:
    """How samples are drawn, and the settings that were chosen on other images, by method."""

    draws: dict[str, Draw]
    settings: dict[str, float]


def methods(other: Case, calls: int, seed: int) -> Methods:
    """All of them; what has to be chosen is chosen on other images."""
    prior, measured = other.prior, other.measurement
    sigma_y = measured.gaussian_sigma("mri")
    pool = PooledStreams(len(other.truth), seed + 1)

    def error(x: Tensor) -> float:
        return float(NMSE()(x, other.truth, measured).mean())

    threshold = best_scale(lambda t: Lasso(t)(prior, measured, pool), error, THRESHOLDS)
    scale = best_scale(
        lambda s: plain_dps(calls, s)(prior, measured, PooledStreams(len(other.truth), seed + 1)),
        error,
        (0.1, 0.3, 1.0, 3.0),
    )
    lasso = Lasso(threshold)
    radius = float((lasso(prior, measured, pool) - other.truth).square().mean().sqrt())
    norm = measured.linear_operator("mri").norm_bound()
    curvature = prior.curvature(prior.sigma_min) + (norm / sigma_y) ** 2
    algorithm_3 = AnnealedLangevin(
        0.8 * 2 / (curvature + radius**-2),
        averaged_noise=True,
        warm_start=lasso,
        anchor_sigma=radius,
        reverse=ReverseDiffusion(RespacedSigmas(50)),
        schedule=GeometricAnnealing(calls),
    )
    start = ProximalDenoising(GeometricSigmas(20, 3.0, ANCHOR_SIGMA), clip_denoised=False, covariance="jacobian")
    kinetic = KineticLangevin(
        0.75,
        warm_start=start,
        reverse=None,
        anchor_sigma=ANCHOR_SIGMA,
        anchor_term=False,
        score_sigma=1e-3,
        score_sigma_top=ANCHOR_SIGMA,
        schedule=GeometricAnnealing(60),
    )

    second = replace(algorithm_3, warm_start=None, anchor_sigma=ANCHOR_SIGMA)
    second = replace(second, step_size=0.8 * 2 / (curvature + ANCHOR_SIGMA**-2))

    def by(sampler: Sampler) -> Draw:
        return lambda case, rows, seed: sampler(prior, rows, PooledStreams(len(rows.y), seed))

    def algorithm_2(case: Case, rows: Measurement, seed: int) -> Tensor:
        anchor = case.truth + ANCHOR_SIGMA * PooledStreams(len(case.truth), seed).randn_like("given", case.truth)
        anchors = anchor.repeat(len(rows.y) // len(anchor), 1, 1, 1)
        return second.from_anchor(prior, rows, anchors, PooledStreams(len(rows.y), seed))

    draws: dict[str, Draw] = {
        "zero-filled": lambda case, rows, seed: rows.linear_operator("mri").adjoint(rows.y),
        "LASSO": by(lasso),
        "DPS": by(plain_dps(calls, scale)),
        "Algorithm 3": by(algorithm_3),
        "Algorithm 2": algorithm_2,
        "kinetic": by(kinetic),
        "exact": lambda case, rows, seed: exact(prior, rows, seed),
    }
    return Methods(draws, {"LASSO": threshold, "DPS": scale, "Algorithm 3": radius, "Algorithm 2": ANCHOR_SIGMA})


def exact(prior: ExactPrior, rows: Measurement, seed: int) -> Tensor:
    """Exact samples; equal rows are of the same image."""
    if isinstance(prior, GaussianFieldPrior):
        return ExactGaussian()(prior, rows, PooledStreams(len(rows.y), seed))
    out = torch.empty(len(rows.y), *rows.image_shape)
    _, group = torch.unique(rows.y.flatten(1), dim=0, return_inverse=True)
    for number in range(int(group.max()) + 1):
        places = torch.nonzero(group == number)[:, 0]
        posterior = MixturePosterior(prior, rows.rows(places[:1]))
        out[places] = posterior.sample(len(places), stream(seed, f"{number}", -1, "exact")).to(out)
    return out


@dataclass
class Found:
    """Samples of all methods, (K, B, 2, H, W); K = 1 for an estimate."""

    case: Case
    samples: dict[str, Tensor]
    cost: dict[str, tuple[float, float, float]]

    def rows(self, prior: str, acceleration: int, coils: int) -> list[tuple[str, Row]]:
        """The table's rows."""
        return [(method, self._row(prior, acceleration, coils, method)) for method in self.samples]

    def _row(self, prior: str, acceleration: int, coils: int, method: str) -> Row:
        samples, measurement = self.samples[method], self.case.measurement
        metrics: list[ImageMetric] = [MagnitudePSNR(), MagnitudeSSIM(), NMSE(), Residual()]
        psnr, ssim, nmse, residual = (self._values(metric, samples[:1]) for metric in metrics)
        lasso = self._values(metrics[2], self.samples["LASSO"])
        mean = NMSE()(samples.mean(dim=0), self.case.truth, measurement).numpy()
        row = Row(
            prior,
            acceleration,
            coils,
            method,
            *interval(psnr),
            *interval(ssim),
            *interval(nmse),
            nmse_of_mean=float(mean.mean()),
            nmse_vs_lasso=100 * interval(nmse - lasso)[0] / float(lasso.mean()),
            nmse_vs_lasso_half=100 * interval(nmse - lasso)[1] / float(lasso.mean()),
            residual=float(residual.mean()),
            **dict(zip(("forward", "backward", "seconds"), self.cost[method], strict=True)),
        )
        if len(samples) > 1:
            shares = coverage(samples, self.case.truth).numpy()
            row.coverage = float(shares.mean())
            row.coverage_low, row.coverage_high = bootstrap(shares, lambda values: float(np.mean(values)))
        return row

    def _values(self, metric: ImageMetric, samples: Tensor) -> np.ndarray:
        return metric(samples[0], self.case.truth, self.case.measurement).numpy()

    def picture(self, method: str) -> dict[str, np.ndarray]:
        """Magnitudes of the first image: truth, a sample, and with several their mean, its error and their spread."""
        samples, truth = self.samples[method][:, 0], _magnitude(self.case.truth[0])
        shown = {"truth": truth, "sample": _magnitude(samples[0])}
        if len(samples) > 1:
            mean = _magnitude(samples.mean(dim=0))
            shown |= {"mean": mean, "|error|": np.abs(mean - truth)}
            shown["std"] = torch.linalg.vector_norm(samples, dim=1).std(dim=0).numpy()
        else:
            shown["|error|"] = np.abs(shown["sample"] - truth)
        return shown


def evaluate(case: Case, draws: dict[str, Draw], num_samples: int, seed: int) -> Found:
    """Run every method on every image."""
    found = Found(case, {}, {})
    for method, draw_samples in draws.items():
        count = 1 if method in ("zero-filled", "LASSO") else num_samples
        rows, cost = case.measurement.repeat(count), case.prior.cost
        before, begun = (cost.forward, cost.backward), time.monotonic()
        x = draw_samples(case, rows, seed + 2)
        spent = (cost.forward - before[0], cost.backward - before[1], time.monotonic() - begun)
        forward, backward, seconds = (value / len(rows.y) for value in spent)
        found.samples[method] = x.view(count, *case.truth.shape)
        found.cost[method] = (forward, backward, seconds)
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
