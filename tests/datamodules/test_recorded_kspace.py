import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from datamodules import RecordedKSpace
from datamodules.kspace_noise import corner_noise, noise_level
from datamodules.mri import draw_phantom
from posterior import UserError
from posterior.operators import CartesianMRI, MultiCoilFourier, UndersampledFourier
from posterior.operators.coils import calibration_width, estimated_sensitivities, projection_residual
from posterior.operators.mri import simulated_coils, to_complex

SIGMA = 3e-6
"""Of the synthetic scanner's noise; its images have magnitudes up to `PEAK`, as small as fastMRI's."""
PEAK = 2e-4
LAYOUTS = "(slices, H, W) or (slices, coils, H, W)"
HEADER = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>{rows}</x><y>{rows}</y><z>1</z></matrixSize></reconSpace>
<trajectory>{trajectory}</trajectory>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center>
</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""


def header(height=64, width=40, rows=32, maximum=39, center=20, trajectory="cartesian"):
    return HEADER.format(
        height=height, width=width, rows=rows, maximum=maximum, center=center, trajectory=trajectory
    ).encode()


def direct_kspace(image):
    """sum_r z(r) exp(-2 pi i k . r) / sqrt(N), term by term, k and r counted from the middle (n // 2)."""
    for axis, size in enumerate(image.shape[-2:], start=-2):
        place = np.arange(size) - size // 2
        matrix = np.exp(-2j * np.pi * np.outer(place, place) / size) / size**0.5
        image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return image


def scan(height=64, width=40, coils=1, slices=1, noise=SIGMA, seed=0):
    """Phantoms of 32 rows within a read-out of ``height``: images (slices, coils, height, width) and k-space."""
    pictures = torch.stack([draw_phantom(n, 40) for n in range(slices)])[:, :, 4:36]
    images = np.zeros((slices, height, width), dtype=complex)
    top = (height - 32) // 2
    images[:, top : top + 32] = PEAK * to_complex(pictures)[:, 0].numpy()
    images = gaussian_filter(images, sigma=(0, 1, 1))  # as all scanners blur: k-space ends in noise
    maps = simulated_coils(coils, height, width, 0.3, np.arange(float(coils))) if coils > 1 else np.ones((1, 1, 1))
    images = images[:, None] * maps
    rng = np.random.default_rng(seed)
    kspace = direct_kspace(images)
    kspace = kspace + noise * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    return images, kspace, maps


