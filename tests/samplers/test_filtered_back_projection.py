import pytest
import torch

from posterior import Measurement, Streams, UserError
from posterior.noise import GaussianNoise
from posterior.operators import FanBeam, ParallelBeam, RandomInpainting
from posterior.samplers import FilteredBackProjection
from posterior.transmission import TransmissionPhotons


def hill(side=32):
    """On air, at its top as bright as water: (1, 1, side, side)."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    return (torch.exp(-((x - 0.1) ** 2 + (y + 0.2) ** 2) / 0.1) - 1)[None, None]


@pytest.mark.parametrize("family", [ParallelBeam(48), FanBeam(96)])
@pytest.mark.parametrize("likelihood", [GaussianNoise(1e-4), TransmissionPhotons(1e7)])
def test_a_picture_on_air_comes_back_from_all_views(family, likelihood):
    """To 2.5 % of the hill, most of it lost at its top, and the border is air: there is no step to the outside."""
    x = hill()
    operator = family.realise(x.shape[1:])
    noise = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(0))
    measurement = Measurement.simulate(x, operator, likelihood, noise)
    found = FilteredBackProjection("ramp")(None, measurement, Streams(0, ["a"]))
    assert (found - x).abs().max() < 0.025
    wrong = FilteredBackProjection("ramp", outside=0.0)(None, measurement, Streams(0, ["a"]))
    assert (wrong - x).abs().max() > 0.05


def test_a_window_trades_resolution_for_noise():
    x, operator = torch.zeros(1, 1, 32, 32), ParallelBeam(40).realise((1, 32, 32))
    noise = torch.randn(1, *operator.measurement_shape, generator=torch.Generator().manual_seed(0))
    measurement = Measurement.simulate(x - 1, operator, GaussianNoise(0.05), noise)
    ramp, hann = (FilteredBackProjection(w)(None, measurement, Streams(0, ["a"])) + 1 for w in ("ramp", "hann"))
    assert hann.std() < 0.7 * ramp.std()


def test_what_it_is_not_for_is_named():
    operator = RandomInpainting().realise((1, 4, 4), [torch.Generator()])
    measurement = Measurement(torch.zeros(1, 1, 4, 4), operator, GaussianNoise())
    with pytest.raises(UserError, match=r"FilteredBackProjection needs rays, .* got Inpainting"):
        FilteredBackProjection()(None, measurement, Streams(0, ["a"]))
    with pytest.raises(UserError, match=r"FilteredBackProjection: outside must be"):
        FilteredBackProjection(outside=float("nan"))
    with pytest.raises(UserError, match=r"^FilteredBackProjection: window must be ramp or hann, got 'Hann'$"):
        FilteredBackProjection("Hann")
    rays = ParallelBeam(3).realise((1, 8, 8))
    with pytest.raises(UserError, match=r"^filtered_back_projection: window must be ramp or hann, got 'none'$"):
        rays.filtered_back_projection(torch.zeros(1, *rays.measurement_shape), "none")
