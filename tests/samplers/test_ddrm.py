"""DDRM against the runs of the authors' code and of InverseBench, and where it is exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.samplers import DDRM, GeometricSigmas, Sampler
from tests.peers import SIGMA_Y, GaussianByMatrix, Levels, Run, by_rows, cases, golden, spied

ROWS = 8000


class StartedAsTheAuthors(DDRM):
    """V^T x / sigma where variance-preserving units are V^T x / sqrt(1 + sigma^2)."""

    def start(self, known, sigma, rng):
        return super().start(known, sigma, rng) * (1 + sigma**2) ** 0.5 / sigma


class AllNoiseOfY(DDRM):
    """InverseBench: ybar's noise is subtracted whatever its weight, and only where it is below the level."""

    def left(self, known, sigma_next):
        return (sigma_next**2 - known.noise.where(known.noise <= sigma_next, 0) ** 2) ** 0.5


def chosen(run: Run, sigma_next: float, unseen: Tensor, faint: Tensor, clear: Tensor) -> Tensor:
    """Of three draws the number that counts in each coordinate."""
    large = run.problem["S"] * sigma_next >= SIGMA_Y
    return unseen.where(run.problem["M"] == 0, clear.where(large, faint))


def candidates(run: Run, sampler: DDRM, arguments: tuple, noise: tuple[Tensor, ...]) -> Tensor:
    """What the three cases give in all coordinates, where the reference fills up s with ones, (3, R, 64)."""
    known, *rest = arguments
    padded = replace(known, s=run.problem["S"].view_as(known.s[:1]).expand_as(known.s))
    moments = sampler.moments(padded, *rest)
    return torch.stack([mean + std * e.view_as(mean) for (mean, std), e in zip(moments, noise, strict=True)])


@pytest.mark.parametrize("case", cases("ddrm", "ddrm_etab"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run = golden(*case)
    sigmas, (start, *drawn) = run.arrays["sigma"].tolist(), run.arrays["noise"]
    noise = list(zip(drawn[::3], drawn[2::3], drawn[1::3], strict=True))  # theirs has the clear case before the faint
    draws = {"initial": [start], "ddrm": [chosen(run, s, *e) for s, e in zip(sigmas[1:], noise, strict=True)]}
    sampler = AllNoiseOfY(Levels(sigmas), run.setting("eta"), run.setting("eta_b"))
    with monkeypatch.context() as watched:
        moments = spied(watched, DDRM, "moments")
        *states, final = run.states_of(sampler, draws, len(start))
    seen = [arguments for arguments, _ in moments]
    known = seen[0][0]
    run.agrees(torch.tensor([*GeometricSigmas(12, 100.0, 0.01).sigmas()[:-1], 0.01], dtype=torch.float64), "sigma")
    run.agrees(known.ybar, "ybar")
    run.agrees(torch.stack([denoised for _, _, denoised, *_ in seen]), "x_theta_bar")
    run.agrees(torch.stack([known.analyse(x) for x in states]), "state_bar")
    run.agrees(final, "final")
    found = torch.stack([candidates(run, sampler, a, e) for a, e in zip(seen, noise, strict=True)], dim=1)
    for name, values in zip(("unobserved", "obs_small_s", "obs_large_s"), found, strict=True):
        run.agrees(values, f"cand_{name}")


@pytest.mark.parametrize("case", cases("ddrm_orig", "ddrm_orig_etab"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    run = golden(*case)
    levels = [*run.noise_levels()[run.arrays["seq"].flip(0)].tolist(), 0.0]
    ordered, start = by_rows(run), run.arrays["noise_init"]
    unseen, faint, clear = (
        torch.nn.functional.pad(e, (0, 64 - e.shape[-1]))
        for e in (run.arrays[f"noise_{name}"] for name in ("unobserved", "obs_small_s", "obs_large_s"))
    )
    fresh = [chosen(ordered, s, *e) for s, *e in zip(levels[1:-1], unseen, faint, clear, strict=False)]
    sampler = StartedAsTheAuthors(Levels(levels), run.setting("eta"), run.setting("eta_b"))
    moments = spied(monkeypatch, DDRM, "moments")
    *states, final = ordered.states_of(sampler, {"initial": [start], "ddrm": fresh}, len(start))
    seen = [arguments for arguments, _ in moments]
    known = seen[0][0]
    states = [known.synthesise(seen[0][1]), *states]
    preserved = [x / (1 + sigma**2) ** 0.5 for x, sigma in zip(states, levels, strict=True)]
    run.agrees(torch.stack(preserved), "states")
    run.agrees(torch.stack([known.synthesise(denoised) for _, _, denoised, *_ in seen]), "x0_pred")
    assert torch.equal(final, states[-1])


def relative_noise(sampler: Sampler) -> list[Tensor]:
    """Root mean squares of V^T (x - x0) of every state, (6,), where D is x0, as known as can be, and y is random.

    There is one image, and y has noise of its own in each of `ROWS` rows. Singular values are from 3 to 0.03, and one
    is 0; sigma_y is 0.05.
    """
    shape, generator = (1, 2, 3), torch.Generator().manual_seed(0)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    operator = Dense(torch.tensor([3.0, 1.0, 0.3, 0.1, 0.03])[:, None] * turn[:, :5].mT, shape)
    truth = torch.randn(1, *shape, generator=generator)
    y = operator.forward(truth).expand(ROWS, -1, -1, -1)
    measurement = Measurement(y + 0.05 * torch.randn(y.shape, generator=generator), operator, GaussianNoise(0.05))
    found: list[Tensor] = []

    def observe(stage: str, step: int, total: int, x: Tensor) -> None:
        found.append(((x - truth).flatten(1) @ turn).square().mean(dim=0) ** 0.5)

    sampler(
        GaussianByMatrix(truth.flatten(), 1e-12 * torch.eye(6)),
        measurement,
        Streams(0, [str(n) for n in range(ROWS)]),
        observe,
    )
    return found


@pytest.mark.parametrize("eta_b", [1.0, 0.6])
def test_where_the_denoiser_knows_the_image_every_coordinate_has_the_noise_of_its_level(eta_b):
    """Proposition 3.1 of the paper, within 5 errors of `ROWS` rows."""
    schedule = GeometricSigmas(8, 100.0, 0.02)
    *found, last = relative_noise(DDRM(schedule, eta_b=eta_b))
    for noise, sigma in zip(found, schedule.sigmas()[1:-1], strict=True):
        assert (noise / sigma - 1).abs().max() < 5 / (2 * ROWS) ** 0.5, sigma
    assert last.max() < 1e-5
