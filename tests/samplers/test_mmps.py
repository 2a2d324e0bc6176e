"""MMPS against azula's, step by step, and where it is exact."""

import pytest
import torch

from posterior.samplers import MMPS, GeometricSigmas
from tests.peers import SHAPE, SIGMA_Y, GaussianByMatrix, cases, golden
from tests.truth import WideStreams, posterior, whitened

ROWS, SIGMAS = 2, GeometricSigmas(8, 20.0, 0.05)
RUNS = cases("pigdm_noisy")
"""For their problem: the operators that are here."""


@pytest.mark.parametrize("case", RUNS, ids="-".join)
def test_it_is_azulas_step_by_step(case, monkeypatch):
    runs = pytest.importorskip("tests.azula_runs", reason="azula is not here")
    from azula.guidance import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    run, levels = golden(*case), SIGMAS.sigmas()
    start, *fresh = torch.randn(len(levels) - 1, ROWS, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    found = run.states_of(MMPS(SIGMAS, num_steps=3), {"initial": [start], "mmps": fresh}, ROWS)

    matrix, y = run.problem["A"], run.problem["y"].expand(ROWS, -1)
    told = MMPSDenoiser(
        runs.OurPrior(run.prior(), levels),
        y,
        lambda x: x.flatten(1) @ matrix.mT,
        IsotropicCovariance(SIGMA_Y**2),
        solver="cg",
        iterations=3,
    )
    runs.given(fresh, monkeypatch)
    sampler = DDPMSampler(told, steps=len(levels) - 1, silent=True, dtype=torch.float64)
    expected = runs.states(sampler, (1 + levels[0] ** 2) ** 0.5 * start, levels)
    torch.testing.assert_close(torch.stack(found[:-1]), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_given_steps_enough_it_denoises_to_the_mean_given_x_and_y():
    """The state being a second measurement, x = x0 + sigma n."""
    run, sigma = golden(*RUNS[0]), 0.4
    mu, prior, matrix, y = (run.problem[name] for name in ("mu", "C", "A", "y"))
    x = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = MMPS(num_steps=len(matrix)).condition(run.prior(), run.measurement(ROWS), x.view(ROWS, *SHAPE), sigma)
    for row in range(ROWS):
        of_state = posterior(mu, prior, torch.eye(64, dtype=torch.float64), x[row], sigma)
        expected, _ = posterior(*of_state, matrix, y, SIGMA_Y)
        torch.testing.assert_close(found[row].flatten(), expected, rtol=1e-6, atol=1e-6)


def test_its_samples_are_of_the_posterior():
    run, rows = golden("pigdm_noisy", "average"), 300
    sampler = MMPS(GeometricSigmas(500, 20.0, 0.002), num_steps=8)
    samples = sampler(run.prior(), run.measurement(rows), WideStreams(rows))
    exact = posterior(*(run.problem[name] for name in ("mu", "C", "A", "y")), SIGMA_Y)
    z = whitened(samples, *exact)
    assert float(rows * z.mean(dim=0).square().mean()) == pytest.approx(1, abs=0.7)  # four standard deviations
    assert float(z.var(dim=0).mean()) == pytest.approx(1, abs=0.04)  # steps of first order are a little narrow


class FallingPrior(GaussianByMatrix):
    """Whose Jacobian is -I: such as a network's may be in some directions."""

    def _predict(self, x, sigma):
        return -x, None


def test_a_jacobian_that_is_not_positive_makes_no_long_step():
    """Taken for 0 it leaves v = (y - A D) / sigma_y^2, by which D then moves: sigma^2 J A^T v."""
    run = golden(*RUNS[0])
    measurement, x = run.measurement(1), torch.ones(1, *SHAPE, dtype=torch.float64)
    prior = FallingPrior(run.problem["mu"], run.problem["C"])
    found = MMPS(num_steps=1).condition(prior, measurement, x, 0.1)
    missing = measurement.y + measurement.observed(x)
    torch.testing.assert_close(found, -x - 0.1**2 * measurement.operator.adjoint(missing) / SIGMA_Y**2)
