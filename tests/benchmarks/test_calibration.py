"""Coverage of 90 % intervals, by every sampler."""

from __future__ import annotations

import csv

import pytest
from PIL import Image

from benchmarks.truth.calibration import calibration


def test_exact_samples_are_calibrated_and_the_rest_is_told_apart(tmp_path):
    rows = {(row.problem, row.task, row.sampler): row for row in calibration(tmp_path, smoke=True)}
    assert len(rows) == 4 * 9
    for (_, _, sampler), row in rows.items():
        assert row.nominal == pytest.approx(0.9)
        assert row.low < row.coverage < row.high
        if sampler.startswith("exact"):
            assert row.low - 0.01 < 0.9 < row.high + 0.01
            assert row.rank_p > 1e-3
            assert row.calls == 0
    lost = rows["mixture, d = 32", "projection", "Algorithm 1"]
    assert lost.std_ratio > 1.5  # in the wrong modes: its intervals cover, but are far too wide
    for sampler in ("Algorithm 2", "Algorithm 2, averaged", "kinetic"):
        assert rows["mixture, d = 32", "projection", sampler].std_ratio == pytest.approx(1, abs=0.1)
    with (tmp_path / "calibration.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert Image.open(tmp_path / "calibration.png").size[0] > 500


def test_the_second_to_the_38th_of_39_cover_90_percent(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.truth.calibration.samplers", lambda *settings: {})  # exact samples alone
    rows = calibration(tmp_path, num_pairs=60, num_samples=39, trim=1, calls=20, smoke=True)
    exact = [row for row in rows if row.sampler == "exact y"]
    assert len(exact) == 4
    assert all(row.nominal == pytest.approx(0.9) and row.low - 0.015 < 0.9 < row.high + 0.015 for row in exact)
