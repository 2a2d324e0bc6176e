"""`probe` on priors that are known exactly: sound ones pass, each planted fault is found and named."""

from __future__ import annotations

import functools
import json
import math
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.__main__ import run as run_command
from benchmarks.probe import command, fit_folder
from benchmarks.probe.command import built_prior
from benchmarks.probe.linear import StationaryPrior
from benchmarks.probe.measures import Sizes, chain, chain_levels, jacobian, level, measure, noisy, ritz_values
from benchmarks.probe.verdict import score_sigma, verdict_on
from datamodules import SquareImages
from posterior import Streams, UserError
from posterior.images import to_pixels
from posterior.priors import EmpiricalPrior, RescaledPrior
from posterior.priors.wrapped import WrappedPrior
from tests.test_cli import FIELD

SIZES = Sizes(judged=32, read=32, followed=4, steps=12)
SHAPE = (3, 8, 8)


class Planted(WrappedPrior):
    """A prior with a fault: wrong(D, x, sigma) in place of D(x, sigma)."""

    def __init__(self, prior, wrong):
        super().__init__(prior)
        self.wrong = wrong

    def _predict(self, x, sigma):
        return self.wrong(lambda *given: self.prior._predict(*given)[0], x, sigma), None


def noise_in(denoise, x, sigma):
    return (x - denoise(x, sigma)) / sigma


def v_in(denoise, x, sigma):
    """v = (n - sigma x0) / sqrt(1 + sigma^2), of what an exact network takes for n and x0."""
    return (noise_in(denoise, x, sigma) - sigma * denoise(x, sigma)) / (1 + sigma**2) ** 0.5


def read_as_v(output, x, sigma):
    return (x / (1 + sigma**2) ** 0.5 - sigma * output) / (1 + sigma**2) ** 0.5


def betas_doubled(denoise, x, sigma):
    """A network that predicts noise; its schedule squares abar = 1 / (1 + sigma^2): other timesteps, the same input."""
    trained = ((1 + sigma**2) ** 0.5 - 1) ** 0.5
    z = x / (1 + sigma**2) ** 0.5
    return x - sigma * noise_in(denoise, z * (1 + trained**2) ** 0.5, trained)


FAULTS = {
    "epsilon read as v": lambda d, x, s: read_as_v(noise_in(d, x, s), x, s),
    "v read as epsilon": lambda d, x, s: x - s * v_in(d, x, s),
    "x0 read as epsilon": lambda d, x, s: x - s * d(x, s),
    "sigma doubled": lambda d, x, s: d(x, 2 * s),
    "sigma halved": lambda d, x, s: d(x, s / 2),
    "variance doubled": lambda d, x, s: d(x, math.sqrt(2) * s),
    "betas doubled (epsilon)": betas_doubled,
    "channels": lambda d, x, s: d(x.flip(1), s).flip(1),
    "range": lambda d, x, s: (d(2 * x - 1, 2 * s) + 1) / 2,
}


def streams(count=64):
    return Streams(0, [f"image {number}" for number in range(count)], samples=[-1])


def measured(prior, images):
    return measure(prior, images, [str(number) for number in range(len(images))], sizes=SIZES)


@pytest.fixture
def images(field):
    """64 exact samples of the field."""
    return field.sample_from(streams().randn("truth", SHAPE))


@pytest.fixture
def linear(field):
    """The linear denoiser of many samples."""
    return StationaryPrior(field.sample_from(streams(1024).randn("many", SHAPE)))


def test_the_linear_denoiser_of_many_images_of_a_field_is_exact(field, images, linear):
    x = noisy(images, 0.3, streams(), "x")
    exact, found = (prior.denoise(x, 0.3) - images for prior in (field, linear))
    assert exact.square().mean() < found.square().mean() < 1.02 * exact.square().mean()
    assert linear.distance(x, 0.3).mean() == pytest.approx(1, abs=0.05)


