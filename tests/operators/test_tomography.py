"""Rays through pixels: closed forms of a square and a disc, scikit-image's radon, and the transpose."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch

from posterior import UserError
from posterior.operators import FanBeam, ParallelBeam
from posterior.operators.tomography import MOST_LENGTHS, intersections

FAMILIES = {
    "parallel": ParallelBeam(7),
    "fan": FanBeam(9),
    "limited": ParallelBeam(5, arc_degrees=90.0, start_degrees=-20.0),
    "few detectors": FanBeam(4, num_detectors=6),
    "angles": ParallelBeam(angles=[0.0, 31.0, 170.0], unit="degrees"),
}


def rays(beam, angle):
    """Distance of each ray of a view from the origin and its direction, by trigonometry."""
    s = (np.arange(beam.num_detectors) - (beam.num_detectors - 1) / 2) * beam.spacing
    turn = np.arctan(s / beam.radius) if hasattr(beam, "radius") else np.zeros_like(s)
    return s * np.cos(turn), angle - turn  # at the angle theta a ray runs along theta + 90 degrees


def blobs(side, shifts=((8, 5), (-10, -12)), widths=(8.0, 5.0)):
    """Two Gaussian hills in (1, 1, side, side), the first higher; smooth on the scale of a pixel."""
    y, x = np.mgrid[:side, :side] - side // 2
    hills = [np.exp(-((x - a) ** 2 + (y + b) ** 2) / (2 * w**2)) for (a, b), w in zip(shifts, widths, strict=True)]
    return torch.from_numpy((hills[0] + 0.5 * hills[1]).astype(np.float32))[None, None]


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 11, 14)])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_adjoint_is_the_transpose(name, shape):
    operator = FAMILIES[name].realise(shape).to(torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    v = torch.randn(2, *operator.measurement_shape, dtype=torch.float64, generator=generator)
    y, back = operator.forward(x), operator.adjoint(v)
    assert abs((y * v).sum() - (x * back).sum()) <= 1e-12 * y.norm() * v.norm()


@pytest.mark.parametrize("name", FAMILIES)
def test_lengths_in_a_pixel_are_those_of_a_square(name):
    """Of a line at the distance t from the middle of a unit square, its normal at theta, a = |cos|, b = |sin|:
    min(1 / max(a, b), (a / 2 + b / 2 - |t|) / (a b)), 0 below."""
    height, width = 5, 8
    beam = FAMILIES[name].beam(height, width)
    found = beam.lengths().toarray().reshape(len(beam.angles), beam.num_detectors, height, width)
    row, column = np.mgrid[:height, :width]
    x, y = column - (width - 1) / 2, (height - 1) / 2 - row
    for view, angle in zip(found, beam.angles, strict=True):
        for lengths, offset, normal in zip(view, *rays(beam, angle), strict=True):
            a, b = abs(math.cos(normal)), abs(math.sin(normal))
            t = offset - x * math.cos(normal) - y * math.sin(normal)
            if min(a, b) < 1e-9:  # along the grid, but along no edge of it
                assert (np.abs(np.abs(t) - 0.5) > 1e-9).all()
                expected = np.where(np.abs(t) < 0.5, 1.0, 0.0)
            else:
                expected = np.minimum(1 / max(a, b), (a / 2 + b / 2 - np.abs(t)) / (a * b)).clip(0)
            np.testing.assert_allclose(lengths, expected, atol=2e-9)


def test_a_ray_along_an_edge_counts_once_or_not_at_all():
    inner, outer = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]])
    up = np.array([[0.0, 1.0]])
    lengths = intersections(inner, up, 3, 4).toarray().reshape(3, 4)
    assert lengths.tolist() == [[0, 0, 0, 1]] * 3  # edges are at -2, -1, 0, 1, 2
    assert intersections(outer, up, 3, 4).nnz == 0


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (6, 6)])
def test_a_ray_along_edges_favours_no_side(shape):
    """A picture upside down has the sinogram of a view from the side upside down, and all of its mass is seen."""
    operator = ParallelBeam(angles=[0.0, 90.0], unit="degrees").realise((1, *shape))
    x = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    above, beside = (operator.forward(x.flip(axis))[0, 0] for axis in (3, 2))
    seen = operator.forward(x)[0, 0]
    torch.testing.assert_close(above[0].flip(0), seen[0])
    torch.testing.assert_close(beside[1].flip(0), seen[1])
    torch.testing.assert_close(max(shape) * seen.sum(dim=1), x.sum().expand(2))


@pytest.mark.parametrize("family", [ParallelBeam(12), FanBeam(12)])
def test_a_disc_has_its_chords(family):
    """2 sqrt(r^2 - d^2) at the distance d, to 1 %: pixels hold their share of the disc, which blurs its rim."""
    side, fine, radius = 96, 8, 30.0
    grid = (np.arange(side * fine) - (side * fine - 1) / 2) / fine
    disc = (np.hypot(grid[:, None] - 4, grid + 7) < radius).reshape(side, fine, side, fine).mean(axis=(1, 3))
    operator = family.realise((1, side, side))
    found = side * operator.forward(torch.from_numpy(disc.astype(np.float32))[None, None])[0, 0].numpy()
    for view, angle in zip(found, operator.beam.angles, strict=True):
        offset, normal = rays(operator.beam, angle)
        distance = offset - (-7 * np.cos(normal) - 4 * np.sin(normal))  # 4 rows down is y = -4
        chords = 2 * np.sqrt((radius**2 - distance**2).clip(0))
        assert np.linalg.norm(view - chords) < 0.01 * np.linalg.norm(chords)
        inside = np.abs(distance) < radius - 5
        np.testing.assert_allclose(view[inside], chords[inside], atol=1.0)  # a pixel


@pytest.mark.parametrize("family", [ParallelBeam(20), FanBeam(20), ParallelBeam(20, num_detectors=15)])
def test_what_is_said_of_memory_is_about_right(family, monkeypatch):
    monkeypatch.setattr("posterior.operators.tomography.MOST_LENGTHS", 1)
    with pytest.raises(UserError, match="lengths in 40x30 pixels") as caught:
        family.realise((1, 40, 30))
    said = float(re.search(r"about (\S+) lengths", str(caught.value))[1])
    assert 0.8 * said < family.beam(40, 30).lengths().nnz < 1.1 * said


def test_a_copy_and_a_pickle_are_the_same():
    operator, x = ParallelBeam(3).realise((1, 6, 6)), torch.rand(1, 1, 6, 6)
    for other in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert torch.equal(other.forward(x), operator.forward(x))


def test_it_is_scikit_images_radon():
    """Of a smooth picture, to 0.1 %: radon turns the picture by bilinear interpolation instead."""
    radon = pytest.importorskip("skimage.transform").radon
    side = 65
    picture, family = blobs(side), ParallelBeam(24)
    operator = family.realise((1, side, side))
    expected = radon(picture[0, 0].numpy(), np.degrees(operator.beam.angles), circle=False).T
    found = side * operator.forward(picture)[0, 0].numpy()
    extra = found.shape[1] - expected.shape[1]
    found = found[:, : expected.shape[1]] if extra else found  # radon's axis is at N // 2
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


def test_a_distant_source_sends_parallel_rays():
    shape, x = (1, 20, 20), torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    near, far = (FanBeam(6, 180.0, source_distance=r, num_detectors=40).realise(shape) for r in (1.0, 1000.0))
    parallel = ParallelBeam(6, num_detectors=40).realise(shape).forward(x)
    assert (far.forward(x) - parallel).abs().max() < 1e-2
    assert (near.forward(x) - parallel).abs().max() > 0.1


def test_gradients_are_those_of_the_least_squares():
    operator = FAMILIES["fan"].realise((2, 9, 9))
    x = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = operator.forward(x.detach()) + 1
    (grad,) = torch.autograd.grad(0.5 * (operator.forward(x) - y).square().sum(), x)
    torch.testing.assert_close(grad, operator.adjoint(operator.forward(x.detach()) - y))


def test_a_family_is_built_once_and_its_solves_are_exact_where_small():
    family = ParallelBeam(6)
    operator = family.realise((1, 12, 12))
    assert family.realise((3, 12, 12)).matrix is operator.matrix
    assert operator.diagonal() is not None
    assert family.realise((1, 40, 40)).diagonal() is None
    assert operator.rows(torch.tensor([0, 0, 0])) is operator
    norm = np.linalg.norm(operator.matrix.to_dense().numpy(), 2)
    assert float(operator.norm()) == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(
    "family",
    [
        ParallelBeam(90),
        FanBeam(180),
        ParallelBeam(180, 360.0),
        FanBeam(180, source_distance=6.0),
        ParallelBeam(135, 270.0),
        FanBeam(180, 300.0),
        FanBeam(180, 222.0, start_degrees=-77.0),  # half a turn and the fan's angle
        ParallelBeam(angles=[(170.0 + 2 * view) % 180 for view in range(90)], unit="degrees"),
    ],
)
def test_back_projection_inverts_what_all_views_see(family):
    """To 0.5 % of a smooth picture; a window costs resolution, 120 degrees leave out what they do not see."""
    picture = blobs(65)
    operator = family.realise((1, 65, 65))
    y = operator.forward(picture)

    def error(x):
        return float((x - picture).norm() / picture.norm())

    assert error(operator.filtered_back_projection(y, "ramp")) < 0.005
    assert 0.005 < error(operator.filtered_back_projection(y, "hann")) < 0.015
    limited = ParallelBeam(60, 120.0).realise((1, 65, 65))
    assert error(limited.filtered_back_projection(limited.forward(picture), "ramp")) > 0.1


def test_a_view_stands_for_the_way_to_its_neighbours():
    beam = ParallelBeam(angles=[350.0, 0.0, 30.0, 190.0], unit="degrees").beam(4, 4)
    assert np.degrees(beam.shares()) == pytest.approx([15, 10, 20, 15])  # gaps 10, 10, 20 and, of 140, the next
    assert ParallelBeam(1).beam(4, 4).shares() == pytest.approx([math.pi])
    assert ParallelBeam(2, 360.0).beam(4, 4).shares() == pytest.approx([math.pi / 2] * 2)


@pytest.mark.parametrize("arc", [222.0, 260.0, 360.0])
def test_a_fan_counts_a_line_once(arc):
    """Without cosines the weights of all rays at a distance from the middle add to a turn of lines."""
    beam = FanBeam(40, arc).beam(8, 8)
    counted = (beam.weights() * np.hypot(beam.radius, beam.offsets()) / beam.radius).sum(axis=0)
    assert (counted + counted[::-1]) == pytest.approx(2 * math.pi, rel=0.02)


def test_views_are_where_they_are_said_to_be():
    assert ParallelBeam(4).angles == pytest.approx([0, math.pi / 4, math.pi / 2, 3 * math.pi / 4])
    assert FanBeam(2, start_degrees=90.0).angles == pytest.approx([math.pi / 2, 3 * math.pi / 2])
    in_degrees = ParallelBeam(angles=[10.0, 200.0], unit="degrees").angles
    assert in_degrees == ParallelBeam(angles=[math.radians(10), math.radians(200)], unit="radians").angles


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"angles": [0.0, 90.0]}, r"angles up to 90 have no unit: say unit: degrees, or unit: radians"),
        ({"angles": [0.0, 3.0]}, r"angles up to 3 have no unit"),
        ({"angles": [0.0, 179.0], "unit": "radians"}, r"angles up to 179 radians are more than a turn: .* degrees\?"),
        ({"angles": [0.0, 1.5, 3.1], "unit": "degrees"}, r"angles up to 3.1 degrees are hardly .* radians\?"),
        ({"angles": [0.0, math.nan], "unit": "degrees"}, r"angles must be"),
        ({"angles": [0.0, 1.0], "unit": "deg"}, r"unit must be degrees or radians, got 'deg'"),
        ({"angles": [], "unit": "degrees"}, r"angles must have 1 to"),
        ({"unit": "degrees"}, r"unit is that of angles, which are not given"),
        ({"arc_degrees": math.pi}, r"arc_degrees 3.14159 shows next to nothing: was it meant in radians\?"),
        ({"arc_degrees": 400.0}, r"arc_degrees must be"),
        ({"num_views": 0}, r"num_views must be"),
        ({"num_detectors": 1}, r"num_detectors must be"),
        ({"start_degrees": math.inf}, r"start_degrees must be"),
    ],
)
@pytest.mark.parametrize("family", [ParallelBeam, FanBeam])
def test_bad_settings_are_one_line(family, settings, told):
    with pytest.raises(UserError, match=rf"^{family.__name__}: {told}") as caught:
        family(**settings)
    assert "\n" not in str(caught.value)


def test_a_source_within_the_image_and_too_many_rays_are_refused():
    with pytest.raises(UserError, match=r"FanBeam: source_distance must be >= 0.75"):
        FanBeam(source_distance=0.7)
    most = re.escape(f"{MOST_LENGTHS:.0e}")
    told = rf"ParallelBeam: 10000 views of 1450 rays have about 1.5e\+10 lengths .* GB; the most is {most}: take fewer"
    with pytest.raises(UserError, match=told):
        ParallelBeam(10_000).realise((1, 1024, 1024))