def every_other(width=40, middle=14):
    mask = np.zeros(width)
    mask[::2] = 1
    mask[width // 2 - middle // 2 : width // 2 + middle // 2] = 1
    return mask


def write(path, kspace, **more):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        for name, values in more.items():
            file[name] = values
        file.attrs["acquisition"], file.attrs["max"], file.attrs["norm"] = "CORPD_FBK", 1.0, 1.0
        file.attrs["patient_id"] = "0"
    return path


def measured(root, **settings):
    data = RecordedKSpace(root, **settings)
    data.setup("predict")
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


def fault(root, **settings):
    (batch,) = measured(root, **settings)
    assert batch.measurement is None
    (reason,) = batch.failed.values()
    assert "\n" not in reason
    return reason


def test_a_knee_file_becomes_measurements_of_the_cropped_image(tmp_path):
    """Single coil, over-sampled read-out, the mask of fastMRI's test set: y is the transform of the phantom's rows."""
    images, kspace, _ = scan(slices=2, noise=0.0)
    mask = every_other()
    write(tmp_path / "file1.h5", (kspace * mask)[:, 0], mask=mask, ismrmrd_header=header())
    batches = measured(tmp_path, sigma=SIGMA)
    assert [batch.ids for batch in batches] == [["file1/slice_000"], ["file1/slice_001"]]
    for batch, image in zip(batches, images, strict=True):
        assert batch.truth is None
        operator, scale = batch.measurement.operator, batch.units[batch.ids[0]]["scale"]
        assert isinstance(operator, UndersampledFourier)
        assert operator.image_shape == (2, 32, 40)
        assert torch.equal(operator.mask[0, 0], torch.from_numpy(mask).float().expand(32, 40))
        z = image[0, 16:48] / scale
        truth = torch.from_numpy(np.stack([z.real, z.imag])).float()[None]
        torch.testing.assert_close(batch.measurement.y, operator.forward(truth), rtol=0, atol=2e-5)
        assert batch.measurement.residual_norm(truth) < 1e-3
        assert operator.adjoint(batch.measurement.y).square().sum(dim=1).sqrt().max() == pytest.approx(1, abs=1e-5)
        assert batch.measurement.likelihood.sigma_y == pytest.approx(SIGMA / scale)


def test_a_brain_file_gives_noise_coils_and_padding(tmp_path):
    """Four coils, no mask in the file, columns that were not measured at both ends: all from k-space itself."""
    images, kspace, maps = scan(coils=4)
    kspace[..., :3] = 0
    write(tmp_path / "brain.h5", kspace, ismrmrd_header=header(maximum=35, center=17))
    (batch,) = measured(tmp_path)
    units, operator = batch.units["brain/slice_000"], batch.measurement.operator
    assert isinstance(operator, MultiCoilFourier)
    assert operator.mask[0, 0, 0].tolist() == [0] * 3 + [1] * 36 + [0]
    assert units["sigma_low"] < SIGMA < units["sigma_high"]
    assert units["projection_residual"] < 0.1
    truth = images[0][:, 16:48]
    combined = (np.conj(maps[:, 16:48]) * truth).sum(axis=0)
    found = torch.view_as_complex(operator.sensitivities)[0].numpy()
    inside = np.abs(combined) > 0.2 * np.abs(combined).max()
    aligned = np.abs((np.conj(found) * maps[:, 16:48]).sum(axis=0))[inside]  # the phase of maps is free
    assert aligned.mean() > 0.99
    assert aligned.min() > 0.95
    assert abs(batch.measurement.likelihood.sigma_y * units["scale"] / units["sigma"] - 1) < 1e-6


def test_sensitivities_come_from_the_file_or_an_array_and_are_checked(tmp_path):
    _, kspace, maps = scan(coils=3)
    path = write(tmp_path / "a.h5", kspace, ismrmrd_header=header(), sensitivities=maps)
    (batch,) = measured(path)
    wanted = torch.from_numpy(maps[:, 16:48])
    torch.testing.assert_close(torch.view_as_complex(batch.measurement.operator.sensitivities)[0], wanted)
    np.save(tmp_path / "maps.npy", 3 * maps[:, 16:48])
    given = {"sensitivities": tmp_path / "maps.npy"}
    assert "maps.npy are not normalised: their root sum of squares is 3 to 3 " in fault(path, **given)
    (batch,) = measured(path, normalise=True, **given)
    torch.testing.assert_close(torch.view_as_complex(batch.measurement.operator.sensitivities)[0], wanted)
    np.save(tmp_path / "maps.npy", maps[:2])
    assert "are [2, 32, 40], k-space (coils, H, W) is [3, 32, 40]" in fault(path, **given)
    np.save(tmp_path / "maps.npy", np.ascontiguousarray(maps[::-1, :, ::-1]))
    assert "they are of another scan, or turned or mirrored" in fault(path, **given)


def test_sensitivities_are_those_of_the_scan(tmp_path):
    """Of its coils, its slices and its read-out, before the cut or after it; else they are refused, not made to fit."""
    _, kspace, maps = scan(coils=3, height=33, slices=2)
    path = write(tmp_path / "a.h5", kspace, ismrmrd_header=header(height=33))
    given = {"sensitivities": tmp_path / "maps.npy"}
    for values in (maps, maps[:, :32], np.stack([maps] * 2)):
        np.save(tmp_path / "maps.npy", values)
        for batch in measured(path, **given):
            found = torch.view_as_complex(batch.measurement.operator.sensitivities)[0]
            torch.testing.assert_close(found, torch.from_numpy(maps[:, :32]))
    for values, shape in (
        (simulated_coils(3, 34, 40, 0.3, np.arange(3.0)), "[3, 34, 40]"),
        (np.stack([maps] * 5), "[5, 3, 33, 40]"),
    ):
        np.save(tmp_path / "maps.npy", values)
        for batch in measured(path, **given):
            assert f"are {shape}, k-space (coils, H, W) is [3, 32, 40]" in next(iter(batch.failed.values()))
    one = write(tmp_path / "one.h5", scan(coils=1)[1])
    np.save(tmp_path / "maps.npy", simulated_coils(3, 64, 40, 0.3, np.arange(3.0)))
    assert "are [3, 64, 40], k-space (coils, H, W) is [1, 64, 40]" in fault(one, **given)


@pytest.mark.parametrize("middle", [0, 2])
def test_right_sensitivities_are_taken_where_no_middle_is_there_to_judge_them(tmp_path, middle):
    _, kspace, maps = scan(coils=3)
    mask = every_other(middle=middle)
    path = write(tmp_path / "a.h5", kspace * mask, mask=mask, ismrmrd_header=header(), sensitivities=maps)
    (batch,) = measured(path)
    assert batch.units["a/slice_000"]["projection_residual"] is None
    assert "ESPIRiT needs 12x12" in fault(write(tmp_path / "a.h5", kspace * mask))


@pytest.mark.parametrize(("width", "center"), [(30, 15), (44, 20)])
def test_a_header_of_other_kspace_hides_no_columns(tmp_path, width, center):
    path = write(tmp_path / "a.h5", scan()[1], ismrmrd_header=header(width=width, maximum=width - 1, center=center))
    (batch,) = measured(path, sigma=SIGMA)
    assert batch.measurement.operator.mask.all()


def test_masks_come_from_an_array_or_a_family(tmp_path):
    _, kspace, _ = scan()
    path = write(tmp_path / "a.h5", kspace[:, 0], ismrmrd_header=header())
    np.save(tmp_path / "mask.npy", every_other())
    (batch,) = measured(path, mask=tmp_path / "mask.npy", sigma=SIGMA)
    assert batch.measurement.operator.mask[0, 0, 0].tolist() == every_other().tolist()
    family = CartesianMRI(4.0, 0.1)
    (one,), (again,), (other,) = (measured(path, undersampling=family, sigma=SIGMA, seed=n) for n in (0, 0, 1))
    drawn = one.measurement.operator.mask[0, 0, 0]
    assert torch.equal(drawn, again.measurement.operator.mask[0, 0, 0])
    assert not torch.equal(drawn, other.measurement.operator.mask[0, 0, 0])
    assert drawn[18:22].all()
    assert 4 < drawn.sum() < 25
    assert (one.measurement.y[..., drawn == 0] == 0).all()
    points = (np.random.default_rng(0).uniform(size=(64, 40)) < 0.5).astype(np.uint8)
    np.save(tmp_path / "mask.npy", points)
    (batch,) = measured(path, mask=tmp_path / "mask.npy", sigma=SIGMA)
    assert batch.measurement.image_shape == (2, 64, 40)  # a read-out with gaps cannot be cut
    assert torch.equal(batch.measurement.operator.mask[0, 0], torch.from_numpy(points).float())


def test_single_points_that_were_measured_are_told_from_zeros(tmp_path):
    _, kspace, _ = scan()
    points = np.random.default_rng(0).uniform(size=(64, 40)) < 0.5
    path = write(tmp_path / "a.h5", (kspace * points)[:, 0])
    (batch,) = measured(path, sigma=SIGMA)
    assert torch.equal(batch.measurement.operator.mask[0, 0].bool(), torch.from_numpy(points))


def test_an_ismrmrd_file_is_the_same_scan(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd", reason="the extra 'test' is not installed")
    _, kspace, _ = scan(coils=3, slices=2, noise=0.0)
    mask, rng = every_other(), np.random.default_rng(0)
    with ismrmrd.Dataset(str(tmp_path / "scan.h5")) as file:
        file.write_xml_header(header(maximum=35, center=17))  # column 3 is line 0
        prescan = 2 * SIGMA * (rng.standard_normal((3, 500)) + 1j * rng.standard_normal((3, 500)))
        one = ismrmrd.Acquisition.from_array(prescan.astype(np.complex64), sample_time_us=5.0)
        one.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        file.append_acquisition(one)
        for number in range(2):
            for line in range(36):
                if not mask[line + 3]:
                    continue
                data = kspace[number, :, 4:, line + 3].astype(np.complex64)  # an echo that begins late
                line_of = ismrmrd.Acquisition.from_array(data, center_sample=28, sample_time_us=10.0)
                line_of.idx.kspace_encode_step_1, line_of.idx.slice = line, number
                file.append_acquisition(line_of)
        for kind in ("PARALLEL_CALIBRATION", "NAVIGATION_DATA", "PHASECORR_DATA", "HPFEEDBACK_DATA", "DUMMYSCAN_DATA",
                     "RTFEEDBACK_DATA", "SURFACECOILCORRECTIONSCAN_DATA", "PHASE_STABILIZATION_REFERENCE",
                     "PHASE_STABILIZATION"):  # fmt: skip
            other = ismrmrd.Acquisition.from_array(np.ones((3, 60), dtype=np.complex64), center_sample=28)
            other.idx.kspace_encode_step_1 = 17
            other.set_flag(getattr(ismrmrd, f"ACQ_IS_{kind}"))
            file.append_acquisition(other)
    np.save(tmp_path / "maps.npy", simulated_coils(3, 64, 40, 0.3, np.arange(3.0)))
    batches = measured(tmp_path / "scan.h5", sensitivities=tmp_path / "maps.npy")
    assert [batch.ids for batch in batches] == [["scan/slice_000"], ["scan/slice_001"]]
    kept = mask * (np.arange(40) >= 3) * (np.arange(40) < 39)
    for batch, wanted in zip(batches, kspace, strict=True):
        units, y = batch.units[batch.ids[0]], to_complex(batch.measurement.y)[0].numpy()
        rows = np.arange(64)[:, None] >= 4
        np.testing.assert_allclose(y * units["scale"], wanted * kept * rows, atol=1e-6 * np.abs(wanted).max())
        assert batch.measurement.operator.mask[0, 0, 10].tolist() == kept.tolist()
        assert units["sigma_low"] < 2 * SIGMA * 0.5**0.5 < units["sigma_high"]  # half the bandwidth, half the variance


def test_averages_of_some_columns_leave_the_mean_variance(tmp_path):
    """Half of the columns averaged four times: (1 + 1 / 4) / 2 of the variance of one acquisition."""
    ismrmrd = pytest.importorskip("ismrmrd", reason="the extra 'test' is not installed")
    _, kspace, _ = scan(noise=0.0)
    rng = np.random.default_rng(0)
    with ismrmrd.Dataset(str(tmp_path / "scan.h5")) as file:
        file.write_xml_header(header(rows=64))
        prescan = SIGMA * (rng.standard_normal((1, 4000)) + 1j * rng.standard_normal((1, 4000)))
        one = ismrmrd.Acquisition.from_array(prescan.astype(np.complex64))
        one.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        file.append_acquisition(one)
        for line in [*range(40), *(3 * list(range(20, 40)))]:
            data = kspace[0, :, :, line].astype(np.complex64)
            line_of = ismrmrd.Acquisition.from_array(data, center_sample=32)
            line_of.idx.kspace_encode_step_1 = line
            file.append_acquisition(line_of)
    (batch,) = measured(tmp_path / "scan.h5")
    units = batch.units[batch.ids[0]]
    assert units["sigma_low"] < SIGMA * 0.625**0.5 < units["sigma_high"]
    y = to_complex(batch.measurement.y)[0].numpy() * units["scale"]
    np.testing.assert_allclose(y, kspace[0], atol=1e-6 * np.abs(kspace).max())


def test_noise_levels_have_the_coverage_they_state():
    rng = np.random.default_rng(0)
    levels = [noise_level(2 * (rng.standard_normal(100) + 1j * rng.standard_normal(100))) for _ in range(400)]
    assert np.mean([level.sigma for level in levels]) == pytest.approx(2, rel=0.02)
    assert np.mean([level.low < 2 < level.high for level in levels]) == pytest.approx(0.95, abs=0.04)
    with pytest.raises(UserError, match="10 numbers of noise, of energy 10, are too few: give sigma"):
        noise_level(np.ones(10))


def test_corners_say_whether_they_hold_signal():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 64, 64, dtype=torch.complex128, generator=generator)
    mask = torch.ones(64, 64, dtype=torch.bool)
    assert not corner_noise(noise, mask).signal
    y = (torch.arange(64) - 32.0).abs() / 32
    assert corner_noise(noise * (1 + 200 * (-4 * (y[:, None] ** 2 + y**2)).exp()), mask).signal


def test_espirit_explains_what_it_was_made_from():
    _, kspace, maps = scan(height=32, coils=4)
    kspace, maps = torch.from_numpy(kspace[0]), torch.from_numpy(maps)
    mask = torch.from_numpy(every_other()).bool().expand(32, 40)
    width = calibration_width(mask)
    assert width == 14
    found = estimated_sensitivities(kspace, width)
    total = found.abs().square().sum(dim=0)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert projection_residual(maps, kspace, width) < projection_residual(found, kspace, width) < 0.1
    assert projection_residual(maps.flip(0), kspace, width) > 0.3
    few = torch.from_numpy(every_other(middle=8)).bool().expand(32, 40)
    assert calibration_width(few) == 9  # the columns beside the eight: one is every other's
    with pytest.raises(UserError, match="a block of 9x9 in the middle of k-space is measured, ESPIRiT needs 12x12"):
        estimated_sensitivities(kspace, calibration_width(few))


def test_bad_files_cost_themselves_and_name_file_and_key(tmp_path):
    _, kspace, _ = scan(coils=3)
    path = tmp_path / "a.h5"
    bad = kspace.copy()
    bad[0, 1, :, [7, 9]] = np.nan
    write(path, bad)
    assert "a.h5: 'kspace', slice 0 has NaN or infinity in 2 columns (7, 9)" in fault(path)
    bad = kspace.copy()
    bad[0, 1] = 0
    write(path, bad)
    assert "a.h5: 'kspace', slice 0: coil 1 of 3 is all zeros" in fault(path)
    write(path, kspace, mask=np.ones(39))
    assert "a.h5: 'kspace', slice 0 is 64x40, 'mask' has shape (39,)" in fault(path)
    write(path, kspace, mask=np.full(40, 0.5))
    assert "'mask' must hold 0 and 1" in fault(path)
    write(path, np.fft.ifftshift(kspace, axes=(-2, -1)))
    assert "has its zero frequency in a corner" in fault(path)
    write(path, kspace, ismrmrd_header=b"<no")
    assert "a.h5: 'ismrmrd_header' is no ISMRMRD header: it is no XML" in fault(path)
    write(path, kspace, ismrmrd_header=b"<a/>")
    assert "a.h5: 'ismrmrd_header' is no ISMRMRD header: it has no encoding" in fault(path)
    write(path, kspace, mask=np.ones((20, 2)))
    assert "a.h5: 'kspace', slice 0 is 64x40, 'mask' has shape (20, 2)" in fault(path)
    for shape in ((0, 3, 8, 8), (1, 0, 8, 8)):
        write(path, np.ones(shape))
        assert f"a.h5: 'kspace' must be k-space {LAYOUTS}, complex, it is complex64{list(shape)}" in fault(path)
    write(path, np.ones((1, 300, 8, 8)))
    assert "a.h5: 'kspace', slice 0: coils must be >= 1 and <= 256, got 300" in fault(path)
    write(path, np.ones((1, 1, 2, 8)))
    assert "a.h5: 'kspace', slice 0: side must be >= 8" in fault(path, sigma=1.0)
    for factor in (1e-42, 1e60):
        with h5py.File(path, "w") as file:
            file["kspace"] = factor * kspace
        assert "slice 0: an image up to " in fault(path)
    write(path, kspace)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "k-space ('kspace') of" in fault(path)
    assert "a.h5 is not a readable HDF5 file" in fault(path)
    assert "a.h5 has no 'other'; it has kspace" in fault(write(path, kspace), key="other")
    with h5py.File(path, "w") as file:
        file["kspace"] = np.zeros((2, 4))
    assert "a.h5: 'kspace' must be k-space (slices, H, W) or (slices, coils, H, W)" in fault(path)


def test_an_ismrmrd_file_without_a_header_is_named(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd", reason="the extra 'test' is not installed")
    for text, why in ((b"<no", "it is no XML"), (b"<a/>", "it has no encoding")):
        with ismrmrd.Dataset(str(tmp_path / f"{len(text)}.h5")) as file:
            file.write_xml_header(text)
            file.append_acquisition(ismrmrd.Acquisition.from_array(np.ones((1, 8), dtype=np.complex64)))
        reason = fault(tmp_path / f"{len(text)}.h5")
        assert f"{len(text)}.h5: 'dataset/xml' is no ISMRMRD header: {why}" in reason


def test_a_good_file_is_measured_beside_a_bad_one(tmp_path):
    write(tmp_path / "a.h5", scan()[1][:, 0])
    (tmp_path / "b.h5").write_bytes(b"no")
    good, bad = measured(tmp_path, batch_size=4)
    assert good.ids == ["a/slice_000"]
    assert list(bad.failed) == ["b"]


def test_bad_settings_are_named(tmp_path):
    with pytest.raises(UserError, match="RecordedKSpace: sigma must be > 0"):
        RecordedKSpace(tmp_path, sigma=0.0)
    with pytest.raises(UserError, match="undersampling draws columns, the coils are the file's"):
        RecordedKSpace(tmp_path, undersampling=CartesianMRI(num_coils=2))
    with pytest.raises(UserError, match=r"RecordedKSpace: mask .*none\.npy does not exist"):
        RecordedKSpace(tmp_path, mask=tmp_path / "none.npy")
    with pytest.raises(UserError, match="holds no k-space file"):
        measured(tmp_path)