def test_an_exact_prior_is_sound(field, images):
    found = measured(field, images)
    verdict = verdict_on(found)
    assert verdict.sound, verdict.sentence
    assert verdict.fault is None
    assert verdict.score_sigma == 0.01
    for one in found.levels:
        assert one.against_linear.low < 1
        assert abs(one.bias.value) < 2 * one.bias.error
        assert abs(one.drift.value) < 2 * one.drift.error
    for one in found.jacobians:
        spectrum = field.spectrum(SHAPE)  # J = S / (S + sigma^2)
        least, most = (float(end / (end + one.sigma**2)) for end in (spectrum.min(), spectrum.max()))
        assert one.asymmetry.value < 1e-3
        assert least - 1e-4 < one.smallest.value < least + 0.1
        assert most - 0.1 < one.largest.value < most + 1e-4


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_named(name, field, images):
    verdict = verdict_on(measured(Planted(field, FAULTS[name]), images))
    assert verdict.fault == name, verdict.sentence
    assert verdict.sentence.startswith("not what it claims: most likely ")
    assert not verdict.sound
    assert verdict.score_sigma is None


def test_a_prior_that_makes_no_error_has_no_known_fault_and_leaves_no_nan(images):
    found = measured(EmpiricalPrior(images), images)
    assert verdict_on(found).fault is None
    assert all(math.isfinite(gain.value) for gain in found.gains.values())
    assert all(math.isfinite(one.asymmetry.value) for one in found.jacobians)


def test_what_a_verdict_advises_mends_the_fault(field, images):
    broken = Planted(field, FAULTS["range"])
    verdict = verdict_on(measured(broken, images))
    assert "put posterior.priors.RescaledPrior around it" in verdict.sentence
    assert verdict_on(measured(RescaledPrior(broken), images)).sound


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda d, x, s: d(x, s).where(torch.as_tensor(s) > 0.02, math.nan), "broken: its denoised images hold NaN"),
        (lambda d, x, s: d(x, s) + 0.1 * (x - x.mean(dim=0)), "an image's answer depends on its batch"),
        (lambda d, x, s: d(x, s) + 0.1 * torch.rand_like(x), "two calls with the same image differ"),
        (lambda d, x, s: d(x, s) + 0.1 * torch.is_tensor(s), "one sigma for all images and the same sigma for each"),
        (lambda d, x, s: d(x, s) + x.roll(1, -1) - x.roll(-1, -1), "dD/dx is not symmetric"),
        (lambda d, x, s: d(x, s) - 2 * (x - d(x, s)), "dD/dx has an eigenvalue"),
        (lambda d, x, s: d(x, s).mean(dim=(1, 2, 3), keepdim=True) + 0 * x, "worse than a linear denoiser"),
    ],
)
def test_other_faults_are_told(wrong, told, field, images):
    verdict = verdict_on(measured(Planted(field, wrong), images))
    assert not verdict.sound
    assert any(told in line for line in [verdict.sentence, *verdict.others])


def test_a_score_that_is_wrong_below_a_level_is_not_recommended_there(field, images, linear):
    broken = Planted(field, lambda d, x, s: d(x, max(s, 0.06)))
    found = [chain(broken, linear, images[:8], sigma, streams(8), 32) for sigma in chain_levels(broken)]
    assert score_sigma(found) == 0.08
    assert found[0].bias.value > 0.9  # of 0.01, it takes 0.06 away: nearly all of that should have stayed


def test_chains_that_stay_put_are_not_denied_to_a_prior_with_a_fault(field, images):
    """Biased at the lowest level alone."""
    found = measured(Planted(field, lambda d, x, s: d(x, torch.as_tensor(s).clamp_min(0.02))), images)
    verdict = verdict_on(found)
    assert not verdict.sound
    assert score_sigma(found.chains) is not None
    assert not any("stay put" in line for line in verdict.others)


def test_no_fault_of_reading_is_named_of_what_was_trained_here(field, images):
    """Noise levels twice too large, were they read wrongly; here a network that has hardly learnt."""
    found = measured(Planted(field, lambda d, x, s: d(x, 2 * s)), images)
    assert verdict_on(found).fault is not None
    verdict = verdict_on(found, trained_here=True)
    assert verdict.fault is None
    assert not verdict.sound
    assert not any("not what it claims" in line for line in [verdict.sentence, *verdict.others])


