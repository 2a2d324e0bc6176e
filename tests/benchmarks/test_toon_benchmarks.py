"""The benchmarks of the learned prior, on a handful of faces."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.faces import learned_prior as judging
from benchmarks.faces.cost import cost, unmeasured_std
from benchmarks.faces.learned_prior import learned_prior
from benchmarks.faces.step_size import Outcome, step_size
from benchmarks.matrix.compare import compare
from posterior import UserError
from posterior.metrics.distances import kernel_distance
from posterior.operators import Inpainting
from posterior.priors import DiffusionPrior, UNet

pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")


@pytest.fixture
def prior():
    network = UNet(32, 32, 1, [1], False, [], patch_size=4)
    return DiffusionPrior(network, prediction="v")


@pytest.fixture
def cache(tmp_path, rendered_here):
    return tmp_path / "cache"


@pytest.mark.usefixtures("lpips_weights")
def test_a_prior_is_judged(prior, cache, tmp_path, root, capsys):
    learned_prior(
        prior,
        tmp_path / "out",
        held_out=root / "datamodules" / "toon_faces32.npz",
        training_start=300,
        training_count=260,
        fresh_start=1000,
        num_samples=8,
        sheet_images=2,
        sigmas=(0.1, 3.0),
        cache=cache,
    )
    report = capsys.readouterr().out
    assert report.strip() == (tmp_path / "out" / "report.txt").read_text().strip()
    # a network that predicts zero gives D = x / (1 + sigma^2): at sigma = 0.1 nearly all noise is left
    held_out, trained = re.search(r"^0\.1 +(\S+) \+- \S+ +(\S+)", report, flags=re.MULTILINE).groups()
    assert float(held_out) == pytest.approx(0.1, rel=0.03)
    assert float(trained) == pytest.approx(0.1, rel=0.03)
    assert "real faces (floor)" in report
    for name in ("samples.png", "nearest.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_copies_are_found(tmp_path):
    faces = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lines: list[str] = []
    judging.copying(faces[:10], faces[30:], faces[:20], tmp_path / "nearest.png", lines.append)
    assert "10 samples: rms 0.000" in lines[0]
    assert "rms 0.000" not in lines[1]


@pytest.mark.usefixtures("lpips_weights")
def test_the_step_size_is_swept_and_resumed(prior, cache, tmp_path, root, capsys):
    settings = {
        "num_faces": 3,
        "step_sizes": (1e-5, 1e-3),
        "score_sigmas": (0.01, 0.1),
        "num_levels": 3,
        "dps_steps": 4,
        "num_real": 8,
        "held_out": root / "datamodules" / "toon_faces32.npz",
        "cache": cache,
    }
    step_size(prior, tmp_path / "out", **settings)
    with (tmp_path / "out" / "step_size.csv").open() as file:
        rows = list(csv.DictReader(file))
    # a task: DPS, the start, h = 1e-5 at 0.01 (1e-3 is not stable), and both h at 0.1, each also denoised
    assert len(rows) == 3 * (2 + 1 + 4)
    assert [row["l2_vs_dps"] for row in rows if row["method"] == "DPS"] == ["0.0000 +- 0.0000"] * 3
    assert (tmp_path / "out" / "step_size.png").stat().st_size > 1000
    assert "dps.npy" in capsys.readouterr().err
    step_size(prior, tmp_path / "out", **settings)
    assert ".npy" not in capsys.readouterr().err  # nothing was computed again
    with pytest.raises(UserError, match="holds results of another prior or other settings"):
        step_size(prior, tmp_path / "out", **settings | {"num_levels": 4})


def test_paired_intervals_are_of_the_differences():
    generator = torch.Generator().manual_seed(0)
    base, features = torch.rand(50, generator=generator), torch.randn(50, 6, generator=generator).double()
    real = torch.randn(30, 6, generator=generator).double()
    one, two = Outcome({"l2": base}, features), Outcome({"l2": base + 0.5}, 1.2 * features)
    assert two.paired(one, "l2") == pytest.approx((0.5, 0.0), abs=1e-6)
    gap, half_width = two.paired_kernel(one, real)
    assert gap == pytest.approx(kernel_distance(1.2 * features, real) - kernel_distance(features, real))
    assert 0 < half_width < one.kernel(real)[1] + two.kernel(real)[1]
    assert one.paired_kernel(one, real) == pytest.approx((0.0, 0.0), abs=1e-9)


def test_the_jackknife_interval_is_that_of_repeated_experiments():
    """Its mean half width agrees with the spread of the estimate over independent sets."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 4, generator=generator).double() + 0.3
    outcomes = [Outcome({}, torch.randn(40, 4, generator=generator).double()).kernel(real) for _ in range(300)]
    values, half_widths = torch.tensor(outcomes).T
    assert float(half_widths.mean()) == pytest.approx(1.96 * float(values.std()), rel=0.25)


