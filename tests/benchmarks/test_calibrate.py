"""The certificate for any prior: what it says under a prior whose posterior is known, and under a network."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from benchmarks.judge.calibrate import LIMITS, Asked, calibrate, calibrate_command, problem_of, shape_of
from benchmarks.judge.problems import LearnedTruth
from posterior import Streams, UserError
from posterior.priors import DiffusionPrior, UNet
from posterior.samplers import RespacedSigmas
from posterior.settings import read_settings
from posterior.shipped import shipped

PRIOR = "class_path: benchmarks.judge.problems.two_modes\ninit_args: {distance: 1.2, width: 0.2, numbers: 20}\n"
TASK = """\
image_shape: [1, 1, 20]
operator: {class_path: benchmarks.judge.problems.Coordinates, init_args: {entries: ENTRIES}}
likelihood: {class_path: posterior.noise.GaussianNoise, init_args: {sigma_y: 0.1}}
"""
TASK = TASK.replace("ENTRIES", str(list(range(10, 20))))
PLANTED = "class_path: benchmarks.judge.planted.Planted\ninit_args: {%s}\n"


@pytest.fixture
def files(tmp_path):
    """Prior, task and sampler as files; a sampler by what is planted."""
    (tmp_path / "prior.yaml").write_text(PRIOR)
    (tmp_path / "task.yaml").write_text(TASK)

    def asked(planted: str = "width: 1.0", **more) -> Asked:
        sampler = tmp_path / f"{planted.replace(': ', '-')}.yaml"
        sampler.write_text(PLANTED % planted)
        return Asked(str(tmp_path / "prior.yaml"), str(tmp_path / "task.yaml"), str(sampler), **more)

    return asked


@pytest.mark.parametrize("seed", range(3))
def test_an_exact_sampler_is_calibrated_and_planted_errors_are_not(files, tmp_path, seed):
    """As the judge says of the same samplers on the same problem (tests/benchmarks/test_judge.py)."""
    found = {
        planted: calibrate(files(planted, pairs=256, samples=19, seed=seed), tmp_path / str(number))
        for number, planted in enumerate(
            ("width: 1.0", "width: 0.9", "noise_ratio: 1.3", "width: 0.0", "ignores_y: true", "shared_by_images: true")
        )
    }
    exact = found.pop("width: 1.0")
    assert not exact.refuted, exact.verdict()
    assert exact.verdict().startswith("No difference found; this budget would have found a coverage off by")
    for planted, judged in found.items():
        assert judged.refuted, planted
    assert "90% intervals hold the truth 0.8" in found["width: 0.9"].verdict()
    assert "The same sample every time" in found["width: 0.0"].verdict()


def test_what_is_kept_is_checked_without_sampling(files, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    asked = files("width: 0.8", pairs=40, samples=9)
    arguments = ["--prior", asked.prior, "--task", asked.task, "--sampler", asked.sampler, "--output", str(folder)]
    calibrate_command(["run", *arguments, "--pairs", "40", "--samples", "9"])
    told = capsys.readouterr().out
    monkeypatch.setattr("benchmarks.judge.running.draw", None)
    monkeypatch.setattr("benchmarks.judge.running.code_of", lambda sampler: "another version")
    calibrate_command(["check", str(folder)])
    assert capsys.readouterr().out == told
    report = json.loads((folder / "calibrate.json").read_text())
    (problem,) = report["samplers"][0]["problems"]
    assert {one["kind"] for one in problem["findings"]} == {"rank", "coverage", "spread", "pixels", "score"}
    of_spread = {"sparsification", "sparsification_exact", "sparsification_least"}
    assert set(report["curves"]) == {"pixels", "coverage", "spread_skill"} | of_spread
    assert len(problem["ranks"]["brightness"]) == 40
    assert LIMITS in (folder / "calibrate.md").read_text()
    assert (folder / "calibrate.html").read_text().count("<img") == 1
    with pytest.raises(UserError, match="holds no calibration"):
        calibrate_command(["check", str(tmp_path)])


def first_number(x):
    """A functional: a number of each image."""
    return x[:, 0, 0, 0]


def right(x):
    """Another, yes or no: is the image of the mode at the right?"""
    return x[:, 0, 0, 0] > 0


def not_a_number(x):
    return x[:, 0, 0, 0] / 0


def of_all(x):
    return x.mean()


@pytest.fixture
def functionals(tmp_path, monkeypatch):
    """Paths of the functions of this file, as those of a module of the user's."""
    source = "\n\n".join(inspect.getsource(one) for one in (first_number, right, not_a_number, of_all))
    (tmp_path / "my_functions.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return "my_functions."


def test_functionals_of_ones_own_are_ranked(files, tmp_path, functionals, capsys):
    """Also along samples that are there already."""
    folder = tmp_path / "out"
    asked = files("share: 1.0", pairs=64, samples=9, functionals=[functionals + "first_number"])
    judged = calibrate(asked, folder)
    assert next(one.p for one in judged.findings if one.test == "rank of first_number") < 1e-6
    calibrate_command(["check", str(folder), "--functional", functionals + "right"])
    (problem,) = json.loads((folder / "calibrate.json").read_text())["samplers"][0]["problems"]
    p_values = {one["test"]: one["p"] for one in problem["findings"]}
    assert p_values["rank of first_number"] < 1e-6
    assert p_values["rank of right"] < 1e-3
    for name, told in (
        ("nothing", "has no nothing"),
        ("not_a_number", "not_a_number gave a value that is not finite"),
        ("of_all", r"of_all gave \(\) torch.float32 for 256 images, expected a number for each, \(256,\)"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            calibrate_command(["check", str(folder), "--functional", functionals + name])
        assert "\n" not in str(caught.value)


def test_a_functional_of_an_exact_sampler_is_calibrated(files, tmp_path, functionals):
    asked = files(pairs=128, samples=9, functionals=[functionals + "first_number", functionals + "right"])
    assert not calibrate(asked, tmp_path / "out").refuted


def tiny_prior() -> DiffusionPrior:
    torch.manual_seed(0)
    network = UNet(32, num_channels=32, channel_mult=(1, 1), attention_resolutions=())
    return DiffusionPrior(network)


def test_truths_of_a_network_depend_on_their_name_alone_and_have_a_stated_end():
    prior, shape = tiny_prior(), (3, 32, 32)
    truth = LearnedTruth(prior, shape, num_steps=6, together=2)
    three = truth.draw(["a", "b", "c"], 0)
    torch.testing.assert_close(truth.draw(["c"], 0), three[2:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(truth.draw(["c"], 0, "reference"), three[2:])
    assert prior.cost.forward == 5 * (3 + 1 + 1)  # the last of six levels is that of the image
    ended = LearnedTruth(prior, shape, denoised=True, num_steps=6).draw(["a"], 0)
    last = RespacedSigmas(6).sigmas()[-2]
    assert last == pytest.approx(prior.sigma_min)
    torch.testing.assert_close(prior.denoise(three[:1], prior.sigma_min), ended, rtol=1e-3, atol=1e-3)
    assert Streams(0, ["a/truth"], samples=[-1]).rows == [("a/truth", -1)]


def test_a_network_needs_no_closed_form(tmp_path, monkeypatch):
    settings = {
        "prior": {
            "class_path": "posterior.priors.DiffusionPrior",
            "init_args": {
                "network": {
                    "class_path": "posterior.priors.UNet",
                    "init_args": {
                        "image_size": 32,
                        "num_channels": 32,
                        "channel_mult": [1],
                        "attention_resolutions": [],
                        "num_res_blocks": 1,
                    },
                }
            },
        },
        "operator": {"class_path": "posterior.operators.RandomInpainting"},
        "likelihood": {"class_path": "posterior.noise.GaussianNoise", "init_args": {"sigma_y": 0.05}},
    }
    problem = problem_of(settings, denoised=False)
    assert problem.image_shape == (3, 32, 32)
    assert not problem.truth.exact
    with pytest.raises(UserError, match="sampler is no part of a task"):
        problem_of(settings | {"sampler": {}}, denoised=False)
    low = {"class_path": "benchmarks.judge.problems.two_modes", "init_args": {}}
    monkeypatch.setattr("posterior.priors.GaussianMixturePrior.sigma_max", 2.0, raising=False)
    with pytest.raises(UserError, match="gives no truths: its levels end at sigma 2, where images are still seen"):
        problem_of(settings | {"prior": low, "image_shape": [1, 1, 8]}, denoised=True)
    del settings["likelihood"]
    with pytest.raises(UserError, match="likelihood is missing"):
        problem_of(settings, denoised=False)


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("task/")])
def test_shipped_tasks_are_read(name):
    task, prior = read_settings(shipped()[name]), "phantoms32" if "mri" in name else "mixture_toon32"
    if "photos" in name:
        prior = "gaussian_photos128"
    problem = problem_of({**task, "prior": read_settings(shipped()[f"prior/{prior}"])}, denoised=False)
    assert problem.truth.exact == (prior != "phantoms32")
    (case,) = problem.cases(["x"], 0)
    assert case.measurement.y.shape[0] == 1


def test_bad_inputs_are_one_line(files, tmp_path):
    for asked, told in (
        (files(pairs=4), "nothing can be concluded from 4 pairs with 19 samples each: at least 16 pairs and 4 samples"),
        (files(samples=2), "nothing can be concluded from 256 pairs with 2 samples"),
        (files(planted="width: [1]"), "width"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            calibrate(asked, tmp_path / "out")
        assert "\n" not in str(caught.value)
    for shape in (3, [3, 32], [3, "a", 32], [3, 0, 32], [3.0, 32, 32]):
        with pytest.raises(UserError, match="calibrate: image_shape"):
            shape_of(shape)
    with pytest.raises(UserError, match="--device: nowhere cannot be used here"):
        calibrate(files(), tmp_path / "out", device="nowhere")
    with pytest.raises(UserError, match="the file of settings nowhere.yaml does not exist".replace(".", r"\.")):
        calibrate(Asked("nowhere.yaml", files().task, "DPS"), tmp_path / "out")
