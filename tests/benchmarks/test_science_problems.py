"""The linear problems of docs/science.md, by their files: exact samples fit, and hold the truth often enough."""

from pathlib import Path

import pytest

from benchmarks.judge.problems import chosen

SCIENCE = Path(__file__).parents[2] / "configs" / "science"


@pytest.mark.parametrize("name", ["scattering-field", "black-hole-field"])
def test_exact_samples_fit_and_hold_the_truth(name):
    (problem,) = chosen([str(SCIENCE / f"{name}.yaml")])
    (case,) = problem.cases(["x"], 0)
    exact = problem.exact(case, 9, 0)
    residual = case.measurement.repeat(9).relative_residual(exact)
    assert float(residual.mean()) == pytest.approx(1, abs=0.1)
    inside = (exact.amin(dim=0) <= case.truth[0]) & (case.truth[0] <= exact.amax(dim=0))
    assert float(inside.double().mean()) > 0.65  # 8 of 10 on average
