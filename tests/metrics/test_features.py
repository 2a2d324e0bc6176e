import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.kid import poly_mmd

from posterior import UserError
from posterior.metrics.features import (
    VGG16_WEIGHTS,
    VGG16Features,
    frechet_distance,
    hub_file,
    kernel_distance,
    kernel_distance_left_out,
)


@pytest.fixture
def sets():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(8, 8, generator=generator)
    return torch.randn(60, 8, generator=generator), 0.5 + torch.randn(80, 8, generator=generator) @ mixing


def test_the_frechet_distance_is_the_formula(sets):
    x, y = (s.double().numpy() for s in sets)
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(sets[0], sets[0]) == pytest.approx(0, abs=1e-8)


def test_the_frechet_distance_knows_fewer_rows_than_features():
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(x, x + 2) == pytest.approx(80, rel=1e-6)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(x[:1], x)


def test_the_kernel_distance_is_torchmetrics(sets):
    x, y = (s.double() for s in sets)
    x, y = x, y[:60]
    kernels = [(a @ b.T / 8 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    from torchmetrics.image.kid import maximum_mean_discrepancy

    assert kernel_distance(x, y) == pytest.approx(float(maximum_mean_discrepancy(*kernels)), rel=1e-10)
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)


def test_the_kernel_distance_is_unbiased():
    """Its mean over pairs of sets from one distribution is 0, whatever their sizes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(
        [
            kernel_distance(torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator))
            for _ in range(2000)
        ]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / 2000**0.5


def test_leaving_one_out_is_what_it_says(sets):
    x, y = sets
    left_out = kernel_distance_left_out(x, y)
    for row in (0, 7, 59):
        rest = torch.cat([x[:row], x[row + 1 :]])
        assert float(left_out[row]) == pytest.approx(kernel_distance(rest, y), rel=1e-10)


@pytest.mark.usefixtures("no_lpips_weights")
def test_features_without_weights_say_what_is_missing():
    with pytest.raises(UserError, match=r"vgg16-397923af.pth is not in .* set TORCH_HOME"):
        VGG16Features()


@pytest.mark.parametrize("legacy", [False, True])
def test_features_are_those_of_torchvision(lpips_weights, tmp_path, monkeypatch, legacy):
    """From the file in the zip format, and from one in the older format that torchvision's own file has."""
    import torchvision
    from torchvision.transforms.functional import normalize

    state = torch.load(hub_file(VGG16_WEIGHTS), weights_only=True)
    vgg = torchvision.models.vgg16().features.eval()
    vgg.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    if legacy:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        hub_file(VGG16_WEIGHTS).parent.mkdir(parents=True)
        state |= {"classifier.0.weight": torch.zeros(2, 2)}
        torch.save(state, hub_file(VGG16_WEIGHTS), _use_new_zipfile_serialization=False)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    large = torch.nn.functional.interpolate((images.clamp(-1, 1) + 1) / 2, scale_factor=2, mode="bilinear")
    with torch.no_grad():
        expected = vgg(normalize(large, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).mean(dim=(2, 3))
    network = VGG16Features()
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.of_set(images, batch_size=2).float(), expected)


@pytest.mark.usefixtures("no_lpips_weights")
def test_a_broken_file_of_weights_is_named():
    hub_file(VGG16_WEIGHTS).parent.mkdir(parents=True)
    hub_file(VGG16_WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a readable state dict"):
        VGG16Features()