def test_runs_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, mean in (("a/dps", 1.25), ("b/dps", 2.5)):
        values = {"l2": {"mean": mean, "sem": 0.1, "count": 4}, "psnr": {"mean": None, "sem": None, "count": 0}}
        Path(folder).mkdir(parents=True)
        Path(folder, "metrics.json").write_text(json.dumps({"images": 4, "metrics": {"sample": values, "mean": {}}}))
    compare([Path("a/dps"), Path("b/dps")])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["run", "images", "l2"],
        ["a/dps", "4", "1.25", "+-", "0.1"],
        ["b/dps", "4", "2.5", "+-", "0.1"],
    ]
    with pytest.raises(UserError, match="holds no finished run"):
        compare([tmp_path])
    with pytest.raises(UserError, match="a/dps has no 'best' among sample, mean"):
        compare([Path("a/dps")], kind="best")


@pytest.mark.usefixtures("lpips_weights")
def test_quality_against_cost_is_paired_cached_and_completed(prior, tmp_path, root, capsys):
    table, output = tmp_path / "table" / "cost.csv", tmp_path / "out"
    settings = {
        "num_faces": 4,
        "mean_faces": 2,
        "num_samples": 3,
        "budgets": (10,),
        "dps_steps": 4,
        "num_levels": 5,
        "batch_size": 3,
        "held_out": root / "datamodules" / "toon_faces32.npz",
    }
    rows = cost(prior, output, table, only=["DPS", "kinetic"], **settings)
    assert len(rows) == 3 * 2 * 4
    assert all((row.l2_of_mean is None) == (row.samples == 1) for row in rows)
    kinetic = [row for row in rows if row.method == "kinetic 10"]
    assert {(row.forward, row.backward) for row in kinetic} == {(10.0, 0.0)}
    dps = [row for row in rows if row.method.startswith("DPS")]
    assert {(row.forward, row.backward) for row in dps} == {(4.0, 4.0)}
    first = table.read_text()
    capsys.readouterr()
    cost(prior, output, table, only=["DPS", "kinetic"], **settings)
    assert table.read_text() == first
    assert "chains from" not in capsys.readouterr().err  # nothing was drawn again

    drawn = ["DPS", "kinetic", "first order", "paper", "smoothed"]
    everything = cost(prior, output, table, only=drawn, **settings)
    assert {row.method for row in everything} == {"DPS 4", "kinetic 10", "first order 10", "paper 5", "smoothed 5"}
    few = settings | {"num_faces": 1, "mean_faces": 0}
    ships = [row for row in cost(prior, output, table, only=["conditional"], **few) if row.method == "conditional 122"]
    assert [(row.forward, row.backward, row.samples) for row in ships] == [(122.0, 0.0, 1)] * 3
    paper = next(row for row in everything if row.method == "paper 5")
    assert paper.backward == 4  # of the DPS start
    report = capsys.readouterr().out.split("| task | method |")[1]
    assert report.count("+0.0 +- 0.0") == 6  # DPS beside itself, L2 and the mean's, three tasks
    assert (output / "cost.png").stat().st_size > 1000
    with pytest.raises(UserError, match="no method is called"):
        cost(prior, output, table, only=["none"], **settings)

    with torch.no_grad():
        next(prior.parameters()).add_(0.1)  # another prior: its rows are made again
    changed = cost(prior, output, table, only=["DPS"], **settings)
    old, new = ([row for row in rows if row.method == "DPS 4"] for rows in (everything, changed))
    assert all(a.case != b.case for a, b in zip(old, new, strict=True))
    assert {row.method for row in changed} == {"DPS 4"}  # rows of the other prior are not compared with
    with pytest.raises(UserError, match="no row of DPS 3"):
        cost(prior, output, table, only=["kinetic"], **settings | {"dps_steps": 3})


@pytest.mark.usefixtures("lpips_weights")
def test_faces_are_added_later_to_methods_that_start_from_others(prior, tmp_path, root):
    settings = {
        "budgets": (),
        "dps_steps": 4,
        "num_levels": 5,
        "num_samples": 1,
        "held_out": root / "datamodules" / "toon_faces32.npz",
    }
    cost(prior, tmp_path / "out", tmp_path / "cost.csv", only=["DPS"], num_faces=1, **settings)
    rows = cost(prior, tmp_path / "out", tmp_path / "cost.csv", only=["paper"], num_faces=3, **settings)
    assert sum(row.method == "paper 5" for row in rows) == 9


def test_what_a_measurement_leaves_open():
    """Half the pixels seen: the spread of the others counts, that of the seen ones hardly."""
    x = torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(16) % 2).view(1, 1, 4, 4).float()
    assert unmeasured_std(x, Inpainting(mask, (1, 4, 4)), 0.01) == pytest.approx(0.5**0.5, rel=0.02)
    assert unmeasured_std(x, Inpainting(torch.ones_like(mask), (1, 4, 4)), 0.01) == pytest.approx(1e-4, rel=0.02)
