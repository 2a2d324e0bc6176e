"""`try`: one photograph in one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.matrix.try_photo import part, try_command
from posterior import UserError
from tests.test_cli import FIELD

pytestmark = pytest.mark.usefixtures("no_lpips_weights")


@pytest.fixture
def photo(tmp_path):
    """40 x 30 pixels; with settings of a prior and a sampler that need no network."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "my photo.png")
    (tmp_path / "prior.yaml").write_text(yaml.safe_dump(FIELD))
    (tmp_path / "sampler.yaml").write_text(yaml.safe_dump({"class_path": "posterior.samplers.ExactGaussian"}))
    return tmp_path / "my photo.png"


def tried(photo, *words):
    folder = photo.parent
    settings = [f"--prior={folder / 'prior.yaml'}", f"--sampler={folder / 'sampler.yaml'}", "--num_samples=2"]
    try_command([str(photo), f"--output={folder / 'run'}", *settings, *words])
    return folder / "run"


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize(
    ("photo", "size", "box", "restored"),
    [
        ((4000, 3000), None, (0, 0, 4000, 3000), (256, 192)),
        ((200, 100), None, (0, 0, 200, 100), (200, 100)),
        ((25600, 64), None, (0, 0, 25600, 64), (256, 1)),
        ((100, 50), (32, 32), (25, 0, 75, 50), (32, 32)),
        ((60, 120), (20, 30), (0, 40, 60, 80), (30, 20)),
    ],
)
def test_what_of_a_photo_is_restored(photo, size, box, restored):
    assert part(photo, size, 256) == (pytest.approx(box), restored)


@pytest.mark.parametrize("task", ["super_resolution", "denoising"])
def test_a_photo_is_measured_and_restored(photo, task, capsys):
    run = tried(photo, f"--task={task}", "--side=20", "--scale=5")
    images = run / "images" / "my photo"
    assert size_of(images / "truth.png") == size_of(images / "sample_001.png") == (20, 15)
    assert "my photo.png is 30x40: 15x20 of it is restored" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 1
    assert metrics["metrics"]["sample"]["psnr"]["count"] == 1


def test_a_mask_is_reduced_with_its_photo(photo):
    mask = np.full((30, 40), 255, dtype=np.uint8)
    mask[10:20, 10:30] = 0
    Image.fromarray(mask).save(photo.parent / "mask.png")
    run = tried(photo, "--task=inpainting", f"--mask={photo.parent / 'mask.png'}", "--side=20")
    with Image.open(run / "photo" / "mask.png") as reduced:
        expected = np.full((15, 20), 255)
        expected[5:10, 5:15] = 0
        assert np.array_equal(np.asarray(reduced), expected)


def test_a_photo_that_is_the_measurement(photo):
    run = tried(photo, "--task=super_resolution", "--measured", "--sigma_y=0.1", "--scale=2")
    images = run / "images" / "my photo"
    assert size_of(images / "sample_000.png") == (80, 60)
    assert not (images / "truth.png").exists()
    y = np.load(run / "measured" / "my photo.npy")
    with Image.open(photo) as picture:
        np.testing.assert_allclose((y + 1) * 127.5, np.asarray(picture).transpose(2, 0, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measured"], "--sigma_y: has to be given"),
        (["--measured", "--sigma_y=0.1", "--task=inpainting"], "--mask: has to be given"),
        (["--measured", "--sigma_y=0.1", "--task=deblurring"], "--kernel: has to be given"),
        (["--mask=m.png"], "--mask: belongs to --task inpainting, not to super_resolution"),
        (["--task=inpainting", "--mask=MASK"], "--mask: .* is 5x5, the photo 30x40"),
        (["--task=colouring"], "try: argument --task: invalid choice"),
        (["--prior=nowhere"], "--prior: the file of settings nowhere does not exist"),
        (["--num_samples=0"], "try: num_samples"),
        (["--sigma_y=-1"], "try: sigma_y"),
        (["--side=0"], "try: side"),
    ],
)
def test_mistakes_are_one_line(photo, words, message):
    mask = np.full((5, 5), 255, dtype=np.uint8)
    mask[2, 2] = 0
    Image.fromarray(mask).save(photo.parent / "small.png")
    given = [word.replace("MASK", str(photo.parent / "small.png")) for word in words]
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        tried(photo, *given)


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_file_that_is_no_picture(photo, content):
    photo.write_bytes(content)
    with pytest.raises(UserError, match=r"^photo .*my photo\.png"):
        tried(photo)
