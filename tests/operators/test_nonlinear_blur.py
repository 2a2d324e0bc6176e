import json
import pickle

import numpy as np
import pytest
import torch

from benchmarks.tools.recipe import fill_kernel_wizard_by_recipe
from posterior import UserError, stream
from posterior.operators import EncodedBlur, KernelWizard, NonlinearBlur


def streams(count):
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


@pytest.fixture(scope="module")
def manifest(golden_folder):
    return json.loads((golden_folder / "bkse_manifest.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, manifest):
    """The published file's keys, all of them, with recipe weights where they are used."""
    network = KernelWizard()
    fill_kernel_wizard_by_recipe(network, [key for key, *_ in manifest["state_dict"]])
    unused = {key: torch.zeros(1) for key, _, used in manifest["state_dict"] if not used}
    path = tmp_path_factory.mktemp("bkse") / "GOPRO_wVAE.pth"
    torch.save(network.state_dict() | unused, path)
    return path


def test_keys_and_shapes_are_those_of_the_published_file(manifest):
    used = [[key, shape] for key, shape, is_used in manifest["state_dict"] if is_used]
    assert sorted([key, list(value.shape)] for key, value in KernelWizard().state_dict().items()) == sorted(used)


def test_output_and_gradient_match_the_reference(checkpoint, reference, relative):
    golden = {
        key: torch.from_numpy(v) for key, v in np.load(reference / "bkse_small.npz").items() if v.dtype.kind == "f"
    }
    network = KernelWizard()
    network.load_state_dict({k: v for k, v in torch.load(checkpoint).items() if not k.startswith("kernel_extractor")})
    x = golden["p128_x"].requires_grad_()
    y = network(x, golden["p128_code"])
    assert relative(y, golden["p128_y"]) < 1e-4
    (grad,) = torch.autograd.grad((y * golden["p128_cotangent"]).sum(), x)
    assert relative(grad, golden["p128_grad_x"]) < 1e-4
    operator = EncodedBlur(golden["p128_code"], (3, 128, 128), checkpoint)
    blurred = operator.forward(2 * golden["p128_x"].detach() - 1)
    assert relative(blurred, golden["p128_operator_y"]) < 1e-4
    face = torch.from_numpy(np.load(reference / "operators.npz")["x"])[None]
    operator = EncodedBlur(golden["p256_code"], (3, 256, 256), checkpoint)
    assert relative(operator.forward(face), golden["p256_operator_y"]) < 1e-4


def test_every_image_has_a_code_of_its_own_and_keeps_it(checkpoint):
    family = NonlinearBlur(checkpoint)
    operator = family.realise((3, 128, 128), streams(2))
    assert operator.code.shape == (2, 512, 1, 1)
    assert operator.code.std() == pytest.approx(1.2, rel=0.1)
    x = torch.rand(1, 3, 128, 128).expand(2, -1, -1, -1)
    y = operator.forward(x)
    assert torch.equal(y, operator.forward(x))
    assert (y[0] - y[1]).abs().max() > 1e-3
    alone = family.realise((3, 128, 128), streams(2)[1:]).forward(x[1:])
    torch.testing.assert_close(alone, y[1:], rtol=1e-5, atol=1e-5)


def test_the_vector_jacobian_product_is_the_derivative(checkpoint):
    generator = torch.Generator().manual_seed(0)
    operator = NonlinearBlur(checkpoint).realise((3, 128, 128), streams(1)).to(torch.float64)
    x = 0.4 * torch.rand(1, 3, 128, 128, generator=generator, dtype=torch.float64) - 0.2
    v, direction = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    h = 1e-6
    quotient = (operator.forward(x + h * direction) - operator.forward(x - h * direction)) / (2 * h)
    assert float((quotient * v).sum()) == pytest.approx(float((direction * operator.vjp(x, v)).sum()), rel=1e-3)


def test_the_network_does_not_travel_with_the_operator(checkpoint):
    operator = NonlinearBlur(checkpoint).realise((3, 128, 128), streams(1))
    assert len(pickle.dumps(operator)) < 100_000


def test_what_does_not_fit_is_said(checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.pth does not exist; it is GOPRO_wVAE.pth"):
        NonlinearBlur(tmp_path / "nowhere.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth is of another architecture than KernelWizard"):
        NonlinearBlur(tmp_path / "other.pth")
    with pytest.raises(UserError, match="multiples of 128, got 3 channels of 64x128"):
        NonlinearBlur(checkpoint).realise((3, 64, 128), streams(1))
