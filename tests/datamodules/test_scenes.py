import pytest
import torch

from datamodules import BlackHole, Cells, Layers, SceneImages, Scenes, Vortices
from posterior import UserError
from posterior.noise import GaussianNoise
from posterior.operators import EHTVisibilities

SCENES = [BlackHole(), Cells(), Layers(), Vortices()]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: type(scene).__name__)
def test_pictures_are_their_numbers_and_differ(scene):
    one, again, other = (scene.image(index, 24) for index in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert one.shape == (1, 24, 24)
    assert one.dtype == torch.float32
    assert one.abs().max() <= 1
    assert one.std() > 0.05


def test_scenes_are_what_they_say():
    holes = torch.stack([BlackHole().image(index, 32) for index in range(40)])
    light = (holes + 1) / 2
    assert (light.amax(dim=(1, 2, 3)) > 0.55).all()
    assert light[..., 0, :].max() < 0.02  # dark sky around
    place = torch.linspace(-48.4375, 48.4375, 32)  # microarcseconds
    for axis in (-1, -2):
        profile = light.sum(dim=(1, axis))
        assert ((profile * place).sum(dim=1) / profile.sum(dim=1)).abs().max() < 25
    assert Vortices().image(0, 32).mean().abs() < 1e-6
    assert (torch.stack([Cells().image(index, 32)[0, 0] for index in range(20)]) == -1).all()
    layers = torch.stack([Layers().image(index, 32) for index in range(20)])
    assert layers[..., -4:, :].mean() > layers[..., :4, :].mean() + 0.5


def test_scenes_are_measured_and_trained_on():
    data = Scenes(BlackHole(), EHTVisibilities(scans=3), GaussianNoise(0.01), size=16, start=5, count=3, batch_size=2)
    data.setup("predict")
    assert data.ids == ["scene_000005", "scene_000006", "scene_000007"]
    batch = data.on_after_batch_transfer(next(iter(data.predict_dataloader())), 0)
    assert torch.equal(batch.truth[1], BlackHole().image(6, 16))
    images = SceneImages(BlackHole(), 16, start=5, count=2)
    assert torch.equal(images.all()[1], BlackHole().image(6, 16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SceneImages(Cells(), size=4), "SceneImages: size must be >= 8"),
        (lambda: SceneImages(Cells(), count=0), "SceneImages: count must be >= 1"),
        (lambda: Scenes(Cells(), EHTVisibilities(), GaussianNoise(), start=-1), "Scenes: start must be >= 0"),
        (lambda: BlackHole(-1.0), "BlackHole: field_of_view must be > 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()
