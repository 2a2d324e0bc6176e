import csv
import math

import pytest

from benchmarks.science.mri import mri


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    output = tmp_path_factory.mktemp("mri")
    return mri(output, smoke=True), output


def test_every_method_runs_at_every_acceleration(smoke):
    rows, output = smoke
    assert len(rows) == 2 * 2 * 2 * 7
    assert all(math.isfinite(row.nmse) and row.psnr > 5 for row in rows)
    tables = {}
    for name in ("mri", "mri_from_anchor"):
        with (output / f"{name}.csv").open() as file:
            tables[name] = list(csv.DictReader(file))
    assert sum(len(found) for found in tables.values()) == len(rows)
    assert {row["method"] for row in tables["mri_from_anchor"]} == {"Algorithm 2"}
    for name in ("mri.png", "mri_first.png"):
        assert (output / name).stat().st_size > 10_000


def test_exact_samples_and_algorithm_2_cover_as_they_should(smoke):
    rows, _ = smoke
    for row in rows:
        if row.method == "exact":
            assert row.coverage == pytest.approx(0.9, abs=0.04)
            assert row.residual == pytest.approx(1.0, abs=0.1)
        if row.method == "Algorithm 2":
            assert row.coverage == pytest.approx(0.9, abs=0.07)
        if row.method in ("zero-filled", "LASSO"):
            assert row.coverage is None
            assert row.forward == 0


def test_posterior_samples_beat_their_start(smoke):
    rows, output = smoke
    by = {(row.prior, row.acceleration, row.coils, row.method): row.nmse for row in rows}
    for acceleration in (4, 8):
        assert by["mixture", acceleration, 1, "kinetic"] < 0.5 * by["mixture", acceleration, 1, "LASSO"]
    with (output / "sensing.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [float(row["share"]) for row in found] == [0.2, 0.5]
    for row in found:
        assert float(row["difference"]) + float(row["difference_half"]) < 0
        assert float(row["within_twice"]) > 0.7
