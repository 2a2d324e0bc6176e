"""Closure quantities against triangles and quadrangles that the test makes itself, and their law against draws."""

import itertools
import math

import numpy as np
import pytest
import torch

from posterior import Measurement, UserError, stream
from posterior.closures import ClosureQuantities, VisibilityAmplitudes, closure_fit
from posterior.metrics import ClosureAmplitudeChi2, ClosurePhaseChi2
from posterior.noise import GaussianNoise
from posterior.operators import EHTGains, RandomInpainting

STATIONS, SIGMA = 5, 0.01
PAIRS = list(itertools.combinations(range(STATIONS), 2))


def visibilities(rows=2, scans=3, seed=0):
    """Complex ones of 5 stations, (rows, scans, baselines), of size 0.5 to 2."""
    generator = torch.Generator().manual_seed(seed)
    size, angle = torch.rand(2, rows, scans, len(PAIRS), generator=generator, dtype=torch.float64)
    return torch.polar(0.5 + 1.5 * size, 2 * math.pi * angle)


def parts(z):
    """(rows, 2, scans, baselines)."""
    return torch.stack([z.real, z.imag], dim=1)


def gained(z, seed=1, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    length, angle = torch.randn(2, *z.shape[:2], STATIONS, generator=generator, dtype=torch.float64)
    gains = torch.polar((scale * length).exp(), 10 * angle)
    return z * torch.stack([gains[..., i] * gains[..., j].conj() for i, j in PAIRS], dim=-1)


def noisy(z, seed=2, sigma=SIGMA):
    generator = torch.Generator().manual_seed(seed)
    return z + sigma * torch.view_as_complex(torch.randn(*z.shape, 2, generator=generator, dtype=torch.float64))


def by_hand(y, model, sigma, seen):
    """chi^2 of one scan from closures of the stations seen, with the covariance of each kind, as Blackburn et al. say.

    Triangles with the station first seen, and quadrangles (a b)(c d) / (a c)(b d), as many as are independent.

    Args:
        y, model: complex, by pair of stations.
        seen: stations.
    """
    pairs = [pair for pair in PAIRS if set(pair) <= set(seen)]
    noise = np.diag([1 / (abs(y[pair]) ** 2 / sigma**2 - 2) for pair in pairs])

    def chi2(rows, residual):
        rows = np.array(rows)
        return residual @ np.linalg.solve(rows @ noise @ rows.T, residual)

    def row(signs):
        return [signs.get(pair, 0) for pair in pairs]

    triangles = [(seen[0], b, c) for b, c in itertools.combinations(seen[1:], 2)]
    phases = [row({(a, b): 1, (b, c): 1, (a, c): -1}) for a, b, c in triangles]
    turned = [
        np.angle(
            np.prod([z[a, b] * z[b, c] * np.conj(z[a, c]) for z in (y, {p: np.conj(m) for p, m in model.items()})])
        )
        for a, b, c in triangles
    ]
    amplitudes: list[list[int]] = []
    for a, b, c, d in itertools.permutations(seen, 4):
        counts = dict.fromkeys(pairs, 0)
        for one, two, sign in ((a, b, 1), (c, d, 1), (a, c, -1), (b, d, -1)):
            counts[min(one, two), max(one, two)] += sign
        if np.linalg.matrix_rank([*amplitudes, row(counts)]) > len(amplitudes):
            amplitudes.append(row(counts))
    lengths = np.array([math.log(abs(y[pair]) / abs(model[pair])) for pair in pairs])
    of_amplitudes = chi2(amplitudes, np.array(amplitudes) @ lengths) if amplitudes else 0.0
    return chi2(phases, np.array(turned)), of_amplitudes, len(triangles), len(amplitudes)


@pytest.mark.parametrize("seen", [(0, 1, 2, 3, 4), (1, 2, 3, 4), (0, 2, 4)])
def test_chi2_is_that_of_triangles_and_quadrangles_with_their_covariance(seen):
    model = visibilities()
    y = noisy(gained(model, scale=0.3))
    there = torch.tensor([float(set(pair) <= set(seen)) for pair in PAIRS])
    fit = closure_fit(parts(there * y), parts(model), SIGMA)
    for row in range(2):
        wanted = [
            by_hand(*(dict(zip(PAIRS, z[row, t].tolist(), strict=True)) for z in (y, model)), SIGMA, seen)
            for t in range(3)
        ]
        phases, amplitudes, num_phases, num_amplitudes = (list(values) for values in zip(*wanted, strict=True))
        assert fit.phases[row].tolist() == pytest.approx(phases, rel=1e-9)
        assert fit.amplitudes[row].tolist() == pytest.approx(amplitudes, rel=1e-9, abs=1e-9)
        assert [int(fit.num_phases[row]), int(fit.num_amplitudes[row])] == [sum(num_phases), sum(num_amplitudes)]


def test_gains_change_nothing():
    """Of the model, and of y where noise has been added before."""
    model, law = visibilities(), ClosureQuantities(SIGMA)
    y = noisy(gained(model, 1))
    one, two = (law.log_prob(parts(y), parts(z)) for z in (model, gained(model, 5, 2.0)))
    torch.testing.assert_close(one.sum(), two.sum(), rtol=1e-12, atol=0)
    phase_only = gained(torch.ones_like(y), 6, 0.0)
    torch.testing.assert_close(law.log_prob(parts(y * phase_only), parts(model)).sum(), one.sum(), rtol=1e-11, atol=0)
    moved = model * 1.1 * torch.exp(0.1j * torch.arange(len(PAIRS)))  # not a gain
    assert law.log_prob(parts(y), parts(moved)).sum() < one.sum() - 100


@pytest.mark.parametrize("lost", [((0, 1), (3, 4)), ((0, 1), (0, 2), (1, 4), (2, 3))])
def test_gains_change_nothing_where_baselines_are_lost(lost):
    """Where not every station has a baseline to the one of best signal, or none has baselines to all others."""
    model, law = visibilities(rows=40), ClosureQuantities(SIGMA)
    y = torch.tensor([float(pair not in lost) for pair in PAIRS]) * noisy(model)
    fit = closure_fit(parts(y), parts(model), SIGMA)
    assert (fit.num_phases == 3 * (6 - len(lost))).all()
    assert float(fit.phases.sum() / fit.num_phases.sum()) == pytest.approx(1, abs=0.3)
    one, two = (law.chi2(parts(y), parts(z)) for z in (model, gained(model, 5, 0.3)))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_baselines_too_few_for_a_closure_have_no_say():
    y = torch.tensor([float(pair in ((0, 1), (1, 2))) for pair in PAIRS]) * noisy(visibilities())
    law = ClosureQuantities(SIGMA)
    assert (law.chi2(parts(y), parts(visibilities(seed=5))) == 0).all()
    assert (law.score(parts(y), parts(visibilities(seed=5))) == 0).all()


def test_the_gradient_is_that_of_log_prob_and_is_blind_to_gains():
    model, law = visibilities(rows=1), ClosureQuantities(SIGMA)
    y, at = parts(noisy(gained(model))), parts(model)
    score = law.score(y, at)
    direction = parts(visibilities(rows=1, seed=8))
    h = 1e-6
    change = [law.log_prob(y, at + side * h * direction).sum() for side in (1, -1)]
    assert float((score * direction).sum()) == pytest.approx(float(change[0] - change[1]) / (2 * h), rel=1e-6)
    tangents = [parts(model * factor) for factor in (1.0, 1j)]  # all lengths; and a phase of baselines to station 0
    tangents[1] = tangents[1] * torch.tensor([1.0 if 0 in pair else 0.0 for pair in PAIRS])
    for tangent in tangents:
        assert abs((score * tangent).sum()) < 1e-10 * score.norm() * tangent.norm()


def test_chi2_of_the_truth_is_the_number_of_closures():
    model = visibilities(rows=400)
    fit = closure_fit(parts(noisy(gained(model, scale=0.1))), parts(model), SIGMA)
    for chi2, number in ((fit.phases, fit.num_phases), (fit.amplitudes, fit.num_amplitudes)):
        found, freedom = chi2.sum(dim=1), float(number[0])
        assert freedom in (18.0, 15.0)  # of 5 stations at 3 scans: 6 and 5 each
        assert float(found.mean()) == pytest.approx(freedom, abs=5 * (2 * freedom / 400) ** 0.5)
        assert float(found.var()) == pytest.approx(2 * freedom, rel=0.4)


def test_a_row_and_its_nan_are_its_own():
    model, law = visibilities(), ClosureQuantities(SIGMA)
    y = parts(noisy(model))
    torch.testing.assert_close(law.chi2(y, parts(model))[1:], law.chi2(y[1:], parts(model)[1:]))
    y[0, 0, 1, 2] = math.nan
    assert torch.isnan(law.chi2(y, parts(model)).sum(dim=1)).tolist() == [True, False]


def test_annealing_adds_to_the_noise():
    law, y = ClosureQuantities(0.3), parts(visibilities())
    assert law.annealed(0.16, y).sigma_y == pytest.approx(0.5)
    clean = parts(visibilities(seed=3))
    torch.testing.assert_close(law.distance(y, clean), 0.3 * (-2 * law.log_prob(y, clean).flatten(1).sum(1)).sqrt())


def test_amplitudes_are_compared_without_phases():
    model, law = visibilities(rows=400), VisibilityAmplitudes(SIGMA)
    y = noisy(model)
    turned = y * torch.exp(2j * torch.arange(len(PAIRS), dtype=torch.float64))
    torch.testing.assert_close(law.log_prob(parts(turned), parts(model)), law.log_prob(parts(y), parts(model)))
    chi2 = law.chi2(parts(y), parts(model)).sum(dim=1)
    assert float(chi2.mean()) == pytest.approx(30, abs=5 * (60 / 400) ** 0.5)
    y = parts(noisy(model[:1]))
    at = parts(model[:1]).requires_grad_()
    (wanted,) = torch.autograd.grad(law.log_prob(y, at).sum(), at)
    torch.testing.assert_close(law.score(y, at.detach()), wanted)


def test_metrics_are_about_one_for_the_truth_and_know_gains_from_sources():
    operator = EHTGains(scans=8).realise((1, 16, 16), [stream(0, "a", -1, "operator")])
    law = ClosureQuantities(EHTGains(scans=8).thermal_sigma((1, 16, 16)))
    place = torch.linspace(-1, 1, 16)
    spots = [torch.exp(-8 * ((place[:, None] - 0.3) ** 2 + (place - right) ** 2)) for right in (-0.4, 0.3)]
    x = 2 * (0.4 * spots[0] + 0.9 * spots[1])[None, None] - 1
    noise = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(0))
    measurement = Measurement.simulate(x, operator, law, noise)
    for metric in (ClosurePhaseChi2(), ClosureAmplitudeChi2()):
        assert 0.6 < float(metric(x, None, measurement)) < 1.5
        assert float(metric(x.mT, None, measurement)) > 3


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ClosureQuantities(0.0), "ClosureQuantities: sigma_y must be > 0"),
        (lambda: VisibilityAmplitudes(-1.0), "VisibilityAmplitudes: sigma_y must be > 0"),
        (lambda: closure_fit(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0.1), "N >= 3 stations.* got 4 baselines"),
        (lambda: inpainted(), "ClosurePhaseChi2 needs visibilities of the source .EHTGains., got Inpainting"),
    ],
)
def test_what_makes_no_sense_is_one_line(act, message):
    with pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)


def inpainted():
    operator = RandomInpainting().realise((1, 8, 8), [stream(0, "a", -1, "operator")])
    x = torch.zeros(1, 1, 8, 8)
    ClosurePhaseChi2()(x, None, Measurement(x, operator, GaussianNoise()))
