"""The laboratory itself: do its exact posteriors, its targets and its verdicts hold?"""

from __future__ import annotations

import csv
from functools import partial

import pytest
import torch
from PIL import Image

from benchmarks.faces.fit_mixture import fit_mixture
from benchmarks.judge.problems import FieldTruth, MixtureTruth, Problem, RandomProjection
from benchmarks.truth.exact_posterior import FILES, Counts, Task, exact_posterior, given_anchor, run_task
from benchmarks.truth.problems import WithAnchor, projection, random_mixture
from datamodules.training import FolderImages
from posterior import Measurement, UserError
from posterior.noise import GaussianNoise
from posterior.operators import RandomInpainting, matrix_of
from posterior.priors import GaussianMixturePrior


def read(folder):
    """Rows of both tables."""
    found = {}
    for table, name in FILES.items():
        with (folder / name).open() as file:
            found[table] = list(csv.DictReader(file))
    return found


def test_the_smoke_run_judges_every_sampler_on_every_problem(tmp_path):
    rows = exact_posterior(tmp_path, smoke=True)
    tasks = {(row.problem, row.task) for row in rows}
    assert len(tasks) == 10
    assert len(rows) == 9 * len(tasks)
    exact = [row for row in rows if row.sampler.startswith("exact")]
    assert all(row.ratio < 3.5 and row.forward == row.backward == 0 for row in exact)
    assert sum(row.mmd_rejected for row in exact) <= 4  # of 20, at the level 0.05
    dps = [row for row in rows if row.sampler.startswith("DPS")]
    assert all(row.forward == row.backward == int(row.sampler.split()[1]) for row in dps)
    toon = {row.sampler: row for row in rows if row.problem.startswith("toon") and row.task == "4x SR"}
    assert toon["Algorithm 2 20"].ratio < toon["Algorithm 1 20"].ratio
    tables = read(tmp_path)
    assert sum(len(found) for found in tables.values()) == len(rows)
    assert {row["target"] for row in tables["from_y"]} == {"p(x|y)"}
    assert {row["target"] for row in tables["from_anchor"]} == {"p(x|x0,y)"}
    assert Image.open(tmp_path / "exact_posterior.png").size[0] > 1000


