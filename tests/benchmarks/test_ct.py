"""The problem of tomography whose posterior is known."""

import pytest
import torch

from benchmarks.judge.problems import chosen


def test_ct_sparse_is_judged_where_it_is_named_and_its_exact_samples_fit():
    assert "ct-sparse" not in {problem.name for problem in chosen([])}
    (problem,) = chosen(["ct-sparse"])
    (case,) = problem.cases(["x"], 0)
    parts = problem.parts(case)
    assert sum(part(case.truth).shape[1] for part in parts.values()) == problem.dimension
    lengths = sum(float(part(case.truth).square().sum()) for part in parts.values())
    assert lengths == pytest.approx(float(case.truth.square().sum()), rel=1e-4)  # orthonormal
    exact = problem.exact(case, 100, 0)
    residual = case.measurement.repeat(100).relative_residual(exact)
    assert float(residual.mean()) == pytest.approx(1, abs=0.1)
    inside = (exact.amin(dim=0) <= case.truth[0]) & (case.truth[0] <= exact.amax(dim=0))
    assert float(inside.double().mean()) > 0.93  # 99 of 101 on average
    assert torch.isfinite(exact).all()