def test_levels_that_disagree_drift(field, images, linear):
    broken = Planted(field, lambda d, x, s: d(x, s) + 0.3 * (1 + math.copysign(1, s - 0.9)))
    sound, jump = (level(prior, linear, images, 1.0, streams()).drift for prior in (field, broken))
    assert abs(sound.value) < 0.05
    assert jump.low > 0.3  # it jumps by 0.6 from a level to the next


def test_eigenvalues_are_those_of_the_symmetric_part():
    values = torch.linspace(-2.0, 3.0, 12).view(1, 3, 2, 2)

    def matrix(v):
        turned = v.flatten(1).roll(1, 1) - v.flatten(1).roll(-1, 1)  # antisymmetric
        return values * v + 5 * turned.view_as(v)

    found = ritz_values(matrix, torch.ones(1, 3, 2, 2), 12)
    torch.testing.assert_close(found[0], values.flatten().double(), atol=1e-4, rtol=0)
    part = ritz_values(matrix, torch.ones(1, 3, 2, 2), 4)[0]
    assert -2 <= part[0] < part[-1] <= 3


def test_asymmetry_is_that_of_a_known_matrix(field, images):
    turn = Planted(field, lambda d, x, s: x + 0.5 * (x.roll(1, -1) - x.roll(-1, -1)))  # |J|^2 = 1 + 2 / 4 a pixel
    found = jacobian(turn, images, 1.0, streams())
    assert found.asymmetry.value == pytest.approx(math.sqrt(0.5 / 1.5), abs=0.05)
    assert found.smallest.value == pytest.approx(1, abs=1e-4)


def test_an_images_numbers_do_not_depend_on_the_others(field, images, linear):
    together = noisy(images, 0.3, streams(), "x")
    assert torch.equal(noisy(images[:2], 0.3, streams(2), "x"), together[:2])
    few = Sizes(judged=16, read=4, followed=2, steps=4)
    first, again = (measure(field, images, list(map(str, range(64))), sizes=few) for _ in range(2))
    assert first == again


@pytest.fixture
def folder(tmp_path, field):
    """64 pictures of a field that fits into [-1, 1], and the prior's settings beside them."""
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(field.sample_from(streams().randn("truth", SHAPE)) / 4):
        Image.fromarray(to_pixels(image)).save(tmp_path / "pictures" / f"{number:02d}.png")
    (tmp_path / "prior.yaml").write_text(yaml.safe_dump(FIELD))
    return tmp_path


def command_line(folder, *words):
    return [
        f"--prior={folder / 'prior.yaml'}",
        f"--images={folder / 'pictures'}",
        f"--output={folder / 'page'}",
        *words,
    ]


def refused(name, arguments, capsys):
    """What a command says, in one line."""
    with pytest.raises(SystemExit) as stopped:
        run_command(name, arguments)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_the_command_leaves_a_page(folder, capsys):
    run_command("probe", command_line(folder))
    told = capsys.readouterr().out
    assert max(map(len, told.split("Computation")[0].splitlines())) <= 80
    page = folder / "page"
    found = json.loads((page / "probe.json").read_text())
    assert f"prior: {found['verdict']['sentence']}." in told
    assert [round(one["sigma"], 2) for one in found["measured"]["levels"]][::7] == [0.01, 40]
    assert found["verdict"]["sentence"] in (page / "probe.md").read_text()
    with Image.open(page / "probe.png") as picture:
        assert picture.width > 800
    assert (page / "score_sigma.yaml").exists() == (found["verdict"]["score_sigma"] is not None)


def test_bad_input_is_one_line(folder, capsys):
    told = refused("probe", ["--prior=prior/toon_face32", f"--images={folder / 'pictures'}"], capsys)
    assert "prior/toon_face32 does not exist: did you mean prior/toon_faces32" in told
    told = refused("probe", command_line(folder, f"--images={folder / 'nothing'}"), capsys)
    assert f"image folder {folder / 'nothing'} does not exist" in told
    told = refused("probe", ["--prior=prior/toon_faces32", "--size=16", f"--images={folder / 'pictures'}"], capsys)
    assert "--size: has no effect, as the prior is for images of 32x32" in told
    Image.new("RGB", (9, 8)).save(folder / "pictures" / "wide.png")
    told = refused("probe", command_line(folder), capsys)
    assert "wide.png is 8x9, others are 8x8: set --size" in told
    for number in range(50):
        (folder / "pictures" / f"{number:02d}.png").unlink()
    told = refused("probe", command_line(folder, "--size=8"), capsys)
    assert "probe: 15 images are too few to say anything: 16 at least" in told
    assert not (folder / "page").exists()