def test_rows_of_other_problems_stay_in_the_table(tmp_path):
    first = exact_posterior(tmp_path, only=["ring"], smoke=True)
    exact_posterior(tmp_path, only=["hard"], smoke=True)
    again = exact_posterior(tmp_path, only=["ring"], smoke=True)
    assert [row.ratio for row in first] == [row.ratio for row in again]
    rows = [row for found in read(tmp_path).values() for row in found]
    assert sorted({row["problem"] for row in rows}) == ["hard instance", "ring"]
    assert len(rows) == 2 * len(first)
    with pytest.raises(UserError, match="rows of another seed or size"):
        exact_posterior(tmp_path, only=["ring"], smoke=True, seed=1)
    (tmp_path / "exact_posterior.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="a table of another kind"):
        exact_posterior(tmp_path, only=["ring"], smoke=True)


def test_no_problem_of_that_name(tmp_path):
    with pytest.raises(UserError, match="no problem is called"):
        exact_posterior(tmp_path, only=["none"])


def test_algorithm_2_reaches_the_floor_on_a_mixture_and_nothing_else_does():
    """Theorem 1.2: with an anchor the target is reached. Cold, Algorithm 1 sits in the modes where it started."""
    prior, sizes = random_mixture(6, torch.Generator().manual_seed(0)), Counts(300, (600,), 3, 10)
    problem = Problem("test", "", prior, RandomProjection(8), GaussianNoise(0.1), (2, 4, 4))
    task = Task("test", "projection", "", 0.3, sizes, sizes, partial(projection, 8, (2, 4, 4)))
    rows = {row.sampler: row for row in run_task(problem, task, sizes, (0.2, 0.5), 0)}
    averaged = rows["Algorithm 2, averaged 600"]
    assert averaged.ratio < 1.1
    assert averaged.std_measured == pytest.approx(1, abs=0.05)
    best = rows["Algorithm 2 600"]
    assert best.ratio < 1.15
    assert best.mode_error < 0.02
    assert best.std_unmeasured == pytest.approx(1, abs=0.05)
    assert rows["exact y"].ratio == pytest.approx(1, abs=0.15)
    assert rows["DPS 600"].ratio > 1.3
    assert rows["Algorithm 1 600"].mode_error > 0.5
    assert rows["Algorithm 1 600"].mmd_rejected == 1
    assert rows["DPS 600"].dps_scale == pytest.approx(0.2) or rows["DPS 600"].dps_scale == pytest.approx(0.5)


def test_the_fields_posterior_with_an_anchor_is_that_of_linear_algebra(field):
    shape = (3, 6, 6)
    law, sigma_y, anchor_sigma = FieldTruth(field, shape), 0.05, 0.3
    generator = torch.Generator().manual_seed(0)
    operator = RandomInpainting().realise(shape, [generator])
    truth = law.sample(1, generator)
    y = torch.randn(1, *shape, generator=generator)
    measurement = Measurement.simulate(truth, operator, GaussianNoise(sigma_y), y)
    anchor = truth + anchor_sigma * torch.randn(truth.shape, generator=generator)
    law, both = given_anchor(law, measurement, anchor, anchor_sigma)
    samples = law.posterior(both, 4000, generator)
    identity = torch.eye(truth.numel()).view(-1, *shape)
    inverse = field.filter(identity, 1 / field.spectrum(shape)).flatten(1).double()
    matrix = matrix_of(operator)
    precision = inverse + matrix.mT @ matrix / sigma_y**2
    precision = precision + torch.eye(len(inverse)) / anchor_sigma**2
    mean = field.mean[:, None, None].expand(shape).flatten().double()
    pulled = inverse @ mean + matrix.mT @ measurement.y.flatten().double() / sigma_y**2
    expected = torch.linalg.solve(precision, pulled + anchor.flatten().double() / anchor_sigma**2)
    covariance = torch.linalg.inv(precision)
    gap = (samples.flatten(1).mean(dim=0) - expected) / (covariance.diagonal() / len(samples)) ** 0.5
    assert gap.abs().max() < 4.5
    spread = samples.flatten(1).double().var(dim=0) / covariance.diagonal()
    assert spread.sub(1).abs().max() < 5 * (2 / len(samples)) ** 0.5


def test_an_operator_with_an_anchor_has_its_adjoint():
    shape, generator = (3, 6, 6), torch.Generator().manual_seed(0)
    both = WithAnchor(RandomInpainting().realise(shape, [generator]), 0.05, 0.3)
    x, v = (torch.randn(1, *s, generator=generator) for s in (shape, both.measurement_shape))
    torch.testing.assert_close((both.forward(x) * v).sum(), (x * both.adjoint(v)).sum())
    matrix = matrix_of(both)
    torch.testing.assert_close((matrix @ x.flatten().double()).float(), both.forward(x).flatten())
    assert both.norm_bound() == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-6)


def test_a_mixture_is_fitted_to_a_folder(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        colour = 40 + 150 * (number % 2)
        noise = 10 * torch.randn(8, 8, 3, generator=generator)
        Image.fromarray((colour + noise).clamp(0, 255).to(torch.uint8).numpy()).save(tmp_path / f"{number:02d}.png")
    output = tmp_path / "mixture.safetensors"
    known, unknown = fit_mixture(FolderImages(tmp_path, count=20), FolderImages(tmp_path, start=20), output, 2, 2, 5)
    assert known > unknown > 0  # more than a density of 1 on [-1, 1] has
    assert "held-out images" in capsys.readouterr().out
    assert GaussianMixturePrior.from_file(output).weights.sort().values.tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    with pytest.raises(UserError, match="held-out ones of"):
        fit_mixture(FolderImages(tmp_path, count=20), FolderImages(tmp_path, size=4, start=20), output, 2, 2, 5)
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match="images of one size"):
        FolderImages(tmp_path).all()


def test_targets_are_not_mixed_up():
    """A sampler of p(x | x0, y) held against p(x | y) must be told apart."""
    prior = random_mixture(2, torch.Generator().manual_seed(0))
    law, generator = MixtureTruth(prior), torch.Generator().manual_seed(1)
    truth = law.sample(1, generator)
    noise = torch.randn(1, 4, 1, 1, generator=generator)
    measurement = Measurement.simulate(truth, projection(4, (2, 4, 4), generator), GaussianNoise(0.1), noise)
    free = law.posterior(measurement, 200, generator)
    law, seen = given_anchor(law, measurement, truth, 0.05)
    held = law.posterior(seen, 200, generator)
    assert held.var(dim=0).mean() < 0.2 * free.var(dim=0).mean()
