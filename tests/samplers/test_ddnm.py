"""DDNM+ against the runs of the authors' code and of InverseBench; its path; and DDRM's steps in it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior.samplers import DDRM, DDNMPlus, GeometricSigmas
from posterior.samplers.spectrum import spectrum
from tests.peers import SIGMA_Y, Levels, Recorded, cases, golden, spied
from tests.samplers.test_ddrm import ROWS, relative_noise


class OneLambda(DDNMPlus):
    """InverseBench: one lambda for all coordinates, and its own shares of noise."""

    def step(self, known, xbar, denoised, sigma, sigma_next, noise):
        weight = min(1, sigma_next / SIGMA_Y)
        gamma = max(0, sigma_next**2 - (weight * SIGMA_Y) ** 2) ** 0.5
        mixed = self.corrected(known, denoised, weight)
        kept = (1 - self.eta**2) ** 0.5 * sigma_next / sigma
        return mixed + kept * (xbar - mixed) + self.eta * gamma * noise


class TravelledFromD(DDNMPlus):
    """The authors: a travel goes up level by level, each time from D."""

    def path(self, num_levels):
        found = super().path(num_levels)
        single = (
            [(n, n - 1) for n in range(start, end, -1)] if end < start else [(start, end)] for start, end in found
        )
        return [pair for pairs in single for pair in pairs]

    def travel(self, xbar, denoised, sigma, sigma_up, noise):
        return denoised + sigma_up * noise


class WithoutNoise(DDNMPlus):
    """DDNM: y is met to the letter, and all coordinates are re-noised alike."""

    def weights(self, known, sigma_next):
        one = torch.ones_like(known.s)
        return one, self.eta * sigma_next * one, (1 - self.eta**2) ** 0.5 * sigma_next * one


class NotTurned(TravelledFromD):
    """The authors' super-resolution: V diag(.) in place of V diag(.) V^T, by blocks of 2x2 pixels."""

    small: Tensor

    def noise(self, known, fresh, kept, noise, eps):
        def turned(weight, pixels):
            seen, unseen = weight[known.observed][0], weight[~known.observed][0]
            blocks = pixels.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)  # (R, 1, 4, 4, 4)
            blocks = (torch.stack([seen, unseen, unseen, unseen]) * blocks) @ self.small.mT
            return blocks.unflatten(4, (2, 2)).transpose(3, 4).reshape(pixels.shape)

        added = turned(fresh, known.synthesise(noise)) + turned(kept, known.synthesise(eps))
        return known.analyse(added)


def coordinates(run, noise: Tensor) -> list[Tensor]:
    """V^T of each draw."""
    return [(e.flatten(1) @ run.problem["V"]).view_as(e) for e in noise]