def test_squares_of_pictures_of_any_shape_are_kept_and_shared_out(tmp_path):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:, 5:25] = 255  # the central square is white
    for number in range(9):
        Image.fromarray(pixels if number else 255 - pixels).save(tmp_path / f"{number}.png")
    train, held_out = (SquareImages(tmp_path, 10, tmp_path / "kept", 4, part) for part in (False, True))
    assert (len(train.all()), len(held_out.all())) == (6, 3)  # 0, 4 and 8
    assert [float(image.mean()) for image in held_out.all()] == [-1, 1, 1]
    assert len(list((tmp_path / "kept").iterdir())) == 1
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0\.png cannot be decoded"):
        SquareImages(tmp_path, 10, tmp_path / "kept", 4).all()


def test_fit_on_a_folder_trains_probes_and_writes_a_card(folder, monkeypatch, capsys):
    monkeypatch.setattr(fit_folder, "seconds_a_step", lambda *settings: 0.85)
    monkeypatch.setattr(command, "measure", functools.partial(measure, sizes=Sizes(16, 4, 2, 4)))
    run, words = folder / "run", ["fit", f"--images={folder / 'pictures'}", "--size=8", f"--output={folder / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["posterior-sampling", *words, "--hours=0.00667"])  # 24 steps
    main()
    card = (run / "card.md").read_text()
    assert "64 pictures of `pictures`" in card
    assert "24 steps of 32 images" in card
    assert json.loads((run / "probe" / "probe.json").read_text())["verdict"]["sentence"] in card
    prior = built_prior(str(run / "prior.yaml"))
    assert prior.size == (8, 8)
    before = {name: (run / name).read_bytes() for name in ("prior.safetensors", "train.yaml", "losses.csv")}
    main()  # nothing is left to train
    assert {name: (run / name).read_bytes() for name in before} == before
    capsys.readouterr()
    told = refused("fit --images", [*words[1:], "--hours=1"], capsys)
    assert f"{run} holds a run with --hours 0.00667, not 1.0: choose another --output" in told


def test_few_pictures_are_not_learnt_by_heart(folder, monkeypatch, capsys):
    """32 of 64 to learn from, a batch: a step sees each once."""
    monkeypatch.setattr(fit_folder, "seconds_a_step", lambda *settings: 0.85)
    for hours, steps in ((0.08, 288), (1.0, fit_folder.MOST_EPOCHS)):  # 3600 in an hour
        settings = fit_folder.chosen_settings(folder / "pictures", hours, 8, folder / "run")
        assert settings["trainer"]["max_steps"] == steps
    told = capsys.readouterr()
    assert (told.out + told.err).count("32 pictures to learn from take 300 of the ") == 1


def test_bad_input_of_fit_is_one_line(folder, monkeypatch, capsys):
    monkeypatch.setattr(fit_folder, "seconds_a_step", lambda *settings: 1.0)
    words = [f"--images={folder / 'pictures'}", f"--output={folder / 'run'}"]
    assert "--size: invalid choice: 31" in refused("fit --images", [*words, "--size=31"], capsys)
    assert "hours must be > 0" in refused("fit --images", [*words, "--hours=-1"], capsys)
    told = refused("fit --images", [*words, "--hours=0.001", "--size=8"], capsys)
    assert "0.001 hours are 3 steps here, too few for any training" in told
    (folder / "pictures" / "00.png").unlink()
    assert "holds 63 pictures, 64 are needed at least" in refused("fit --images", words, capsys)
    assert not (folder / "run" / "train.yaml").exists()


def test_the_pace_of_a_step_is_positive(monkeypatch):
    monkeypatch.setattr(fit_folder, "WARM_UP", 0.0)
    for precision in ("32-true", "bf16-mixed"):
        assert 0 < fit_folder.seconds_a_step(fit_folder.prior_settings(8, 32), 8, 2, precision) < 60
