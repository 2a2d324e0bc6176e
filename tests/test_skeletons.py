"""The skeletons of CONTRIBUTING.md: each keeps the protocol of its kind, and all five work in one run."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import interpolate

from lightning_cli import main
from posterior import Measurement, Streams, UserError, stream
from posterior.noise import GaussianNoise, PoissonNoise
from posterior.operators import (
    CartesianMRI,
    LinearOperator,
    MotionBlur,
    PhaseRetrieval,
    RandomInpainting,
    SuperResolution,
)
from posterior.priors import DiffusionPrior, GaussianFieldPrior, GaussianMixturePrior, RingPrior
from tests.protocol import (
    OPERATOR_CHECKS,
    PRIOR_CHECKS,
    SAMPLER_CHECKS,
    Entry,
    PriorEntry,
    curvature_is_bounded_as_stated,
    denoiser_is_the_conditional_mean,
    levels_and_images_are_refused_in_one_line,
    operator_is_linear_with_its_adjoint,
    operator_rows_are_its_images,
    score_and_denoiser_obey_tweedie,
    stays_on_the_device,
)

ROOT = Path(__file__).parents[1]
SKELETONS = ROOT / "docs" / "skeletons"
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def _beside_the_skeletons(monkeypatch):
    monkeypatch.syspath_prepend(SKELETONS)


def skeleton(kind: str) -> ModuleType:
    return importlib.import_module(f"my_{kind}")


def streams(count: int = 2) -> list[torch.Generator]:
    return [stream(0, f"image {n}", -1, "operator") for n in range(count)]


def sampler_entry(**settings: object) -> Entry:
    sampler = skeleton("sampler").MySampler(num_steps=5, **settings)
    bad = {"step_fraction": 1.0, "num_steps": 0, "score_sigma": -0.1}
    return Entry(sampler, skeleton("prior").MyPrior, 5, family=skeleton("operator").MyOperator(), bad=bad)


@pytest.mark.parametrize("check", SAMPLER_CHECKS, ids=lambda check: check.__name__)
def test_the_sampler_keeps_the_protocol(check):
    check(sampler_entry())


def test_the_sampler_stays_on_the_device(monkeypatch):
    stays_on_the_device(sampler_entry(), monkeypatch)


def test_the_sampler_draws_from_the_posterior_of_the_prior_and_the_operator():
    """Independent pixels: a seen one is N((mean / v + y / s^2) / (1 / v + 1 / s^2), ...), a masked one as the prior."""
    rows, sigma_y = 500, 0.3
    prior = skeleton("prior").MyPrior(mean=[0.1, 0.0, -0.2], std=[0.4, 0.5, 0.6])
    operator = skeleton("operator").MyOperator(0.5).realise(SHAPE, streams(1))
    truth = prior.sample_from(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)))
    noise = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    measurement = Measurement.simulate(truth, operator, GaussianNoise(sigma_y), noise)
    sampler = skeleton("sampler").MySampler(num_steps=400, step_fraction=0.1)
    x = sampler(prior, measurement.repeat(rows), Streams(0, ["a"], rows))
    precision = 1 / prior.variance + operator.mask.flip(-1) / sigma_y**2
    mean = (prior.mean / prior.variance + operator.adjoint(measurement.y) / sigma_y**2) / precision
    gap = (x.mean(dim=0, keepdim=True) - mean) * (rows * precision) ** 0.5
    assert gap.abs().max() < 5
    ratio = (x.var(dim=0, keepdim=True) * precision).mean()  # 192 pixels of 500 rows: 0.5 % of error; bias up to 11 %
    assert 0.98 < float(ratio) < 1.12


def test_the_sampler_refuses_what_it_cannot_do():
    prior, operator = skeleton("prior").MyPrior(), RandomInpainting().realise(SHAPE, streams(1))
    y, rng = torch.zeros(1, *SHAPE), Streams(0, ["a"])
    amplitudes = PhaseRetrieval().realise(SHAPE)
    cases = {
        "needs a linear operator": Measurement(
            torch.ones(1, *amplitudes.measurement_shape), amplitudes, GaussianNoise()
        ),
        "needs Gaussian noise": Measurement(y, operator, PoissonNoise()),
    }
    for told, measurement in cases.items():
        with pytest.raises(UserError, match=f"MySampler {told}"):
            skeleton("sampler").MySampler()(prior, measurement, rng)
    network = DiffusionPrior(torch.nn.Identity())
    network.sigma_min = 0.0
    with pytest.raises(UserError, match="DiffusionPrior has no bounded curvature, give score_sigma > 0"):
        skeleton("sampler").MySampler()(network, Measurement(y, operator, GaussianNoise()), rng)
    assert (prior.cost.forward, network.cost.forward) == (0, 0)


OPERATORS: dict[str, Callable[[], LinearOperator]] = {
    "the skeleton": lambda: skeleton("operator").MyOperator(0.4).realise((2, 6, 9), streams()),
    "inpainting": lambda: RandomInpainting().realise(SHAPE, streams()),
    "resizing": lambda: SuperResolution(2).realise(SHAPE),
    "motion blur": lambda: MotionBlur(5).realise((1, 9, 8), streams()),
    "MRI": lambda: CartesianMRI(2, 0.2, num_coils=2).realise((2, 8, 10), streams()),
}


@pytest.mark.parametrize("check", OPERATOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_keeps_the_protocol(name, check):
    check(OPERATORS[name]())


def test_the_operators_masks_are_drawn_image_by_image():
    family = skeleton("operator").MyOperator(0.3)
    masks = family.realise((3, 16, 16), streams(100)).mask
    assert abs(float(masks.mean()) - 0.7) < 5 * (0.21 / masks.numel()) ** 0.5
    assert torch.equal(family.realise((3, 16, 16), streams(3)).mask, masks[:3])
    assert not torch.equal(masks[0], masks[1])
    with pytest.raises(UserError, match="MyOperator: share must be >= 0 and < 1"):
        skeleton("operator").MyOperator(1.0)


def wrong_adjoint(operator: LinearOperator) -> LinearOperator:
    operator.adjoint = lambda v: operator.mask * v  # it forgets to mirror
    operator.to = lambda dtype: operator
    return operator


def test_the_operators_checks_find_a_wrong_adjoint_and_a_mask_of_another_image():
    with pytest.raises(AssertionError, match="not the transpose"):
        operator_is_linear_with_its_adjoint(wrong_adjoint(OPERATORS["the skeleton"]()))
    operator = OPERATORS["the skeleton"]()
    operator.per_image = ()  # `rows` then keeps both masks
    with pytest.raises(AssertionError):
        operator_rows_are_its_images(operator)


def prior_entry(name: str) -> PriorEntry:
    generator = torch.Generator().manual_seed(0)
    if name == "the skeleton":
        prior = skeleton("prior").MyPrior(mean=[0.5, -0.5], std=[0.1, 0.6])
        return PriorEntry(prior, prior.sample_from(torch.randn(4000, 2, 3, 4, generator=generator)))
    if name == "field":
        field = GaussianFieldPrior([0.3], [[1.0]], [2e-2], [2.0], [0.1], floor=0.2)
        return PriorEntry(field, field.sample_from(torch.randn(2000, 1, 8, 8, generator=generator)))
    if name == "mixture":
        means = torch.randn(2, 1, 2, 2, generator=generator)
        prior = GaussianMixturePrior.full(torch.tensor([0.3, 0.7]), means, torch.eye(4).repeat(2, 1, 1) * 0.05)
        return PriorEntry(prior, prior.sample(4000, generator))
    return PriorEntry(RingPrior(0.2), RingPrior(0.2).sample(4000, generator))


@pytest.mark.parametrize("check", PRIOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ["the skeleton", "field", "mixture", "ring"])
def test_a_prior_keeps_the_protocol(name, check):
    check(prior_entry(name))


def test_the_priors_checks_find_a_wrong_variance_score_bound_and_range():
    entry = prior_entry("the skeleton")
    entry.prior.variance.mul_(1.3)
    with pytest.raises(AssertionError, match="correlated"):
        denoiser_is_the_conditional_mean(entry)
    entry.prior.least_variance = 1.0
    with pytest.raises(AssertionError, match="sigma"):
        curvature_is_bounded_as_stated(entry)
    entry.prior.score = lambda x, sigma: -x
    with pytest.raises(AssertionError):
        score_and_denoiser_obey_tweedie(entry)
    entry.prior.check_range = lambda sigma: None
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        levels_and_images_are_refused_in_one_line(entry)


def test_the_metric_is_the_ratio():
    metric, truth = skeleton("metric").MyMetric(), torch.zeros(3, 1, 4, 4)
    truth[..., 1::2] = 0.5  # stripes: of 24 differences 12 are 0.5
    x = torch.stack([truth[0], 2 * truth[0], torch.full_like(truth[0], 7.0)])
    torch.testing.assert_close(metric(x, truth, None), torch.tensor([1.0, 2.0, 0.0]))
    constant = metric(x, torch.zeros_like(truth), None)
    assert torch.isfinite(constant).all()
    assert float(constant[0]) == pytest.approx(0.25 * 255)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """An experiment of all five skeletons on three pictures."""
    monkeypatch.chdir(tmp_path)
    rough = interpolate(torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)), size=16, mode="bicubic")
    pixels = (255 * rough.clamp(0, 1)).permute(0, 2, 3, 1).numpy().astype(np.uint8)
    np.save("pictures.npy", pixels)
    settings = {
        "model": {
            "prior": {"class_path": "my_prior.MyPrior"},
            "sampler": {"class_path": "my_sampler.MySampler", "init_args": {"num_steps": 20}},
            "metrics": [{"class_path": "my_metric.MyMetric"}, {"class_path": "posterior.metrics.Residual"}],
            "num_samples": 2,
        },
        "data": {
            "class_path": "my_data.MyData",
            "init_args": {
                "path": "pictures.npy",
                "operator": {"class_path": "my_operator.MyOperator", "init_args": {"share": 0.3}},
                "likelihood": {"class_path": "posterior.noise.GaussianNoise"},
            },
        },
        "output": {"dir": "results/mine"},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_run_of_all_five(config, capsys):
    command = ["predict", "--config", str(config)]
    assert "not installed: anybody's code" in refused(capsys, *command)
    main([*command, "--allow-local"])
    output = config.parent / "results" / "mine"
    with (output / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {"000000", "000001", "000002"}
    ratio = {kind: [float(row["tv_ratio"]) for row in rows if row["sample"] == kind] for kind in ("0", "mean")}
    assert min(ratio["0"]) > max(ratio["mean"]) > 1  # independent pixels are rougher than pictures, and means smoother
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["images"] == 3
    assert metrics["metrics"]["sample"]["nfe_forward"]["mean"] == 20
    assert (output / "grid.png").stat().st_size > 1000
    known = json.loads((output / "record.json").read_text())["code"]  # the run is refused once one of them is edited
    assert {"my_data", "my_metric", "my_operator", "my_prior", "my_sampler"} <= set(known)
    np.save("pictures.npy", np.zeros((3, 16, 16, 3)))
    assert "must hold (N, H, W, C) uint8, C = 1 or 3, it holds float64[3, 16, 16, 3]" in refused(
        capsys, *command, "--allow-local"
    )


def test_settings_of_the_skeletons_are_refused_in_one_line(config, capsys):
    for option, told in (
        ("--model.sampler.step_fraction=2", "MySampler: step_fraction must be > 0 and < 1"),
        ("--model.prior.std=[0.5]", "MyPrior: mean has 3 entries, std has 1"),
        ("--data.operator.share=1", "MyOperator: share must be >= 0 and < 1"),
        ("--data.path=nothing.npy", "nothing.npy does not exist"),
    ):
        assert told in refused(capsys, "predict", "--config", str(config), "--allow-local", option)


TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    posterior-sampling (predict (?:.*\\\n)*.*)", TEXT, re.M)


@pytest.mark.usefixtures("no_lpips_weights")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[-1])
def test_a_command_of_contributing_runs(command, config, monkeypatch):
    arguments = shlex.split(command.replace("\\\n", " "))
    arguments[arguments.index("--output.dir") + 1] = str(config.parent / "run")
    arguments = [str(config.parent / word) if word == "pictures.npy" else word for word in arguments]
    few = "num_steps" if "my_sampler.MySampler" in arguments else "schedule.respacing"
    monkeypatch.chdir(ROOT)
    main([*arguments, f"--model.sampler.{few}", "3", "--data.limit", "1", "--trainer.accelerator", "cpu"])
    assert json.loads((config.parent / "run" / "metrics.json").read_text())["images"] == 1


def test_contributing_names_what_is_there():
    assert len(COMMANDS) == len(list(SKELETONS.glob("*.py"))) == 5
    for name in set(re.findall(r"\]\(([\w./]+?)(?:#[\w-]+)?\)", TEXT)):
        assert (ROOT / name).exists(), name
    assert {path.name for path in SKELETONS.glob("*.py")} == set(re.findall(r"\(docs/skeletons/(\w+\.py)\)", TEXT))
    for name in set(re.findall(r"`((?:tests|posterior|datamodules|benchmarks|configs|docs)/[\w./]+)`", TEXT)):
        assert (ROOT / name).exists(), name
