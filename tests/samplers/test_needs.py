"""What guided samplers need of a measurement, and that they say so in one line before the first evaluation."""

import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.closures import ClosureQuantities
from posterior.noise import GaussianNoise, Likelihood, PoissonNoise
from posterior.one_bit import OneBit
from posterior.operators import PhaseRetrieval, SuperResolution
from posterior.samplers import (
    DAPS,
    FPSSMC,
    JFPS,
    MMPS,
    TDS,
    ExactLikelihoodStep,
    MCGDiff,
    MetropolisSteps,
    PiGDM,
    PnPDM,
    REDDiff,
)

SHAPE = (3, 16, 16)
NONLINEAR, LINEAR = PhaseRetrieval().realise(SHAPE), SuperResolution(4).realise(SHAPE)


def refused(sampler, operator, law, told, field):
    measurement = Measurement(torch.zeros(1, *operator.measurement_shape), operator, law)
    with pytest.raises(UserError, match=f"^{told}[^\n]*$"):
        sampler(field, measurement, Streams(0, ["a"]))
    assert field.cost.forward == 0


@pytest.mark.parametrize("sampler", [PiGDM(), MMPS(), JFPS(), TDS()], ids=lambda sampler: type(sampler).__name__)
def test_a_linear_operator_and_gaussian_noise(sampler, field):
    name = type(sampler).__name__
    refused(sampler, NONLINEAR, GaussianNoise(), f"{name} needs a linear operator, got FourierAmplitude", field)
    refused(sampler, LINEAR, PoissonNoise(), f"{name} needs Gaussian noise, got PoissonNoise", field)


@pytest.mark.parametrize("sampler", [DAPS(likelihood_step=ExactLikelihoodStep()), PnPDM()], ids=["DAPS", "PnPDM"])
def test_an_exact_step_as_well(sampler, field):
    step = "ExactLikelihoodStep, unlike LangevinSteps,"
    refused(sampler, NONLINEAR, GaussianNoise(), f"{step} needs a linear operator, got FourierAmplitude", field)
    refused(sampler, LINEAR, PoissonNoise(), f"{step} needs Gaussian noise, got PoissonNoise", field)


@pytest.mark.parametrize("kind", [TDS, MCGDiff, FPSSMC])
def test_memory_for_the_particles(kind, field, monkeypatch):
    monkeypatch.setattr("posterior.samplers.particles.memory_of", lambda device: 1000)
    told = f"{kind.__name__}: num_particles 3 for 1 rows .* take fewer"
    refused(kind(num_particles=3), LINEAR, GaussianNoise(), told, field)


def test_a_residual_that_says_something(field):
    told = "REDDiff goes by .* which says nothing of OneBit"
    refused(REDDiff(), LINEAR, OneBit(0.1), told, field)
    assert not OneBit(0.1).annealed(0.1, torch.zeros(1)).informative_residual
    assert not ClosureQuantities.informative_residual


class Unstated(GaussianNoise):
    def log_prob(self, y, clean):
        return Likelihood.log_prob(self, y, clean)


def test_a_law_that_a_walk_can_weigh_by(field):
    """Unless another stands for it."""
    told = r"Unstated does not state log p\(y \| A x\)"
    refused(DAPS(likelihood_step=MetropolisSteps(2)), LINEAR, Unstated(), told, field)
    measurement = Measurement(torch.zeros(1, *LINEAR.measurement_shape), LINEAR, Unstated())
    MetropolisSteps(2, tau=0.1).check(measurement, [])
