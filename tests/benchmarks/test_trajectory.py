"""States on their way: exact ones are at the floor at every level; wrong ones leave it where y begins to count."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.__main__ import run as command
from benchmarks.judge.problems import Problem, chosen
from benchmarks.judge.trajectory import levels, trajectory
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import PhaseRetrieval
from posterior.priors import EmpiricalPrior
from posterior.random import stream
from posterior.samplers import DPS, Ancestral, GeometricSigmas, RespacedSigmas, Sampler, posterior_of

SIGMAS = GeometricSigmas(12, 10.0, 0.05).sigmas()


class TowardsY(Sampler):
    """Exact states of x_t given y at every level, for a noise of y that is multiplied by ``wrong``."""

    def __init__(self, wrong=1.0):
        self.wrong = wrong

    def __call__(self, prior, measurement, rng, observe=None):
        one = measurement.rows(torch.tensor([0]))
        told = replace(one, likelihood=GaussianNoise(self.wrong * one.likelihood.sigma_y))
        posterior = posterior_of(prior, told, stream(0, "x", -1, "x"))
        for step, sigma in enumerate(SIGMAS[1:], start=1):
            x = posterior.sample(len(rng), stream(1, rng.rows[0][0], step, "states"), sigma)
            observe("states", step, len(SIGMAS) - 1, x)
        return x


@pytest.fixture(scope="module")
def problem():
    images = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Problem("few", "x", EmpiricalPrior(images), PhaseRetrieval(), GaussianNoise(0.8), (1, 4, 4), blur=0.02)


def test_exact_states_are_at_the_floor_and_wrong_ones_leave_it(problem):
    ids = [f"few/{number}" for number in range(5)]
    exact, wrong = (trajectory(TowardsY(factor), SIGMAS, problem, ids, 200) for factor in (1.0, 0.3))
    assert [one.sigma for one in exact] == SIGMAS[1:]
    assert all(0.8 < one.ratio < 1.3 for one in exact)
    assert 0.8 < wrong[0].ratio < 1.3  # y says nothing of pure noise
    assert wrong[-1].ratio > 2
    assert wrong[-1].worst >= wrong[-1].ratio


def test_dps_has_a_level_for_every_step(problem):
    sampler = DPS(GeometricSigmas(5, 10.0, 0.05), Ancestral(), clip_denoised=False)
    found = trajectory(sampler, sampler.schedule.sigmas(), problem, ["few/0"], 20, every=2)
    assert [one.sigma for one in found] == [sampler.schedule.sigmas()[step] for step in (2, 4, 5)]
    with pytest.raises(UserError, match="DPS takes 5 steps, these levels are for 11"):
        trajectory(sampler, SIGMAS[:12], problem, ["few/0"], 2)
    with pytest.raises(UserError, match="under an EmpiricalPrior only"):
        trajectory(sampler, SIGMAS, chosen(["two-modes"])[0], ["two-modes/0"], 2)


def test_the_command_has_a_row_for_every_level_that_is_looked_at(tmp_path, capsys):
    sampler, problem = tmp_path / "few.yaml", "digits-super-resolution"
    schedule = {"class_path": "posterior.samplers.RespacedSigmas", "init_args": {"respacing": 5}}
    settings = {"class_path": "posterior.samplers.DPS", "init_args": {"schedule": schedule, "clip_denoised": False}}
    sampler.write_text(json.dumps(settings))
    asked = ["--measurements", "2", "--samples", "4", "--every", "2", "--seed", "3"]
    command("trajectory", ["--sampler", str(sampler), "--problem", problem, *asked])
    head, _, *rows = capsys.readouterr().out.splitlines()
    dps = DPS(RespacedSigmas(5), clip_denoised=False)
    ids = [f"{problem}/compared/{number}" for number in range(2)]
    found = trajectory(dps, dps.schedule.sigmas(), chosen([problem])[0], ids, 4, 3, 2)
    assert head == "| level | W2 / floor: median | worst |"
    assert rows == [f"| {one.sigma:.3g} | {one.ratio:.2f} | {one.worst:.2f} |" for one in found]
    assert len(rows) == 3  # after 2, 4 and 5 steps


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"problem": "digits-*"}, r"--problem: 'digits-\*' names 6 problems, it must be one"),
        ({"problem": "nowhere"}, "there is no problem 'nowhere'"),
        ({"problem": "two-modes"}, "under an EmpiricalPrior only"),
        ({"sampler": "sampler/conditional", "problem": "digits-one-bit"}, "has no schedule of noise levels"),
        ({"sampler": "sampler/nothing"}, "the file of settings sampler/nothing does not exist"),
        ({"measurements": 0}, "measurements must be >= 1"),
        ({"samples": 1}, "samples must be >= 2"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(asked, told):
    with pytest.raises(UserError, match=rf"^[^\n]*{told}[^\n]*$"):
        levels(**asked)
