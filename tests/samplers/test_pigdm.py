"""PiGDM against the runs of the authors' code and of InverseBench, and where it is exact."""

from dataclasses import dataclass

import pytest
import torch

from posterior import Measurement, Streams
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.samplers import DDIM, PiGDM, ReverseStep
from tests.peers import SIGMA_Y, GaussianByMatrix, Levels, cases, golden


@dataclass(frozen=True)
class FreshShare(ReverseStep):
    """InverseBench's DDIM: fresh noise eta sigma', whatever the length of the step."""

    eta: float

    def moments(self, x, denoised, fraction, sigma, sigma_next):
        kept = (1 - self.eta**2) ** 0.5 * sigma_next / sigma
        return denoised + kept * (x - denoised), self.eta * sigma_next


class WithoutNoise(PiGDM):
    """y met by the pseudoinverse, whatever its noise: the authors' code."""

    def pull(self, measurement, denoised, sigma):
        return pseudoinverse(measurement, measurement.y - measurement.observed(denoised))


def pseudoinverse(measurement, v):
    basis = measurement.operator.diagonal()
    observed = basis.gains > 0
    coefficients = basis.analyse(measurement.operator.adjoint(v))
    return basis.synthesise(torch.where(observed, coefficients / basis.gains.where(observed, 1.0), 0.0))


def starting_at(x, sigma):
    """The draw from which a chain starts at x."""
    return x / (1 + sigma**2) ** 0.5


def looks(monkeypatch):
    """All that `look` finds: D and the guidance of every step."""
    found, look = [], PiGDM.look

    def spy(self, *arguments):
        found.append(look(self, *arguments))
        return found[-1]

    monkeypatch.setattr(PiGDM, "look", spy)
    return found


@pytest.mark.parametrize("case", cases("pigdm_noisy", "pigdm_pinv"), ids="-".join)
def test_a_run_of_inversebench(case, monkeypatch):
    run, found = golden(*case), looks(monkeypatch)
    start, *fresh = run.arrays["noise"]
    sigmas = run.arrays["sigma"].tolist()
    kind = PiGDM if case[0] == "pigdm_noisy" else WithoutNoise
    sampler = kind(Levels(sigmas), FreshShare(run.setting("eta")))
    draws = {"initial": [starting_at(run.arrays["sigma_max"] * start, sigmas[0])], "pigdm": fresh}
    *states, final = run.states_of(sampler, draws, start.shape[0])
    run.agrees(torch.stack([denoised for denoised, *_ in found]), "denoised")
    run.agrees(torch.stack([guidance for *_, guidance in found]), "grad")
    run.agrees(torch.stack(states), "state")
    run.agrees(final, "final")


@pytest.mark.parametrize("case", cases("pigdm_orig"), ids="-".join)
def test_a_run_of_the_authors_code(case, monkeypatch):
    run, found = golden(*case), looks(monkeypatch)
    start, *fresh, _ = run.arrays["noise"]  # the last one has no weight
    sigmas = [*run.noise_levels()[run.arrays["ts"]].flip(0).tolist(), 0.0]
    measurement = run.measurement(len(start))
    first = pseudoinverse(measurement, measurement.y) + sigmas[0] * start
    draws = {"initial": [starting_at(first, sigmas[0])], "pigdm": fresh}
    *states, final = run.states_of(WithoutNoise(Levels(sigmas), DDIM(run.setting("eta"))), draws, len(start))
    torch.testing.assert_close(states[-1], final, rtol=0, atol=0)
    scale = (1 + torch.tensor(sigmas, dtype=torch.float64) ** 2).rsqrt().view(-1, 1, 1, 1, 1)
    run.agrees(scale * torch.stack([first, *states]), "states")
    run.agrees(torch.stack([denoised for denoised, *_ in found]), "x0_pred")


def test_where_images_have_variance_one_its_guidance_is_r_squared_times_the_gradient_of_log_p_of_y_given_x():
    """There x0 given x is N(D, r^2 I), and y given x is N(A D, r^2 A A^T + sigma_y^2 I)."""
    run = golden(*cases("pigdm_noisy")[0])
    measurement, sigma, size = run.measurement(1), 0.7, 64
    mu, matrix, variance = run.problem["mu"], run.problem["A"], sigma**2 / (1 + sigma**2)
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    covariance = variance * matrix @ matrix.mT + SIGMA_Y**2 * torch.eye(len(matrix))
    law = torch.distributions.MultivariateNormal(matrix @ (mu + (x - mu) / (1 + sigma**2)), covariance)
    law.log_prob(run.problem["y"]).backward()
    prior = GaussianByMatrix(mu, torch.eye(size, dtype=torch.float64))
    _, _, guidance = PiGDM().look(prior, measurement, x.detach().view(1, 1, 8, 8), sigma)
    torch.testing.assert_close(guidance.flatten(), variance * x.grad, rtol=1e-9, atol=1e-9)


def test_measurements_almost_without_noise_are_met(field):
    """The pseudoinverse's case: A x = y at the end, though the guidance goes through J."""
    shape = (3, 16, 16)
    truth = field.sample_from(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    operator = SuperResolution(4).realise(shape)
    noise = torch.randn(2, *operator.measurement_shape, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(1e-3), noise)
    x = PiGDM()(field, measurement, Streams(0, ["a", "b"]))
    assert (measurement.relative_residual(x) < 1.5).all()
