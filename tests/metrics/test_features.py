import os

import numpy as np
import pytest
import torch

from posterior import UserError
from posterior.metrics import FeatureDistance, Inception, encode
from posterior.metrics.features import VGG16_WEIGHTS, VGG16Features, decode, hub_file, read_features, write_features


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


def test_without_its_file_inception_says_so_and_another_file_is_refused(no_lpips_weights, tmp_path):
    network = Inception()
    assert network.unavailable is not None
    assert "inception-2015-12-05.pt" in network.unavailable
    wrong = tmp_path / "inception-2015-12-05.pt"
    wrong.write_bytes(os.urandom(100))
    with pytest.raises(UserError, match="its SHA-256 is not f58cb9b6"):
        Inception(wrong)


def test_features_do_not_depend_on_the_batch_and_survive_as_text(vgg, pictures):
    images = pictures(3, 2)
    together = vgg(images)
    apart = torch.cat([vgg(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert np.array_equal(decode(encode(together[1])), together[1].numpy())
    grey = images[:1, :1]
    torch.testing.assert_close(vgg(grey), vgg(grey.expand(-1, 3, -1, -1)))


def test_a_reference_set_is_read_back_and_another_network_is_refused(vgg, pictures, tmp_path):
    path = tmp_path / "sets" / "reference.npz"
    images = pictures(4, 3)
    write_features(path, vgg(images), vgg.name)
    assert torch.equal(read_features(path, "vgg16"), vgg(images))
    with pytest.raises(UserError, match="holds features of vgg16, not of inception"):
        read_features(path, "inception")
    with pytest.raises(UserError, match=r"reference features .*nothing\.npz does not exist; see docs/pipeline.md"):
        FeatureDistance(vgg, tmp_path / "nothing.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"reference features .* is not a readable \.npz file"):
        read_features(path, "vgg16")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((4, 3), np.float32), "holds 3 features an image, vgg16 has 512"),
        (np.zeros(512, np.float32), r"they must be \(N, D\) reals, N >= 2, they are float32\[512\]"),
        (np.zeros((1, 512), np.float32), "N >= 2"),
        (np.zeros((4, 512), np.int64), "they are int64"),
        (np.zeros((4, 512), complex), "they are complex128"),
        (np.full((4, 512), np.nan, np.float32), "some are NaN or infinite"),
        (np.array([{}]), "pickled objects are not read"),
    ],
)
def test_features_that_are_none_are_named(vgg, tmp_path, features, message):
    np.savez(tmp_path / "x.npz", features=features, network=np.array("vgg16"))
    with pytest.raises(UserError, match=f"x.npz.*{message}"):
        FeatureDistance(vgg, tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", features=features if features.dtype != object else np.zeros(3))
    with pytest.raises(UserError, match="it must hold features and network, it holds features"):
        FeatureDistance(vgg, tmp_path / "x.npz")