def wide(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", cases("ddnm_plus", "ddnm_plus_L0"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run, corrected = golden(*case), spied(monkeypatch, DDNMPlus, "corrected")
    sigmas, repeat = run.arrays["sigma"].tolist(), int(run.setting("L")) + 1
    start, _, first, *noise = coordinates(run, run.arrays["noise"])  # a travel's draw has no weight at first
    steps = [first, *(e for n, e in enumerate(noise) if n % (repeat + 1))]
    travels = noise[:: repeat + 1] if repeat > 1 else []
    at_top = run.arrays["sigma_max"] / (1 + sigmas[0] ** 2) ** 0.5
    draws = {"initial": [at_top * start], "ddnm": steps, "travel": travels}
    sampler = OneLambda(Levels(sigmas), run.setting("eta"), 1, repeat)
    *states, final = run.states_of(sampler, draws, len(start))
    (known, *_), path = corrected[0][0], sampler.path(len(sigmas) - 1)
    asked = [n for n, (a, b) in enumerate(path) if b > a]
    ends = [n for n, (a, b) in enumerate(path) if (a, b) not in path[:n] and b > a]  # a level met for the first time
    before = [known.synthesise(at_top * start.view_as(states[0])) * (1 + sigmas[0] ** 2) ** 0.5, *states]
    if repeat > 1:
        run.agrees(torch.stack([before[n] for n in asked]), "net_x")
    run.agrees(wide([sigmas[path[n][0]] for n in asked]), "net_sigma")
    mixed = [known.synthesise(result) for _, result in corrected]
    run.agrees(torch.stack([mixed[asked.index(n)] for n in ends]), "x0hat_mixed")
    run.agrees(torch.stack([states[n] for n in ends]), "state")
    run.agrees(final, "final")
    weights = [weight for (_, _, weight), _ in corrected]
    gammas = [max(0, sigmas[path[n][1]] ** 2 - (w * SIGMA_Y) ** 2) ** 0.5 for n, w in zip(asked, weights, strict=True)]
    run.agrees(wide([weights[asked.index(n)] for n in ends]), "lamb")
    run.agrees(wide([gammas[asked.index(n)] for n in ends]), "gamma")


@pytest.mark.parametrize("case", cases("ddnm_orig", "ddnm_orig_plus", "ddnm_orig_plus_travel"), ids="-".join)
def test_a_run_of_the_authors(case, monkeypatch):
    name, operator = case
    run = golden(*case)
    start_at, end_at = run.arrays["t_from"].tolist(), run.arrays["t_to"].tolist()
    timesteps = sorted({*start_at}, reverse=True)
    levels = [*run.noise_levels()[timesteps].tolist(), 0.0]
    travel = (2, 2) if name.endswith("travel") else (1, 1)
    kind = WithoutNoise if name == "ddnm_orig" else TravelledFromD if operator == "inpaint" else NotTurned
    sampler = kind(Levels(levels), run.setting("eta"), *travel)
    numbers = {t: n for n, t in enumerate([*timesteps, -1])}
    path = [(numbers[a], numbers[b]) for a, b in zip(start_at, end_at, strict=True)]
    assert sampler.path(len(timesteps)) == path
    start, *noise = coordinates(run, run.arrays["noise"])
    if kind is NotTurned:
        object.__setattr__(sampler, "small", golden("ddnm_orig_plus", operator).arrays["V_small"])
    draws = {
        "initial": [start],
        "ddnm": [e for e, (a, b) in zip(noise[:-1], path[:-1], strict=True) if b > a],
        "travel": [e for e, (a, b) in zip(noise, path, strict=True) if b < a],
    }
    *states, final = run.states_of(sampler, draws, len(start))
    preserved = [x / (1 + levels[b] ** 2) ** 0.5 for x, (_, b) in zip(states, path, strict=True)]
    run.agrees(torch.stack(preserved), "state")
    run.agrees(final, "final")


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_its_steps_are_those_of_ddrm_with_all_weight_on_y(eta):
    """Given the same start and numbers: two ways to write one step."""
    run = golden(*cases("ddnm_orig_plus")[0])
    levels = [100.0, 10.0, 1.0, 0.3, 0.08, 0.03]
    noise = list(torch.randn(7, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double())
    known = spectrum(run.measurement(3), "test")
    start = DDRM(eta=eta).start(known, 100.0, Recorded({"initial": noise[:1]}, 3)) / (1 + 100.0**2) ** 0.5
    ours = run.states_of(DDNMPlus(Levels([*levels, 0.0]), eta), {"initial": [start], "ddnm": noise[1:-1]}, 3)
    theirs = run.states_of(DDRM(Levels([*levels, 0.0]), eta), {"initial": noise[:1], "ddrm": noise[1:-1]}, 3)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=1e-9)


def test_where_the_denoiser_knows_the_image_every_coordinate_has_the_noise_of_its_level():
    """On the way down and up; within 5 errors of `ROWS` rows."""
    sampler = DDNMPlus(GeometricSigmas(8, 100.0, 0.02), 0.85, 2, 3)
    sigmas, path = sampler.schedule.sigmas(), sampler.path(8)
    *found, last = relative_noise(sampler)
    for noise, (_, end) in zip(found, path[:-1], strict=True):
        assert (noise / sigmas[end] - 1).abs().max() < 5 / (2 * ROWS) ** 0.5, sigmas[end]
    assert last.max() < 1e-5


def test_a_path_passes_each_stretch_as_often_as_it_says():
    """Three times from 1 to 3, from 3 to 5 and from 5 to 7; what no stretch of two levels covers once."""
    path = DDNMPlus(travel_length=2, travel_repeat=3).path(8)
    assert all(a[1] == b[0] for a, b in pairwise(path))
    passed = Counter(path)
    assert [passed[n, n + 1] for n in range(8)] == [1, 3, 3, 3, 3, 3, 3, 1]
    assert {pair for pair in passed if pair[1] < pair[0]} == {(3, 1), (5, 3), (7, 5)}
    assert DDNMPlus().path(5) == [(n, n + 1) for n in range(5)]
