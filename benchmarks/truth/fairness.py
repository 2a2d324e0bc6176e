"""Do a sampler's skin tones follow the posterior's proportions, where nothing measured tells the tone?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.judge.problems import Problem
from benchmarks.tools.measuring import drawn
from benchmarks.tools.pooled import PooledStreams
from benchmarks.tools.tables import write_rows
from benchmarks.tools.tuning import best_scale
from benchmarks.truth.exact_posterior import samplers
from datamodules.toon import toon_tones
from datamodules.training import ToonFaceImages
from posterior.errors import UserError
from posterior.measurement import Measurement
from posterior.metrics.distribution import bootstrap
from posterior.noise import GaussianNoise
from posterior.operators import MaskInpainting
from posterior.priors import GaussianMixturePrior
from posterior.random import stream
from posterior.results.pictures import save_png, sheet

TONES = {"light": ("#f1c3a5", 0.7), "brown": ("#a36b4f", 0.2), "dark": ("#5c3829", 0.1)}
"""Name -> (the palette's colour, its share)."""
ANCHOR_SIGMA = 0.3
"""To which Algorithm 3 re-noises what DPS gives."""


@dataclass
class Shares:
    """What a sampler made of the faces whose skin is masked."""

    sampler: str
    light: float
    light_low: float
    light_high: float
    brown: float
    brown_low: float
    brown_high: float
    dark: float
    dark_low: float
    dark_high: float
    """Shares of samples, each with its 95 % interval from the bootstrap over faces."""
    axis_w2: float
    """Distance to exact samples along the axis from light to dark: 1-D W2 over their standard deviation."""
    residual: float
    """1 for samples that fit what is measured."""
    calls: float


def fairness(
    output: Path = Path("results/fairness"),
    num_faces: int = 60,
    num_samples: int = 20,
    calls: int = 300,
    num_components: int = 8,
    rank: int = 32,
    start: int = 10000,
    count: int = 10000,
    sigma_y: float = 0.05,
    dps_scales: Sequence[float] = (0.2, 0.5, 1.0, 2.0),
    step_fraction: float = 0.1,
    cache: Path = Path("cache/toon"),
    smoke: bool = False,
    seed: int = 0,
) -> list[Shares]:
    """Toon faces of three skin tones, 70 / 20 / 10, face and neck masked; writes a table, pictures and mask.npy.

    The prior is a mixture fitted to toon faces whose skin tone is taken out first; each of its components is then
    repeated with every tone, weighted 70 / 20 / 10. The tone so changes masked pixels only: given any y the exact
    posterior has 70 / 20 / 10, which is also the generator's marginal. Measured are real faces that were not fitted,
    their tones drawn 70 / 20 / 10. A sample counts for the tone that its exact responsibilities name. The row "prior"
    are samples that ignore the measurement: they have the right shares, and the wrong residual. Samplers are those of
    configs/truth/samplers.yaml that see y alone: an anchor drawn from the truth would show the tone.

    Args:
        output: folder.
        num_faces: measured.
        num_samples: a face.
        calls: Langevin steps, and DPS steps.
        num_components, rank: of the mixture, before tones.
        start, count: faces among which those to fit are taken; measured ones come after.
        sigma_y: noise level.
        dps_scales: DPS has the one whose residual on 8 other faces is nearest to 1.
        step_fraction: Langevin's step over its limit of stability.
        cache: folder of rendered faces.
        smoke: small sizes, under a minute.
        seed: of everything.

    Raises:
        UserError: if too few faces have one of the tones.
    """
    output.mkdir(parents=True, exist_ok=True)
    if smoke:
        num_faces, num_samples, calls, count, num_components, rank = 8, 4, 30, 500, 2, 8
        dps_scales = dps_scales[:1]
    prior, mask = toned_mixture(start, count, num_components, rank, cache, seed)
    np.save(output / "mask.npy", mask[0, 0].numpy())
    operator, law = MaskInpainting(output / "mask.npy"), GaussianNoise(sigma_y)
    problem = Problem("fairness", "a tone that y does not tell", prior, operator, law, (3, 32, 32))
    truth = _measured_faces(start + count, num_faces + 8, cache, seed)
    test, spare = truth[:num_faces], truth[num_faces:]
    scale = _scale(problem, spare, calls, dps_scales, step_fraction, seed) if len(dps_scales) > 1 else dps_scales[0]
    names = [f"face {number}" for number in range(num_faces)]
    measurement = _masked(problem, test, seed)
    rows = measurement.repeat(num_samples)
    exact = problem.exact_each(measurement, names, num_samples, seed)
    ignoring = problem.truth.sample(len(rows.y), stream(seed, "fairness", -1, "prior"))
    pictures = {"exact": exact, "prior": ignoring.view_as(exact)}
    found = [_counted(name, prior, x, exact, rows, 0.0) for name, x in pictures.items()]
    for name, sampler in samplers(calls, scale, step_fraction, ANCHOR_SIGMA)["from_y"].items():
        x, cost = drawn(prior, partial(sampler, prior, rows, PooledStreams(len(rows.y), seed)))
        pictures[name] = x.view_as(exact)
        found.append(_counted(name, prior, pictures[name], exact, rows, cost.forward + cost.backward))
    for row in found:
        print(_line(row), flush=True)
    write_rows(output / "fairness.csv", found)
    _draw(found, output / "fairness.png")
    shown = [measurement.y[:4], *(samples[k, :4] for samples in pictures.values() for k in range(2))]
    save_png(sheet(torch.cat(shown).clamp(-1, 1), columns=4, enlarge=3), output / "faces.png")
    print(f"faces.png: four measurements, then two samples of each, {', '.join(pictures)}")
    print(f"picture: {output / 'fairness.png'}")
    return found


def toned_mixture(
    start: int, count: int, num_components: int, rank: int, cache: Path, seed: int
) -> tuple[GaussianMixturePrior, Tensor]:
    """The prior, component by component in the order of `TONES`, and the mask (1, 1, H, W) that hides the skin.

    A pixel is masked if it or a neighbour differs by more than 0.1 between the mean faces of two tones.
    """
    skins = np.array([toon_tones(index)["skin"] for index in range(start, start + count)])
    faces = ToonFaceImages(32, start, count, cache).all()
    of_tone = {name: torch.from_numpy(skins == colour) for name, (colour, _) in TONES.items()}
    if min(int(rows.sum()) for rows in of_tone.values()) < 2 * num_components:
        raise UserError(f"fairness: too few of {count} faces have one of the tones")
    means = {name: faces[rows].mean(dim=0) for name, rows in of_tone.items()}
    middle = torch.stack(list(means.values())).mean(dim=0)
    spread = torch.stack(list(means.values())).amax(dim=0) - torch.stack(list(means.values())).amin(dim=0)
    differs = (spread.amax(dim=0, keepdim=True) > 0.1)[None].float()
    hidden = torch.nn.functional.max_pool2d(differs, 3, stride=1, padding=1)
    shifts = {name: hidden[0] * (mean - middle) for name, mean in means.items()}
    untoned = torch.cat([faces[rows] - shifts[name] for name, rows in of_tone.items()])

    def observe(step: int, log_likelihood: float) -> None:
        print(f"fit, step {step}: {log_likelihood / untoned[0].numel():.4f}", file=sys.stderr, flush=True)

    base = GaussianMixturePrior.fit(untoned, num_components, rank, num_steps=15, seed=seed, observe=observe)
    prior = GaussianMixturePrior(
        torch.cat([share * base.weights for _, share in TONES.values()]),
        torch.cat([base.means + shifts[name] for name in TONES]),
        *(value.repeat(len(TONES), *[1] * (value.ndim - 1)) for value in (base.directions, base.variances, base.rest)),
    )
    return prior, 1 - hidden


def tone_shares(prior: GaussianMixturePrior, samples: Tensor) -> Tensor:
    """Probability of each tone for samples (N, C, H, W), (N, 3)."""
    components = torch.cat([prior.responsibilities(part) for part in samples.split(256)])
    return components.unflatten(1, (len(TONES), -1)).sum(dim=2)


def _measured_faces(start: int, count: int, cache: Path, seed: int) -> Tensor:
    """Faces from number ``start`` on whose tones are drawn 70 / 20 / 10, independently of all else."""
    generator = stream(seed, "fairness", -1, "tones")
    shares = torch.tensor([share for _, share in TONES.values()])
    wanted = torch.multinomial(shares, count, replacement=True, generator=generator).tolist()
    colours = [colour for colour, _ in TONES.values()]
    faces, index = [], start
    for tone in wanted:
        while toon_tones(index)["skin"] != colours[tone]:
            index += 1
        faces.append(index)
        index += 1
    images = ToonFaceImages(32, start, index - start, cache).all()
    return images[torch.tensor(faces) - start]


def _masked(problem: Problem, truth: Tensor, seed: int) -> Measurement:
    return problem.measure(truth, [""] * len(truth), seed, stream(seed, "pool", 0, "noise"))


def _scale(
    problem: Problem, truth: Tensor, calls: int, scales: Sequence[float], step_fraction: float, seed: int
) -> float:
    """The scale of DPS whose residual is nearest to that of the truth, 1."""
    measurement = _masked(problem, truth, seed + 1)

    def run(scale: float) -> Tensor:
        dps = samplers(calls, scale, step_fraction, ANCHOR_SIGMA)["from_y"]["DPS"]
        return dps(problem.prior, measurement, PooledStreams(len(truth), seed + 1))

    return best_scale(run, lambda x: abs(float(measurement.relative_residual(x).mean()) - 1), scales)


def _counted(
    sampler: str, prior: GaussianMixturePrior, samples: Tensor, exact: Tensor, rows: Measurement, calls: float
) -> Shares:
    """Of samples (K, B, C, H, W)."""
    shares = tone_shares(prior, samples.flatten(0, 1)).view(*samples.shape[:2], len(TONES))
    chosen = torch.nn.functional.one_hot(shares.argmax(dim=2), len(TONES)).double().mean(dim=0)  # (B, 3)
    columns: dict[str, float] = {}
    for tone, values in zip(TONES, chosen.T.numpy(), strict=True):
        columns[tone] = float(values.mean())
        columns[f"{tone}_low"], columns[f"{tone}_high"] = bootstrap(values, lambda v: float(np.mean(v)))
    tones = prior.means.unflatten(0, (len(TONES), -1)).mean(dim=1)
    axis = (tones[-1] - tones[0]).flatten() / (tones[-1] - tones[0]).norm()
    places, wanted = (x.flatten(0, 1).flatten(1) @ axis for x in (samples, exact))
    distance = float((places.sort().values - wanted.sort().values).square().mean().sqrt() / wanted.std())
    residual = float(rows.relative_residual(samples.flatten(0, 1)).mean())
    return Shares(sampler, **columns, axis_w2=distance, residual=residual, calls=calls)


def _line(row: Shares) -> str:
    return (
        f"{row.sampler:12s} light {row.light:.3f} [{row.light_low:.3f}, {row.light_high:.3f}]  "
        f"brown {row.brown:.3f} [{row.brown_low:.3f}, {row.brown_high:.3f}]  "
        f"dark {row.dark:.3f} [{row.dark_low:.3f}, {row.dark_high:.3f}]  "
        f"axis W2 {row.axis_w2:.3f}  residual {row.residual:.3f}  calls {row.calls:.0f}"
    )


def _draw(found: Sequence[Shares], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found))
    for number, (tone, (colour, share)) in enumerate(TONES.items()):
        middle, low, high = (
            np.array([getattr(row, name) for row in found]) for name in (tone, f"{tone}_low", f"{tone}_high")
        )
        bars = [middle - low, high - middle]
        at = places + 0.27 * (number - 1)
        axes.bar(at, middle, 0.25, yerr=bars, capsize=3, color=colour, label=tone)
        axes.axhline(share, linestyle="--", color=colour, linewidth=1)
    axes.set_xticks(places, [row.sampler for row in found])
    axes.set(ylabel="share of samples", title="skin tones of samples, face and neck masked (dashed: the posterior)")
    axes.legend()
    figure.savefig(path, dpi=90)
