"""`try`: one photograph in one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.__main__ import run as run_command
from benchmarks.matrix import try_photo
from benchmarks.matrix.try_photo import part, try_command
from posterior import UserError
from posterior.images import load_image
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


def command_line(photo, *words):
    folder = photo.parent
    settings = [f"--prior={folder / 'prior.yaml'}", f"--sampler={folder / 'sampler.yaml'}", "--num_samples=2"]
    return [str(photo), f"--output={folder / 'run'}", *settings, *words]


def tried(photo, *words):
    try_command(command_line(photo, *words))
    return photo.parent / "run"


def refused(photo, capsys, *words):
    """What the command says, in one line, before it writes anything."""
    with pytest.raises(SystemExit) as stopped:
        run_command("try", command_line(photo, *words))
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize(
    ("photo", "box", "restored"),
    [
        ((600, 400), (0, 400 / 171, 600, 400 * 169 / 171), (256, 168)),  # 171 rows at first: one and two go
        ((41, 30), (0, 1, 40, 29), (40, 28)),  # whole pixels: nothing is interpolated
    ],
)
def test_what_is_restored_has_sides_that_the_scale_divides(photo, box, restored):
    assert part(photo, None, 256, 4) == (pytest.approx(box), restored)


def test_a_photo_that_is_only_cropped_keeps_its_pixels(photo):
    run = tried(photo, "--scale=4")
    with Image.open(photo) as whole, Image.open(run / "images" / "my photo" / "truth.png") as restored:
        assert np.array_equal(np.asarray(restored), np.asarray(whole)[1:29])


@pytest.mark.parametrize("words", [["--task=super_resolution", "--scale=5"], ["--task=denoising"]])
def test_a_photo_is_measured_and_restored(photo, words, capsys):
    run = tried(photo, *words, "--side=20")
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
    (file,) = (run / "photo").glob("*/mask/mask.png")
    with Image.open(file) as reduced:
        expected = np.full((15, 20), 255)
        expected[5:10, 5:15] = 0
        assert np.array_equal(np.asarray(reduced), expected)


def test_a_photo_that_is_the_measurement(photo):
    run = tried(photo, "--task=super_resolution", "--measured", "--sigma_y=0.1", "--scale=2")
    images = run / "images" / "my photo"
    assert size_of(images / "sample_000.png") == (80, 60)
    assert not (images / "truth.png").exists()
    (file,) = (run / "measured").glob("*/my photo.npy")
    y = np.load(file)
    with Image.open(photo) as picture:
        np.testing.assert_allclose((y + 1) * 127.5, np.asarray(picture).transpose(2, 0, 1), atol=1e-4)


def test_a_grey_measurement_counts_once(photo, capsys):
    """Three channels of one number: their mean has the noise that was given, so each is told sqrt(3) of it."""
    Image.open(photo).convert("L").save(photo)
    run = tried(photo, "--task=denoising", "--measured", "--sigma_y=0.1")
    likelihood = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["likelihood"]
    assert likelihood["init_args"]["sigma_y"] == pytest.approx(0.1732, abs=1e-4)
    told = " ".join(capsys.readouterr().out.split())
    assert (
        "my photo.png is grey: its noise counts once, 0.173 in each of 3 channels; a right residual is then 0.58"
        in told
    )


def test_marks_in_colour_do_not_hide_that_a_photo_is_grey(photo):
    """What a mask hides was not measured."""
    pixels = np.repeat(np.asarray(Image.open(photo).convert("L"))[..., None], 3, axis=2).copy()
    pixels[:8] = (255, 0, 0)
    Image.fromarray(pixels).save(photo)
    mask = np.full(pixels.shape[:2], 255, np.uint8)
    mask[:8] = 0
    Image.fromarray(mask).save(photo.parent / "mask.png")
    words = ("--task=inpainting", f"--mask={photo.parent / 'mask.png'}", "--measured", "--sigma_y=0.1")
    likelihood = yaml.safe_load((tried(photo, *words) / "config.yaml").read_text())["data"]["init_args"]["likelihood"]
    assert likelihood["init_args"]["sigma_y"] == pytest.approx(0.1732, abs=1e-4)


def test_a_photo_of_sixteen_bits_keeps_them(photo):
    """As the truth of a measurement that is simulated, and as the measurement; grey, as Pillow writes it."""
    pixels = 32768 + np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint16)
    Image.fromarray(pixels).save(photo)
    right = np.stack([pixels / 32767.5 - 1] * 3)
    run = tried(photo, "--task=denoising", "--measured", "--sigma_y=0.1")
    (file,) = (run / "measured").glob("*/my photo.npy")
    assert np.abs(np.load(file) - right).max() < 1e-7
    try_command(command_line(photo, "--task=denoising", f"--output={photo.parent / 'other'}"))
    (file,) = (photo.parent / "other" / "photo").glob("*/my photo.png")
    assert np.abs(load_image(file).numpy() - right).max() < 1e-7


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
        (["--scale=2", "--task=denoising"], "--scale: belongs to --task super_resolution, not to denoising"),
        (["--side=20", "--measured", "--sigma_y=0.1"], "--side: has no effect on a photo that is the measurement"),
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


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--scale=0"], "try: scale"),
        (["--scale=-4"], "try: scale"),
        (["--scale=31"], "too small for a scale of 31"),
        (["--side=1", "--task=denoising"], "try: side"),
        (["--side=3"], "too small for a scale of 4"),
        (["--side=20", "--task=deblurring"], "GaussianBlur: a kernel of 61"),
        (["--measured", "--sigma_y=0.1", "--scale=0"], "try: scale"),
        (["--measured", "--sigma_y=0.1", "--scale=-1"], "try: scale"),
        (["--measured", "--sigma_y=0.1", "--scale=100000"], "try: scale"),
        (["--measured", "--sigma_y=0.1", "--scale=1000"], "try: scale times the photo's longer side"),
    ],
)
def test_numbers_that_cannot_work_are_one_line(photo, capsys, words, culprit):
    assert culprit in refused(photo, capsys, *words)
    assert not (photo.parent / "run").exists()


@pytest.mark.parametrize(
    "kernel",
    [None, np.ones((4, 4)), np.zeros((3, 3)), np.full((3, 3), np.nan), np.array([{}]), np.ones((61, 61))],
    ids=["missing", "even", "zero", "nan", "pickled", "large"],
)
def test_kernels_that_cannot_work_are_one_line(photo, capsys, kernel):
    file = photo.parent / "kernel.npy"
    if kernel is not None:
        np.save(file, kernel)
    words = ["--task=deblurring", f"--kernel={file}"]
    assert "GivenBlur" in refused(photo, capsys, *words)
    assert "GivenBlur" in refused(photo, capsys, *words, "--measured", "--sigma_y=0.1")
    assert not (photo.parent / "run").exists()


@pytest.mark.parametrize(("kept", "lost"), [(255, "known"), (0, "masked")])
def test_a_mask_of_which_the_reduction_leaves_nothing(photo, capsys, kept, lost):
    mask = np.full((30, 40), 255 - kept, dtype=np.uint8)
    mask[0, 0] = kept  # of every 2 x 2 pixels, the nearest to the centre is another
    Image.fromarray(mask).save(photo.parent / "mask.png")
    told = refused(photo, capsys, "--task=inpainting", f"--mask={photo.parent / 'mask.png'}", "--side=20")
    assert f"--mask: no {lost} pixel" in told
    assert not (photo.parent / "run").exists()


def test_what_the_run_itself_refuses_is_one_line(photo, capsys, monkeypatch):
    def run(*_):
        raise ValueError("the parser's\nwords") from UserError("Sampler: the reason")

    monkeypatch.setattr(try_photo.lightning_cli, "run", run)
    assert refused(photo, capsys, "--task=denoising") == "error: Sampler: the reason\n"


def test_a_run_of_another_photo_is_left_as_it_is(photo, capsys):
    run = tried(photo, "--task=denoising")
    before = files_of(run)
    Image.new("RGB", (40, 30), "red").save(photo)
    told = refused(photo, capsys, "--task=denoising")
    assert "holds a run of another photo" in told
    assert "--output" in told
    assert files_of(run) == before


def test_a_run_of_the_same_photo_goes_on(photo):
    run = tried(photo, "--task=denoising")
    before = files_of(run / "photo")
    assert tried(photo, "--task=denoising") == run
    assert files_of(run / "photo") == before


@pytest.fixture
def sized(monkeypatch):
    """A prior that was made for images of 32 x 32."""
    monkeypatch.setattr(try_photo, "sides_of", lambda prior, allow_local: (32, 32))


@pytest.mark.usefixtures("sized")
def test_a_small_photo_is_enlarged_for_a_prior_with_a_size(photo, capsys):
    tried(photo, "--task=denoising")
    assert "my photo.png is 30x40: enlarged to 32x32" in capsys.readouterr().out


@pytest.mark.usefixtures("sized")
def test_side_has_no_effect_where_the_prior_has_a_size(photo, capsys):
    assert "--side: has no effect, as the prior is for images of 32x32" in refused(photo, capsys, "--side=20")


@pytest.mark.usefixtures("sized")
def test_a_scale_that_does_not_divide_the_size_of_the_prior(photo, capsys):
    assert "scale 5 does not divide the image size 32x32" in refused(photo, capsys, "--scale=5")


@pytest.mark.parametrize("written", [True, False])
def test_a_page_is_only_named_if_it_is_there(photo, capsys, monkeypatch, written):
    def run(command, settings, *_):
        if written:
            page = photo.parent / "run" / "report.html"
            page.write_text("")

    monkeypatch.setattr(try_photo.lightning_cli, "run", run)
    tried(photo)
    assert ("look at" in capsys.readouterr().out) is written
