import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ks_2samp

from posterior import UserError, stream
from posterior.operators import GivenBlur, KernelBlur, MotionBlur
from posterior.operators.motion_blur import draw_kernel, motion_path


@pytest.fixture(scope="module")
def golden_kernels(golden_folder):
    return dict(np.load(golden_folder / "motion_kernels.npz"))


def streams(count):
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


def moments(kernel):
    """Square roots of the eigenvalues of the second-moment matrix about the centroid: major and minor, in pixels."""
    kernel = kernel / kernel.sum()
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]]
    x, y = x - (kernel * x).sum(), y - (kernel * y).sum()
    matrix = [[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)]
    return np.sqrt(np.linalg.eigvalsh(matrix).clip(0))[::-1]


@pytest.mark.parametrize(("tag", "intensity"), [("i000", 0.0), ("i025", 0.25), ("i050", 0.5), ("i100", 1.0)])
def test_published_seeds_give_the_published_paths_and_kernels(golden_kernels, tag, intensity):
    offsets = golden_kernels[f"{tag}_path_offsets"]
    for number, seed in enumerate(golden_kernels[f"{tag}_seeds"][:50]):
        path = motion_path(61, intensity, np.random.RandomState(seed))
        expected = golden_kernels[f"{tag}_path_xy"][offsets[number] : offsets[number + 1]]
        np.testing.assert_allclose(path, expected, atol=1e-9)
        np.testing.assert_array_equal(draw_kernel(path, 61), golden_kernels[f"{tag}_kernel_u8"][number])


@pytest.mark.parametrize("size", [31, 101, 151])
def test_kernels_of_other_sizes(golden_kernels, size):
    path = motion_path(size, 0.5, np.random.RandomState(int(golden_kernels[f"size{size}_seed"])))
    np.testing.assert_array_equal(draw_kernel(path, size), golden_kernels[f"size{size}_kernel_u8"])


def test_drawn_kernels_follow_the_published_distribution(golden_kernels):
    """Kolmogorov-Smirnov on spread and support of 300 kernels against 200 published ones; fixed streams."""
    drawn = MotionBlur(61, 0.5).realise((3, 64, 64), streams(300)).kernel.double().numpy()
    published = golden_kernels["i050_kernel_u8"].astype(float)
    assert drawn.sum(axis=(1, 2)) == pytest.approx(1, abs=1e-5)
    ours, theirs = (np.array([moments(kernel) for kernel in kernels]) for kernels in (drawn, published))
    columns = json.loads(str(golden_kernels["summary_json"]))["i050"]
    assert theirs[:, 0].mean() == pytest.approx(columns["std_major_px"]["mean"], rel=1e-3)  # the moments are theirs
    for column in (0, 1):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01
    supports = [(kernels > 0).sum(axis=(1, 2)) for kernels in (drawn, published)]
    assert ks_2samp(*supports).pvalue > 0.01


def test_an_image_keeps_its_kernel():
    both, alone = (MotionBlur().realise((3, 64, 64), streams(2)[first:]).kernel for first in (0, 1))
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(both[0], both[1])


def test_blur_is_the_correlation_of_the_reference(golden_folder, relative):
    arrays = {key: torch.from_numpy(value) for key, value in np.load(golden_folder / "operators.npz").items()}
    x, kernel = arrays["x"][None], arrays["motion_kernel"][None]
    operator = KernelBlur(kernel, x.shape[1:])
    assert relative(operator.forward(x)[0], arrays["motion_y"]) < 1e-5
    v = torch.zeros_like(x)
    v[0, :, :64, :64] = arrays["adjoint_blur_in_crop"]
    assert relative(operator.adjoint(v)[0, :, :96, :96], arrays["adjoint_motion_out_crop"]) < 1e-5


def test_blur_is_a_convolution_layer_with_its_own_kernel_for_each_image():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(2, 5, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 3, 11, 8, generator=generator, dtype=torch.float64)
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    expected = torch.cat([F.conv2d(padded[[b]], kernel[b].expand(3, 1, -1, -1), groups=3) for b in range(2)])
    torch.testing.assert_close(KernelBlur(kernel, (3, 11, 8)).forward(x), expected)


def test_kernels_are_pictures():
    operator = MotionBlur(15).realise((3, 32, 32), streams(3))
    view = operator.parameters_view()
    assert view.shape == (3, 1, 15, 15)
    assert view.min() == -1
    assert (view.amax(dim=(1, 2, 3)) == 1).all()


def test_a_kernel_can_come_from_a_file(tmp_path):
    kernel = np.random.default_rng(0).random((5, 5))
    np.save(tmp_path / "kernel.npy", kernel)
    operator = GivenBlur(tmp_path / "kernel.npy").realise((3, 16, 16), streams(2))
    torch.testing.assert_close(operator.kernel[1], torch.from_numpy(kernel / kernel.sum()).float())
    for name, values in (("even", np.ones((4, 4))), ("negative", -np.ones((3, 3))), ("text", np.array("a"))):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(UserError, match="must be \\(k, k\\) of numbers >= 0, k odd"):
            GivenBlur(tmp_path / f"{name}.npy")
    np.save(tmp_path / "zero.npy", np.zeros((3, 3)))
    with pytest.raises(UserError, match="no finite sum"):
        GivenBlur(tmp_path / "zero.npy")
    with pytest.raises(UserError, match=r"kernel .*none\.npy does not exist"):
        GivenBlur(tmp_path / "none.npy")


def test_the_derivative_of_the_blur_is_its_adjoint():
    """What guidance differentiates, padding included."""
    operator = MotionBlur(9).realise((3, 16, 16), streams(2)).to(torch.float64)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    (grad,) = torch.autograd.grad(operator.forward(x), x, v)
    torch.testing.assert_close(grad, operator.adjoint(v))
