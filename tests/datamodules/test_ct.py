"""Attenuation phantoms and CT slices."""

import numpy as np
import pytest
import torch

from datamodules import CTPhantomImages, CTPhantoms, CTSlices
from datamodules.mri import draw_phantom
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import ParallelBeam
from posterior.transmission import Hounsfield, TransmissionPhotons
from tests.dicom import write_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra 'ct' is not installed")


def slices(root, **settings):
    data = CTSlices(root, ParallelBeam(3), GaussianNoise(0.01), **settings)
    data.setup("predict")
    return data


def write(path, pixels, **tags):
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    return write_dicom(path, pixels, "CT", **rescale | tags)


def test_phantoms_are_magnitudes_on_air():
    pytest.importorskip("skimage")
    images = CTPhantomImages(24, start=5, count=2)
    assert len(images) == 2
    expected = torch.linalg.vector_norm(draw_phantom(6, 24), dim=0)
    torch.testing.assert_close(images.image(1)[0], 2 * expected - 1)
    data = CTPhantoms(ParallelBeam(3), GaussianNoise(0.01), size=24, start=5, count=2)
    assert data.list_ids() == ["phantom_000005", "phantom_000006"]
    assert torch.equal(data.read("phantom_000006"), images.image(1))
    assert images.all().aminmax().min == -1
    for make in (lambda: CTPhantomImages(7), lambda: CTPhantoms(ParallelBeam(), GaussianNoise(), count=0)):
        with pytest.raises(UserError, match=r"CTPhantom\w*: (size|count) must be >="):
            make()


def test_slices_are_on_the_hounsfield_scale(tmp_path):
    pixels = np.arange(10 * 8).reshape(10, 8)
    write(tmp_path / "a.dcm", pixels)
    data = slices(tmp_path)
    assert data.ids == ["a"]
    hu = 2.0 * pixels[1:9] - 1000
    np.testing.assert_allclose(data.read("a")[0], hu / 1000, atol=1e-6)
    data = slices(tmp_path, scale=Hounsfield(-950.0, -850.0), crop=8)
    np.testing.assert_allclose(data.read("a")[0], ((hu + 900) / 50).clip(-1, 1), atol=1e-5)
    x = slices(tmp_path).read("a")
    np.testing.assert_allclose(slices(tmp_path).scale.units(x)[0], hu, atol=1e-3)


def test_photons_must_have_the_scale_of_the_pictures(tmp_path):
    wide = Hounsfield(high=3000.0)
    assert CTSlices(tmp_path, ParallelBeam(3), TransmissionPhotons(scale=Hounsfield(high=3000.0)), scale=wide)
    for law, scale in ((TransmissionPhotons(), wide), (TransmissionPhotons(scale=wide), None)):
        with pytest.raises(UserError, match=r"^CTSlices: scale is another than that of TransmissionPhotons"):
            CTSlices(tmp_path, ParallelBeam(3), law, scale=scale)


def test_pydicoms_own_slice_is_read():
    from pydicom.data import get_testdata_file

    data = slices(get_testdata_file("CT_small.dcm", download=False))
    units = data.scale.units(data.read(data.ids[0]))
    assert units.shape == (1, 128, 128)
    assert float(units.median()) == pytest.approx(2, abs=0.5)  # much of it is soft tissue, near water
    assert units.min() > -900


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"Modality": "MR"}, r"a\.dcm is no CT slice: its modality is MR"),
        ({"RescaleSlope": None}, r"a\.dcm does not say how its numbers become Hounsfield units"),
        ({"RescaleType": "OD"}, r"a\.dcm does not say how its numbers become Hounsfield units"),
        ({"PixelData": b"\0\0"}, r"a\.dcm cannot be read as DICOM"),
        ({"RescaleSlope": 1e300}, r"a\.dcm holds Hounsfield units that are not finite"),
    ],
)
def test_other_files_are_named(tmp_path, tags, told):
    write(tmp_path / "a.dcm", np.ones((8, 8)), **tags)
    data = slices(tmp_path)
    with pytest.raises(UserError, match=told) as caught:
        data.read("a")
    assert "\n" not in str(caught.value)


def test_damage_and_sizes_are_named(tmp_path):
    (tmp_path / "b.dcm").write_bytes(b"no DICOM at all")
    write(tmp_path / "a.dcm", np.ones((9, 12)))
    data = slices(tmp_path, crop=10)
    with pytest.raises(UserError, match=r"b\.dcm cannot be read as DICOM"):
        data.read("b")
    with pytest.raises(UserError, match=r"a\.dcm is 9x12, smaller than the crop of 10"):
        data.read("a")
    with pytest.raises(UserError, match=r"CTSlices: crop must be >= 8"):
        slices(tmp_path, crop=2)
