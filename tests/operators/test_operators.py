import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from posterior import UserError, stream
from posterior.operators import (
    BoxInpainting,
    CartesianMRI,
    Dense,
    FanBeam,
    GaussianBlur,
    Inpainting,
    MaskInpainting,
    MotionBlur,
    NonCartesianMRI,
    ParallelBeam,
    PhaseRetrieval,
    Radial,
    RandomInpainting,
    ScratchInpainting,
    SubsampledTransform,
    SuperResolution,
    TextInpainting,
)
from posterior.operators.base import power_iteration_norm

SHAPE = (3, 24, 40)


def streams(count):
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


OPERATORS = {
    "random inpainting": lambda: RandomInpainting().realise(SHAPE, streams(2)),
    "box inpainting": lambda: BoxInpainting(8, 2).realise(SHAPE, streams(2)),
    "text": lambda: TextInpainting().realise(SHAPE, streams(2)),
    "scratches": lambda: ScratchInpainting().realise(SHAPE, streams(2)),
    "bicubic SR": lambda: SuperResolution(4).realise(SHAPE),
    "average SR": lambda: SuperResolution(4, "average").realise(SHAPE),
    "blur": lambda: GaussianBlur(17, 3.0).realise(SHAPE),
    "odd blur": lambda: GaussianBlur(9, 1.5).realise((3, 11, 13)),
    "motion blur": lambda: MotionBlur(9, 0.5).realise((3, 24, 17), streams(2)),
    "MRI": lambda: CartesianMRI(4, 0.1).realise((2, 24, 40), streams(2)),
    "multi-coil MRI": lambda: CartesianMRI(4, 0.1, "equispaced", num_coils=4).realise((2, 15, 22), streams(2)),
    "radial MRI": lambda: NonCartesianMRI(Radial(5, 20)).realise((2, 12, 10)),
    "DCT": lambda: SubsampledTransform(0.4).realise((3, 12, 10), streams(2)),
    "Hadamard": lambda: SubsampledTransform(0.3, "hadamard").realise((1, 8, 16), streams(2)),
    "parallel beam": lambda: ParallelBeam(9).realise((2, 11, 14)),
    "fan beam": lambda: FanBeam(8).realise((1, 12, 12)),
    "dense": lambda: Dense(torch.randn(7, 3 * 5 * 4, generator=torch.Generator().manual_seed(0)), (3, 5, 4)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_is_the_transpose(name):
    operator = OPERATORS[name]().to(torch.float64)
    x = torch.randn(2, *operator.image_shape, dtype=torch.float64)
    v = torch.randn(2, *operator.measurement_shape, dtype=torch.float64)
    y = operator.forward(x)
    assert y.shape[1:] == operator.measurement_shape
    assert abs((y * v).sum() - (x * operator.adjoint(v)).sum()) <= 1e-10 * y.norm() * v.norm()


@pytest.mark.parametrize("name", OPERATORS)
def test_norm_is_the_largest_singular_value(name):
    operator = OPERATORS[name]()
    iterated = power_iteration_norm(operator, num_steps=5000, tolerance=1e-12)
    torch.testing.assert_close(operator.norm().double(), iterated, rtol=1e-4, atol=0)
    assert operator.norm_bound() >= float(operator.norm().max()) * (1 - 1e-6)
    if operator.per_image:  # an image's norm is its own
        alone = operator.rows(torch.tensor([1])).norm()
        torch.testing.assert_close(alone, operator.norm()[1:], rtol=1e-12, atol=0)


@pytest.mark.parametrize("shift", [0.01, 2.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_shifted_solve_is_the_inverse(name, shift):
    """In closed form where a basis is known, by conjugate gradients otherwise; each image as it is alone."""
    operator = OPERATORS[name]().to(torch.float64)
    b = torch.randn(2, *operator.image_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = operator.solve(b, shift)
    back = operator.adjoint(operator.forward(x)) + shift * x
    assert (back - b).norm() < 1e-5 * b.norm()
    alone = operator.rows(torch.tensor([1])).solve(b[1:], shift)
    torch.testing.assert_close(alone, x[1:], rtol=1e-8, atol=1e-8)
    if (basis := operator.diagonal()) is not None:
        seen = basis.synthesise(basis.gains * basis.analyse(b))
        assert (seen - operator.adjoint(operator.forward(b))).norm() < 1e-9 * b.norm()
        torch.testing.assert_close(basis.synthesise(basis.analyse(b)), b, rtol=0, atol=1e-6)


def test_a_solve_of_zero_is_zero():
    operator = OPERATORS["motion blur"]()
    assert (operator.solve(torch.zeros(2, *operator.image_shape), 0.1) == 0).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_an_image_alone_equals_the_image_in_a_batch(name):
    operator = OPERATORS[name]()
    x = torch.randn(2, *operator.image_shape, generator=torch.Generator().manual_seed(0))
    alone = operator.rows(torch.tensor([1]))
    torch.testing.assert_close(alone.forward(x[1:]), operator.forward(x)[1:], rtol=1e-6, atol=1e-6)
    v = operator.forward(x)
    torch.testing.assert_close(alone.adjoint(v[1:]), operator.adjoint(v)[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_views_are_pictures_of_the_image_size(name):
    operator = OPERATORS[name]()
    view = operator.view(operator.forward(torch.randn(2, *operator.image_shape)))
    assert view.shape in ((2, *operator.image_shape), (2, 1, *operator.image_shape[1:]))
    assert view.abs().max() <= 1


def test_forward_and_adjoint_match_the_reference(golden_folder, relative):
    arrays = {key: torch.from_numpy(value) for key, value in np.load(golden_folder / "operators.npz").items()}
    x = arrays["x"][None]
    for scale in (2, 4, 8):
        assert relative(SuperResolution(scale).realise(x.shape[1:]).forward(x)[0], arrays[f"sr{scale}_y"]) < 1e-5
    blur = GaussianBlur(61, 3.0).realise(x.shape[1:])
    assert relative(blur.forward(x)[0], arrays["gaussian_y"]) < 1e-5
    for kind in ("random", "box"):
        mask = arrays[f"mask_{kind}"][None].float()
        assert torch.equal(Inpainting(mask, x.shape[1:]).forward(x)[0], arrays[f"inpaint_{kind}_y"])
    v = torch.zeros_like(x)
    v[0, :, :64, :64] = arrays["adjoint_blur_in_crop"]
    assert relative(blur.adjoint(v)[0, :, :96, :96], arrays["adjoint_gaussian_out_crop"]) < 1e-5
    upsampled = SuperResolution(4).realise(x.shape[1:]).adjoint(arrays["adjoint_sr4_in"][None])
    assert relative(upsampled[0], arrays["adjoint_sr4_out"]) < 1e-5


def test_resizing_matches_the_reference_taps(golden, relative):
    taps = golden("operators")
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weights, index = torch.from_numpy(taps["sr4_weights"]), torch.from_numpy(taps["sr4_indices"]).long()
    columns = (x[..., index] * weights).sum(dim=-1)
    expected = (columns[:, :, index] * weights[:, :, None]).sum(dim=3)
    assert relative(SuperResolution(4).realise(x.shape[1:]).forward(x), expected) < 1e-5


def test_blur_matches_a_convolution_with_the_reference_kernel(golden, relative):
    x = torch.rand(1, 3, 80, 72, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kernel = torch.from_numpy(golden("operators")["gaussian_kernel"]).expand(3, 1, -1, -1)
    expected = F.conv2d(F.pad(x, (30, 30, 30, 30), mode="reflect"), kernel, groups=3)
    assert relative(GaussianBlur(61, 3.0).realise(x.shape[1:]).forward(x), expected) < 1e-5


def test_random_masks_differ_between_images_and_keep_their_share():
    masks = RandomInpainting(0.3, 0.7).realise((3, 32, 32), streams(200)).mask
    shares = 1 - masks.flatten(1).mean(dim=1)
    assert shares.min() >= 0.3 - 1 / 1024
    assert shares.max() <= 0.7
    assert abs(float(shares.mean()) - 0.5) < 5 * 0.4 / 12**0.5 / 200**0.5
    assert not torch.equal(masks[0], masks[1])
    again = RandomInpainting(0.3, 0.7).realise((3, 32, 32), streams(3)).mask
    assert torch.equal(again, masks[:3])


def test_boxes_keep_their_size_and_margin():
    masks = BoxInpainting(8, 3).realise((3, 20, 24), streams(100)).mask[:, 0]
    assert ((1 - masks).flatten(1).sum(dim=1) == 64).all()
    assert (masks[:, :3] == 1).all()
    assert (masks[:, :, :3] == 1).all()
    assert (masks[:, -3:] == 1).all()
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 20


def test_a_mask_can_come_from_a_file(tmp_path):
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[2:4] = 1
    np.save(tmp_path / "mask.npy", mask)
    operator = MaskInpainting(tmp_path / "mask.npy").realise((3, 6, 8), streams(2))
    assert torch.equal(operator.mask[1, 0], torch.from_numpy(mask).float())
    assert operator.num_measured().tolist() == [48, 48]
    with pytest.raises(UserError, match="is \\(6, 8\\), the image"):
        MaskInpainting(tmp_path / "mask.npy").realise((3, 6, 6))
    np.save(tmp_path / "grey.npy", np.full((6, 8), 0.3))
    with pytest.raises(UserError, match=r"must be \(H, W\) of 0 \(masked\) and 1 \(kept\)"):
        MaskInpainting(tmp_path / "grey.npy")
    with pytest.raises(UserError, match=r"mask .*none\.png does not exist"):
        MaskInpainting(tmp_path / "none.png")


def painted(mode="L", size=(8, 6), hole=0, kept=255):
    """A mask picture with a hole of 2 rows."""
    picture = Image.new(mode, size, kept)
    picture.paste(hole, (0, 2, size[0], 4))
    return picture


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "LA", "RGBA"])
def test_a_mask_picture_may_be_stored_in_any_way(tmp_path, mode):
    painted().convert(mode).save(tmp_path / "mask.png")
    mask = MaskInpainting(tmp_path / "mask.png").mask
    assert mask.sum(dim=1).tolist() == [8, 8, 0, 0, 8, 8]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (painted("RGBA", hole=(0, 0, 0, 0), kept=(255, 255, 255, 255)), "is partly transparent: flatten it"),
        (painted("RGB", hole=(0, 0, 255), kept=(255, 255, 255)), "is in colour: save it as white"),
        (painted(hole=255), "has no hole: 0 \\(black\\) is what is masked"),
        (painted(kept=0), r"must be \(H, W\) of 0 \(masked\) and 255 \(kept\)"),
        (painted(hole=100), r"must be \(H, W\) of 0 \(masked\) and 255 \(kept\)"),
        (painted("I;16", kept=65535), "has more than 8 bits a channel"),
    ],
)
def test_mask_pictures_that_are_no_masks_are_named(tmp_path, picture, message):
    picture.save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=f"MaskInpainting: .*mask.png {message}"):
        MaskInpainting(tmp_path / "mask.png")


def test_mask_arrays_that_are_no_masks_are_named(tmp_path):
    for values, message in (
        (np.ones((6, 8)), "has no hole"),
        (np.zeros((6, 8)), "must be"),
        (np.full((6, 8), np.nan), "must be"),
        (np.ones((1, 6, 8)), "must be"),
        (np.array([[None]]), "pickled objects are not read"),
    ):
        np.save(tmp_path / "mask.npy", values)
        with pytest.raises(UserError, match=f"MaskInpainting: .*mask.npy .*{message}"):
            MaskInpainting(tmp_path / "mask.npy")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (lambda: SuperResolution(1), "scale must be >= 2"),
        (lambda: SuperResolution(4).realise((3, 30, 32)), "scale 4 does not divide the image size 30x32"),
        (lambda: GaussianBlur(4), "odd kernel_size"),
        (lambda: GaussianBlur(9, -1.0), "std must be > 0"),
        (lambda: GaussianBlur(61).realise((3, 24, 24)), "needs images larger than 30"),
        (lambda: MotionBlur(8), "odd kernel_size"),
        (lambda: MotionBlur(9, 1.5), "intensity must be >= 0 and <= 1"),
        (lambda: MotionBlur(61).realise((3, 24, 40), streams(1)), "needs images larger than 30 pixels"),
        (lambda: PhaseRetrieval(-1.0), "oversample must be >= 0"),
        (lambda: RandomInpainting(0.7, 0.3), "low must be >= 0 and <= 0.3"),
        (lambda: BoxInpainting(0), "box must be >= 1"),
        (lambda: BoxInpainting(20, 4).realise((3, 24, 24), streams(1)), "does not fit into a 24x24 image"),
    ],
)
def test_what_does_not_fit_is_said(family, message):
    with pytest.raises(UserError, match=message):
        family()


@pytest.mark.parametrize("kernel", ["average", "bicubic"])
def test_a_damped_inverse_blows_no_rounding_up(kernel):
    """A^T r has 1e-8 of rounding where A passes nothing: over a shift of 1e-15 that would be 1e7."""
    operator = SuperResolution(4, kernel).realise((3, 32, 32))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wide, y = operator.to(torch.float64), operator.forward(x)
    found, least = operator.damped_inverse(y, 1e-15), 10 * torch.finfo(torch.float32).eps * operator.norm_bound() ** 2
    right = wide.solve(wide.adjoint(y.double()), least)
    assert float((found - right).abs().max()) < 0.3
    assert float(operator.solve(operator.adjoint(y), 1e-15).abs().max()) > 1e6
    right = wide.solve(wide.adjoint(y.double()), 0.3)
    torch.testing.assert_close(operator.damped_inverse(y, 0.3).double(), right, rtol=0, atol=1e-5)
