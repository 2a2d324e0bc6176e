"""JFPS against azula's, step by step, and where it is exact."""

import pytest
import torch

from posterior.samplers import JFPS, GeometricSigmas
from tests.peers import SHAPE, SIGMA_Y, GaussianByMatrix, cases, golden
from tests.truth import WideStreams, posterior, whitened

ROWS, SIGMAS, TAU = 2, GeometricSigmas(8, 20.0, 0.05), 0.4
RUNS = cases("pigdm_noisy")
"""For their problem: the operators that are here."""


@pytest.mark.parametrize("case", RUNS, ids="-".join)
def test_it_is_azulas_step_by_step(case, monkeypatch):
    runs = pytest.importorskip("tests.azula_runs", reason="azula is not here")
    from azula.guidance import JFPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    run, levels = golden(*case), SIGMAS.sigmas()
    start, *fresh = torch.randn(len(levels) - 1, ROWS, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    found = run.states_of(JFPS(SIGMAS, signal_std=TAU), {"initial": [start], "jfps": fresh}, ROWS)

    matrix, y = run.problem["A"], run.problem["y"].expand(ROWS, -1)
    told = JFPSDenoiser(
        runs.OurPrior(run.prior(), levels),
        y,
        lambda x: x.flatten(1) @ matrix.mT,
        IsotropicCovariance(SIGMA_Y**2),
        IsotropicCovariance(TAU**2),
        iterations=len(matrix),
    )
    runs.given(fresh, monkeypatch)
    sampler = DDPMSampler(told, steps=len(levels) - 1, silent=True, dtype=torch.float64)
    expected = runs.states(sampler, (1 + levels[0] ** 2) ** 0.5 * start, levels)
    torch.testing.assert_close(torch.stack(found[:-1]), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_its_samples_are_of_the_posterior_where_images_have_no_correlations():
    run, rows = golden("pigdm_noisy", "average"), 300
    mu, covariance = run.problem["mu"], TAU**2 * torch.eye(64, dtype=torch.float64)
    sampler = JFPS(GeometricSigmas(500, 20.0, 0.002), signal_std=TAU)
    samples = sampler(GaussianByMatrix(mu, covariance), run.measurement(rows), WideStreams(rows))
    z = whitened(samples, *posterior(mu, covariance, run.problem["A"], run.problem["y"], SIGMA_Y))
    assert float(rows * z.mean(dim=0).square().mean()) == pytest.approx(1, abs=0.7)  # four standard deviations
    assert float(z.var(dim=0).mean()) == pytest.approx(1, abs=0.04)  # steps of first order are a little narrow
