import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import MRISlices, PhantomImages, Phantoms
from datamodules.mri import draw_phantom
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import CartesianMRI
from posterior.operators.mri import centred_fft, to_complex
from tests.dicom import write_dicom


@pytest.mark.parametrize("kind", ["ellipses", "shepp_logan"])
def test_phantoms_are_their_numbers_and_differ(kind):
    one, again, other = (draw_phantom(index, 32, kind) for index in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    magnitude = torch.linalg.vector_norm(one, dim=0)
    assert 0.2 < magnitude.max() <= 1 + 1e-6
    assert magnitude[0].max() == 0  # air around it
    angle = torch.atan2(one[1], one[0])[magnitude > 0.1]
    assert angle.std() > 0.01
    assert angle.abs().max() <= 1
    assert draw_phantom(3, 32, kind, phase=0.0)[1].abs().max() == 0


def test_phantoms_are_measured_and_trained_on():
    data = Phantoms(CartesianMRI(), GaussianNoise(0.01), size=16, start=5, count=3, batch_size=2)
    data.setup("predict")
    assert data.ids == ["phantom_000005", "phantom_000006", "phantom_000007"]
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    assert torch.equal(batch.truth[1], draw_phantom(6, 16))
    clean = batch.measurement.operator.forward(batch.truth)
    noise = (batch.measurement.y - clean)[(batch.measurement.operator.mask > 0).expand_as(clean)]
    assert noise.std() == pytest.approx(0.01, rel=0.15)
    images = PhantomImages(16, start=5, count=2)
    assert torch.equal(images.all()[1], draw_phantom(6, 16))
    with pytest.raises(UserError, match="Phantoms: size must be >= 8"):
        Phantoms(CartesianMRI(), GaussianNoise(0.01), size=4)


def slices(root, **settings):
    data = MRISlices(root, CartesianMRI(), GaussianNoise(0.01), **settings)
    data.setup("predict")
    return data


def test_single_coil_kspace_becomes_a_complex_image(tmp_path):
    truth = torch.stack([draw_phantom(n, 20) for n in range(3)])
    kspace = centred_fft(to_complex(truth))[:, 0].numpy()
    (tmp_path / "sub").mkdir()
    with h5py.File(tmp_path / "sub" / "file1.h5", "w") as file:
        file["kspace"] = (7 * kspace).astype(np.complex64)
    data = slices(tmp_path, crop=16)
    assert data.ids == [f"sub/file1/slice_{n:03d}" for n in range(3)]
    expected = truth[1, :, 2:18, 2:18]
    expected = expected / torch.linalg.vector_norm(expected, dim=0).max()
    torch.testing.assert_close(data.read(data.ids[1]), expected, rtol=1e-4, atol=1e-5)


def test_several_coils_become_their_root_sum_of_squares_and_magnitudes_stay(tmp_path):
    rng = np.random.default_rng(0)
    coils = rng.standard_normal((2, 3, 12, 10)) + 1j * rng.standard_normal((2, 3, 12, 10))
    rss = np.sqrt((np.abs(coils) ** 2).sum(axis=1))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = centred_fft(torch.from_numpy(coils)).numpy().astype(np.complex64)
        file["reconstruction_rss"] = rss.astype(np.float32)
    one = slices(tmp_path).read("a/slice_001")
    two = slices(tmp_path, key="reconstruction_rss").read("a/slice_001")
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    wanted = rss[1, 1:11] / rss[1, 1:11].max()
    np.testing.assert_allclose(one[0].numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert one[1].abs().max() == 0


def test_a_folder_of_pictures_is_one_of_magnitudes(tmp_path):
    pixels = np.arange(0, 144, dtype=np.uint8).reshape(12, 12)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = slices(tmp_path).read("x")
    np.testing.assert_allclose(found[0].numpy(), pixels / 143, atol=1e-5)
    assert found.shape == (2, 12, 12)


def mr_slice(path, pixels, **tags):
    pytest.importorskip("pydicom", reason="the extra 'ct' is not installed")
    return write_dicom(path, pixels, "MR", **tags)


def test_a_dicom_slice_is_one_of_magnitudes(tmp_path):
    pixels = np.arange(10 * 8).reshape(10, 8)
    mr_slice(tmp_path / "plain.dcm", pixels)
    mr_slice(tmp_path / "scaled.DCM", pixels, RescaleSlope=2, RescaleIntercept=20)
    data = slices(tmp_path)
    assert data.ids == ["plain", "scaled"]
    np.testing.assert_allclose(data.read("plain")[0], pixels[1:9] / 71, atol=1e-6)
    np.testing.assert_allclose(data.read("scaled")[0], (2 * pixels[1:9] + 20) / 162, atol=1e-6)
    assert not data.read("plain")[1].any()


def test_dicom_files_of_something_else_are_named(tmp_path):
    path = tmp_path / "a.dcm"
    for pixels, tags, told in (
        (np.ones((8, 8)), {"Modality": "CT"}, r"a\.dcm is no MR slice: its modality is CT"),
        (np.ones((8, 8)) - 2, {}, r"a\.dcm has numbers below 0, which magnitudes have not: is it a phase\?"),
        (np.zeros((8, 8)), {}, r"a\.dcm holds NaN, infinity or nothing but zeros"),
        (np.ones((8, 8)), {"PixelData": b"\0\0"}, r"a\.dcm cannot be read as DICOM"),
        (np.ones((16, 8)), {"Rows": 8, "NumberOfFrames": 2}, r"a\.dcm must hold one grey slice .* it is \[2, 8, 8\]"),
    ):
        mr_slice(path, pixels, **tags)
        with pytest.raises(UserError, match=told):
            slices(tmp_path).read("a")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.write(path, "a.dcm")
    with pytest.raises(UserError, match="DICOM files are not read from a zip, unpack it"):
        slices(tmp_path / "b.zip").read("a")


def test_pydicoms_own_mr_slice_is_read():
    pytest.importorskip("pydicom", reason="the extra 'ct' is not installed")
    from pydicom.data import get_testdata_file

    data = slices(Path(get_testdata_file("MR_small.dcm", download=False)))
    image = data.read(data.ids[0])
    assert image.shape == (2, 64, 64)
    assert image.max() == 1
    assert float(image[0].min()) == pytest.approx(127 / 2145)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        slices(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no MRI slice file \(\.dcm, \.dicom, \.h5, "):
        slices(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["other"] = np.zeros(3)
    with pytest.raises(UserError, match=r"a\.h5 has no 'kspace'; it has other"):
        slices(tmp_path).read("a")
    with pytest.raises(UserError, match=r"'other' must be k-space .* it is float64\[3\]"):
        slices(tmp_path, key="other").read("a")
    (tmp_path / "a.h5").write_bytes(b"no")
    with pytest.raises(UserError, match=r"a\.h5 is not a readable HDF5 file"):
        slices(tmp_path).read("a")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.zeros((1, 8, 8), dtype=np.complex64)
    with pytest.raises(UserError, match=r"a\.h5, slice 0 holds NaN, infinity or nothing but zeros"):
        slices(tmp_path).read("a/slice_000")
    with pytest.raises(UserError, match="is 8x8, smaller than the crop of 9"):
        slices(tmp_path, crop=9).read("a/slice_000")


def volume(path, kspace, **more):
    with h5py.File(path / "a.h5", "w") as file:
        file["kspace"] = kspace.numpy().astype(np.complex64)
        for name, values in more.items():
            file[name] = values
    return slices(path)


def phantoms(coils=1, noise=0.0, side=48):
    """Fully sampled k-space (2, coils, H, W) of phantoms under flat coils."""
    z = to_complex(torch.stack([draw_phantom(n, side) for n in range(2)])).expand(-1, coils, -1, -1)
    return centred_fft(z + noise * torch.randn(z.shape, dtype=torch.complex64))


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("lines", [slice(1, None, 2), slice(0, None, 4), slice(3, 30, 3)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_undersampled_kspace_is_no_truth(tmp_path, coils, lines, axis):
    kspace = phantoms(coils, 0.01).clone().transpose(-1, axis)
    kspace[..., lines] = 0
    kspace = kspace.transpose(-1, axis)
    data = volume(tmp_path, kspace[:, 0] if coils == 1 else kspace)
    with pytest.raises(UserError, match=r"a\.h5, slice 1 is undersampled k-space .* has no true image"):
        data.read("a/slice_001")


@pytest.mark.parametrize("lines", [slice(0, 12), slice(0, 6), slice(-6, None)])
@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("side", [47, 48])
def test_partial_fourier_is_no_truth(tmp_path, lines, axis, side):
    """Six or seven eighths of the lines, from either edge on."""
    kspace = phantoms(3, 0.01, side).clone()
    kspace.transpose(-1, axis)[..., lines] = 0
    data = volume(tmp_path, kspace)
    what = "columns" if axis == -1 else "rows"
    with pytest.raises(UserError, match=rf"of {side} {what} are zero, at one edge: partial Fourier"):
        data.read("a/slice_001")


def test_a_mask_says_that_kspace_is_undersampled(tmp_path):
    kspace, mask = phantoms()[:, 0], np.ones(48, dtype=bool)
    assert volume(tmp_path, kspace, mask=mask).read("a/slice_000").shape == (2, 48, 48)
    tissue = np.zeros((2, 48, 48))
    assert volume(tmp_path, kspace, mask=tissue).read("a/slice_000").shape == (2, 48, 48)
    mask[3] = False
    data = volume(tmp_path, kspace, mask=mask, reconstruction_rss=np.ones((2, 48, 48)))
    assert list(data.unusable) == ["a"]
    assert "is undersampled k-space (its 'mask' has zeros)" in data.unusable["a"]
    assert slices(tmp_path, key="reconstruction_rss").read("a/slice_000").shape == (2, 48, 48)


def pattern(kind):
    """Where k-space of 48x48 is measured: single points about a block, every other row and column, or also a block."""
    seen = torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) < 0.3
    if kind != "points":
        seen = torch.zeros(48, 48, dtype=torch.bool)
        seen[::2, ::2] = True
    if kind != "grid":
        seen[18:30, 18:30] = True
    return seen


@pytest.mark.parametrize("kind", ["points", "grid", "grid and block"])
@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_kspace_undersampled_in_both_directions_is_no_truth(tmp_path, kind, coils, noise):
    kspace = phantoms(coils, noise) * pattern(kind)
    data = volume(tmp_path, kspace[:, 0] if coils == 1 else kspace)
    with pytest.raises(UserError, match=r"a\.h5, slice 1 is undersampled k-space .* has no true image"):
        data.read("a/slice_001")


@pytest.mark.parametrize("shape", [(48, 48), (2, 48, 48)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_a_mask_of_whole_lines_says_so_written_out_too(tmp_path, shape, axis):
    mask = np.ones(shape, dtype=np.float32)
    np.moveaxis(mask, axis, 0)[1::2] = 0
    data = volume(tmp_path, phantoms(noise=0.01)[:, 0], mask=mask)
    assert "is undersampled k-space (its 'mask' has zeros)" in data.unusable["a"]


@pytest.mark.parametrize(("axes", "place"), [((-2, -1), "a corner"), ((-1,), "the middle of an edge"), ((-2,), "the")])
@pytest.mark.parametrize("coils", [1, 3])
def test_kspace_with_its_middle_elsewhere_is_refused(tmp_path, axes, place, coils):
    kspace = torch.fft.ifftshift(phantoms(coils, 0.01), dim=axes)
    data = volume(tmp_path, kspace[:, 0] if coils == 1 else kspace)
    told = rf"slice 0 has its zero frequency in {place}.*apply fftshift .* \(axes {', '.join(map(str, axes))}\)"
    with pytest.raises(UserError, match=told):
        data.read("a/slice_000")


def test_ordinary_kspace_is_taken(tmp_path):
    generator = torch.Generator().manual_seed(0)
    padded = phantoms(noise=0.01)[:, 0].clone()
    padded[..., :6], padded[..., -6:] = 0, 0  # what scanners pad with
    uneven = padded.clone()
    uneven[..., -8:] = 0
    box = torch.zeros(2, 1, 48, 48)
    box[..., 12:36, 12:36] = 1
    noise = torch.randn(40, 12, 12, generator=generator, dtype=torch.complex64)
    shepp = centred_fft(to_complex(torch.stack([draw_phantom(n, 45, "shepp_logan") for n in range(2)])))
    ordinary = [phantoms()[:, 0], phantoms(noise=3.0)[:, 0], padded, uneven, centred_fft(box)[:, 0], shepp[:, 0], noise]
    for kspace in [*ordinary, centred_fft(torch.ones(2, 1, 16, 16))[:, 0]]:
        data = volume(tmp_path, kspace)
        for image_id in data.ids:
            assert torch.isfinite(data.read(image_id)).all()


@pytest.mark.parametrize("dtype", [">c8", np.complex128, np.clongdouble, ">f4", np.float16, np.longdouble])
def test_numbers_of_all_types_are_read(tmp_path, dtype):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = np.random.default_rng(0).uniform(1, 2, (1, 8, 8)).astype(dtype)
    assert slices(tmp_path).read("a/slice_000").dtype == torch.float32
