"""The judge: what it says of samplers that are right, wrong, or break the rules; what it keeps."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.stats
import torch

from benchmarks.__main__ import run as command
from benchmarks.judge import FromFunction, judge, read_problem, running
from benchmarks.judge.command import Progress, contestant_of, judge_command, of_settings
from benchmarks.judge.planted import DISTANCE, NUMBERS, PLANTED, WIDTH, Planted, cheap_problem, judged_planted
from benchmarks.judge.problems import chosen, shipped
from benchmarks.judge.running import Budget, ExactSets, Sizes, draw, planned, run
from benchmarks.judge.statistics import (
    Null,
    Pooled,
    band,
    coverage_test,
    holm,
    inside,
    median_interval,
    rank_tests,
    spread_test,
    uniformity,
)
from benchmarks.judge.verdict import LEVEL, Judged, interval_tests
from posterior import UserError
from posterior.samplers import DPS, ExactMixture, RespacedSigmas, Sampler

TINY = Budget("tiny", Sizes(3, 30, 20, 9), Sizes(2, 6, 10, 4, sets=2, rows=20))
SMALL = Budget("small", Sizes(8, 100, 100, 9), Sizes(2, 6, 10, 4))


@pytest.fixture(scope="module")
def problem():
    return cheap_problem()


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_an_exact_sampler_passes_and_planted_errors_are_refuted(first):
    """A tenth of `judge-the-judge`: 20 of 200 seeds; docs/campaign.md has the counts."""
    rows = [row for seed in range(first, first + 5) for row in judged_planted(seed, with_stated=False)]
    refuted = {name: sum(row.refuted for row in rows if row.planted == name) for name in PLANTED}
    assert refuted.pop("exact") <= 1  # at the level of 1 %
    assert refuted == dict.fromkeys(refuted, 5)
    verdicts = {row.planted: row.verdict for row in rows}
    assert verdicts["exact"].startswith("No difference found; this budget would have found a width error of")
    assert re.match("Too narrow: 0.(89|90|91) ", verdicts["width x 0.9"])
    assert "the same sample every time" in verdicts["the posterior mean"].lower()
    assert "modes in wrong shares" in verdicts["shares 0.6 / 0.4 for 0.5 / 0.5"].lower()
    assert "shifted by" in verdicts["a shift of 0.2 std in one tenth of the directions"].lower()


def test_the_cheap_problem_is_the_shipped_one_and_planted_without_errors_is_exact(problem):
    files = shipped()
    other = read_problem(files["two-modes"])
    (case,), (same,) = problem.cases(["two-modes/compared/0"], 3), other.cases(["two-modes/compared/0"], 3)
    assert torch.equal(case.measurement.y, same.measurement.y)
    cell = draw("planted", Planted(), problem, [case], 20000, 0)
    ours = torch.from_numpy(cell.samples[:, 0]).double()
    exact = problem.exact(case, 20000, 0).double()
    for one, two in ((ours, exact), (ours.square(), exact.square())):
        spread = (one.var(dim=0) / len(one) + two.var(dim=0) / len(two)).sqrt()
        assert ((one.mean(dim=0) - two.mean(dim=0)) / spread).abs().max() < 4.5  # 20 numbers, twice
    assert (ours[..., 0] > 0).double().mean() == pytest.approx(0.5, abs=0.02)
    assert (20, pytest.approx(6)) == (NUMBERS, DISTANCE / WIDTH)


def test_every_shipped_problem_reads_and_its_exact_sampler_is_its_posterior():
    for problem in chosen([]):
        assert problem.tells
        (case,) = problem.cases(["x"], 0)
        assert torch.equal(problem.truth.draw(["y", "x"], 0)[1:], case.truth)
        parts = problem.parts(case)
        assert sum(part(case.truth).shape[1] for part in parts.values()) == problem.dimension
        lengths = sum(float(part(case.truth).square().sum()) for part in parts.values())
        assert lengths == pytest.approx(float(case.truth.square().sum()), rel=1e-4)  # orthonormal


@pytest.mark.parametrize("name", ["ring", "hard-instance"])
def test_exact_samples_fit_their_measurement(name):
    (problem,) = chosen([name])
    (case,) = problem.cases(["x"], 0)
    exact = problem.exact(case, 400, 0)
    residual = case.measurement.repeat(400).relative_residual(exact)
    assert 0.5 < float(residual.mean()) < 1.6
    log_prior = problem.truth.log_prior(exact)
    assert torch.isfinite(log_prior).all()


def test_a_measurement_depends_on_its_name_alone(problem):
    one = problem.cases(["a", "b"], 0)[1]
    (same,) = problem.cases(["b"], 0)
    (other,) = problem.cases(["b"], 1)
    assert torch.equal(one.measurement.y, same.measurement.y)
    assert not torch.equal(one.measurement.y, other.measurement.y)
    assert torch.equal(problem.batch(problem.cases(["a", "b"], 0), 0).y[1:], same.measurement.y)


def test_permutations_give_uniform_p_values():
    """Of the same distribution in both sets: the share of p-values below a level is the level."""
    found: dict[str, list[float]] = {"width": [], "shift": [], "mmd": []}
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        x = torch.distributions.Exponential(1.0)
        torch.manual_seed(seed)
        pooled = Pooled.of(x.sample((20, 1, 1, 3)), x.sample((40, 1, 1, 3)), seed)
        flat = pooled.x.flatten(1)
        width, shift, mmd = pooled.log_width(flat), pooled.squared_shift(flat), pooled.mmd()
        found["width"].append(Null.of(width[1:]).both(float(width[0])))
        found["shift"].append(Null.of(shift[1:]).above(float(shift[0])))
        found["mmd"].append(Null.of(mmd[1:]).above(float(mmd[0])))
        del generator
    for values in found.values():
        assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3


def test_statistics_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    one, two = torch.randn(12, 1, 1, 5, generator=generator), 1.5 * torch.randn(30, 1, 1, 5, generator=generator) + 0.3
    pooled = Pooled.of(one, two, 0)
    flat = pooled.x.flatten(1)
    a, b = one.flatten(1).double(), two.flatten(1).double()
    ratio = (a.var(dim=0).sum() / b.var(dim=0).sum()).sqrt()
    assert float(pooled.log_width(flat)[0].exp()) == pytest.approx(float(ratio), rel=1e-6)
    wide = torch.cat([flat, torch.zeros(42, 60)], dim=1)  # more coordinates than rows: by the other way
    assert torch.allclose(pooled.log_width(wide), pooled.log_width(flat))
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    assert float(pooled.squared_shift(flat)[0]) == pytest.approx(float(shift), rel=1e-6)
    assert torch.allclose(pooled.mean_difference(flat)[:, 0], a.mean(dim=0) - b.mean(dim=0))
    modes = torch.tensor([0, 1] * 6 + [0] * 20 + [1] * 10)
    chi, variation = pooled.chi_square(modes)
    expected = scipy.stats.chi2_contingency([[6, 6], [20, 10]], correction=False).statistic
    assert float(chi[0]) == pytest.approx(expected, rel=1e-9)
    assert float(variation[0]) == pytest.approx((0.5 - 2 / 3) ** 2)
    squares = torch.cdist(flat, flat).square()
    kernel = torch.exp(-0.5 * squares / squares.mean())
    mmd = (kernel[:12, :12].sum() - 12) / 132 + (kernel[12:, 12:].sum() - 30) / 870 - 2 * kernel[:12, 12:].mean()
    assert float(pooled.mmd()[0]) == pytest.approx(float(mmd), abs=1e-6)


def test_the_band_holds_uniform_ranks_as_often_as_it_says():
    rng = np.random.default_rng(1)
    low, high = band(100, 19)
    inside = []
    for _ in range(400):
        ranks = rng.integers(20, size=100)
        counts = np.cumsum(np.bincount(ranks, minlength=20))[:19] / 100
        inside.append(bool(((counts >= low - 1e-9) & (counts <= high + 1e-9)).all()))
    assert 0.92 < np.mean(inside) < 0.98
    difference, lowest, _, p = uniformity(rng.integers(20, size=2000), 19)
    assert p > 1e-3
    assert lowest == 0 < difference
    difference, lowest, highest, p = uniformity(
        np.minimum(rng.integers(20, size=2000), rng.integers(20, size=2000)), 19
    )
    assert p < 1e-6
    assert lowest < 0.25 < highest  # F = 1 - (1 - u)^2 is 1/4 off at 1/2


@pytest.mark.parametrize("count", [3, 6, 24])
def test_a_medians_interval_holds_it_as_often_as_order_statistics_can(count):
    drawn = np.random.default_rng(0).normal(size=(4000, count))
    held = np.mean([low <= 0 <= high for low, high in map(median_interval, drawn)])
    assert held >= min(0.95, 1 - 2.0 ** (1 - count)) - 0.015
    low, high = median_interval(np.arange(1.0, 1.0 + count))
    assert (low, high) == {3: (1, 3), 6: (1, 6), 24: (7, 18)}[count]  # the tables of the sign test


@pytest.mark.parametrize("wrong", [0.0, 0.05])
def test_shares_are_off_by_what_they_are_off(wrong):
    """Six modes; of the samples one in 6 and a share more, another as much less."""
    generator, own, other = torch.Generator().manual_seed(0), torch.full((6,), 1 / 6), torch.full((6,), 1 / 6)
    own[0], own[1] = own[0] + wrong, own[1] - wrong
    found = []
    for seed in range(60):
        modes = torch.cat(
            [torch.multinomial(shares, 200, replacement=True, generator=generator) for shares in (own, other, other)]
        )
        x = torch.zeros(600, 1, 1, 1)
        _, squared = Pooled.of(x[:200], x[200:], seed).chi_square(modes)
        found.append(float(squared[0] - squared[1:].mean()))
    assert np.mean(found) == pytest.approx(wrong**2, abs=3 * np.std(found) / 60**0.5)
    assert np.std(found) / 60**0.5 < 5e-4


def test_equal_numbers_are_no_evidence(problem):
    images = torch.zeros(10, 4000, 1, 1, 3)  # as where all samples and the truth are black
    assert float(inside(images, torch.Generator()).mean(dim=1)[0]) == pytest.approx(0.8, abs=0.02)
    generator, found = torch.Generator().manual_seed(0), []
    (case,) = problem.cases(["one"], 0)
    for _ in range(20):  # half of the numbers are cut off
        rows = torch.randn(16, 400, 1, 1, 20, generator=generator).clamp_min(0)
        pairs = [replace(case, truth=truth[None]) for truth in rows[0]]
        found.append(interval_tests(pairs, list(rows[1:].unbind(dim=1)))[0].p)
    assert min(found) > 1e-3
    assert scipy.stats.kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("ranks", "shape"),
    [
        (lambda u: u**1.3, "too low"),
        (lambda u: 1 - u**1.3, "too high"),
        (lambda u: 0.53 + 0.5 * (u - 0.5), "too central"),  # off centre as well, but less so
        (lambda u: np.where(u < 0.5, u**2, 1 - (1 - u) ** 2), "too far out"),
    ],
)
def test_ranks_have_the_shape_that_is_further_off(ranks, shape):
    values = (20 * ranks(np.random.default_rng(0).uniform(size=1000))).astype(int).clip(0, 19)
    (finding,) = rank_tests({"brightness": values}, 19)
    judged = Judged("one", "all", [finding], [finding.p])
    assert shape in judged.verdict()


def test_coverage_is_that_of_the_order_statistics():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(20, 300, 1, 2, 3, generator=generator)
    shares = inside(images, generator)
    low, high = images[1:].amin(dim=0), images[1:].amax(dim=0)
    expected = ((images[0] >= low) & (images[0] <= high)).flatten(1).double().mean(dim=1)
    torch.testing.assert_close(shares[0], expected)
    assert float(shares.mean()) == pytest.approx(0.9)
    assert coverage_test(shares).p > 0.01
    assert coverage_test(shares).effect == pytest.approx(float(expected.mean()))
    narrow = inside(torch.cat([images[:1], 0.8 * images[1:]]), generator)
    assert coverage_test(narrow).p < 1e-4
    assert coverage_test(narrow).effect < 0.88
    p_values = [
        coverage_test(inside(torch.randn(10, 40, 1, 1, 3, generator=generator), generator), n).p for n in range(100)
    ]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@dataclass(frozen=True)
class Breaks(Sampler):
    """Breaks one rule."""

    rule: str

    def __call__(self, prior, measurement, rng, observe=lambda *state: None):
        x = rng.randn("start", measurement.image_shape)
        if self.rule == "shape":
            return x[:, 0]
        if self.rule == "type":
            return x.tolist()
        if self.rule == "measurement":
            measurement.y.add_(1)
        if self.rule == "operator":
            measurement.operator.matrix.mul_(2)
        if self.rule == "prior":
            prior.means.add_(1)
        if self.rule == "torch":
            torch.rand(1)
        if self.rule == "numpy":
            np.random.rand()  # noqa: NPY002
        if self.rule == "raises":
            raise KeyError("no such thing")
        if self.rule == "NaN":
            x[::3] = torch.nan
        return x


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("shape", "returned (90, 1, 20) torch.float32, expected a tensor of floats (90, 1, 1, 20)"),
        ("type", "returned a list"),
        ("measurement", "changed its measurement"),
        ("prior", "changed the prior"),
        ("torch", "changed the global random state of torch"),
        ("operator", "changed the operator"),
        ("numpy", "changed the global random state of numpy"),
        ("raises", "fails on two-modes: KeyError: 'no such thing'"),
    ],
)
def test_a_broken_rule_is_one_line_and_the_others_go_on(rule, told):
    sizes = Budget("one", Sizes(3, 90, 20, 9), Sizes(3, 90, 20, 9))
    found = judge({"bad": Breaks(rule), "good": Planted()}, [cheap_problem()], sizes, quiet=True).found
    assert told in (found["bad"][0].failure or "")
    assert found["bad"][0].verdict().startswith("Not judged: bad")
    assert "\n" not in found["bad"][0].verdict()
    assert found["good"][0].failure is None
    assert found["good"][0].findings


def test_a_sampler_that_diverges_is_a_verdict(problem):
    verdict = judge(Breaks("NaN"), [problem], TINY, quiet=True).found["Breaks"][0]
    assert verdict.refuted
    assert verdict.verdict().startswith("Diverged on ")
    assert f"of {TINY.small.measurements + TINY.small.pairs} measurements" in verdict.verdict()
    divergent = DPS(RespacedSigmas(50), scale=1e9, clip_denoised=False)  # raises when no chain is left
    other = judge({"far": divergent}, [problem], Budget("x", Sizes(2, 5, 4, 2), TINY.large), quiet=True)
    assert other.found["far"][0].verdict().startswith("Diverged on 6 of 6 measurements")


def test_cells_are_kept_and_only_what_is_missing_is_sampled(problem, tmp_path):
    calls = []

    class Counting(Planted):
        def __call__(self, prior, measurement, rng, observe=lambda *state: None):
            calls.append(len(rng))
            return super().__call__(prior, measurement, rng, observe)

    first = judge({"mine": Counting()}, [problem], TINY, output=tmp_path, quiet=True)
    cells = sorted((tmp_path / "cells").rglob("*.npz"))
    assert len(calls) == len(cells) == len(list(planned(problem, TINY.small)))
    cells[0].write_bytes(b"damaged")
    cells[1].unlink()
    again = judge({"mine": Counting()}, [problem], TINY, output=tmp_path, quiet=True)
    assert len(calls) == len(cells) + 2
    assert str(first) == str(again)
    judge({"mine": Counting(width=0.9)}, [problem], TINY, output=tmp_path, quiet=True)  # other settings
    assert len(calls) == 2 * len(cells) + 2
    judge({"mine": Counting()}, [problem], TINY, seed=1, output=tmp_path, quiet=True)
    assert len(calls) == 3 * len(cells) + 2


def test_samples_do_not_depend_on_the_size_of_a_cell(problem):
    from benchmarks.judge.command import of_object

    with_rows = [Sizes(2, 10, 12, 3, rows=rows) for rows in (6, 500)]
    one, other = (run(of_object("x", Planted()), problem, sizes, 0) for sizes in with_rows)
    assert all(torch.equal(a, b) for a, b in zip(one.ranked, other.ranked, strict=True))


def test_a_plain_function_is_a_sampler(problem):
    def mine(y, operator, num_samples):
        """Exact: the prior's variance and the noise's are known to its author."""
        variance = 1 / (WIDTH**-2 + 0.1**-2)
        x = WIDTH * torch.randn(num_samples, 1, 1, NUMBERS)
        x[..., 0] += torch.where(torch.rand(num_samples, 1, 1) < 0.5, 0.6, -0.6)
        hidden = NUMBERS // 2
        mean = y.view(-1) * variance / 0.1**2
        x[..., hidden:] = mean + variance**0.5 * torch.randn(num_samples, 1, 1, NUMBERS - hidden)
        return x

    before = torch.get_rng_state()
    verdicts = judge(mine, [problem], SMALL, quiet=True)
    assert not verdicts.found["mine"][0].refuted, str(verdicts)
    assert torch.equal(before, torch.get_rng_state())

    def with_prior(y, operator, num_samples, prior, sigma_y, generator):
        assert operator.forward(torch.zeros(1, 1, 1, NUMBERS)).shape[1:] == y.shape
        assert sigma_y == 0.1
        return prior.denoise(torch.randn(num_samples, 1, 1, NUMBERS, generator=generator), 1.0)

    def fails(y):
        torch.manual_seed(5)
        raise KeyError

    assert "fails on two-modes: KeyError" in str(judge(fails, [problem], TINY, quiet=True))
    assert torch.equal(before, torch.get_rng_state())
    found = judge(with_prior, [problem], TINY, quiet=True).found["with_prior"][0]
    assert found.refuted
    assert found.forward == 1
    with pytest.raises(UserError, match="wants 'image'; a function is given y, operator"):
        FromFunction(lambda image: image)
    wrong = judge(lambda y: torch.zeros(3), [problem], TINY, quiet=True)
    assert "returned (3,), expected (num_samples, C, H, W) = (30, 1, 1, 20)" in str(wrong)


def test_clipping_is_named():
    (mixture,) = chosen(["mixture32"])

    @dataclass(frozen=True)
    class Clipped(Sampler):
        def __call__(self, prior, measurement, rng, observe=lambda *state: None):
            return ExactMixture()(prior, measurement, rng).clamp(-1, 1)

    sizes = Budget("x", Sizes(3, 60, 12, 3), TINY.large)
    found = judge({"clipped": Clipped(), "exact": ExactMixture()}, [mixture], sizes, quiet=True).found
    assert "its samples stay in [-1, 1], which" in found["clipped"][0].verdict()
    assert not found["exact"][0].refuted
    assert found["exact"][0].forward == 0


def test_exact_sets_are_kept_as_long_as_the_code_is_the_same(problem, tmp_path, monkeypatch):
    (case,) = problem.cases(["two-modes/compared/0"], 0)
    sizes = Sizes(1, 10, 0, 1)
    one = ExactSets(tmp_path, 0).of(problem, case, sizes)
    assert [len(part) for part in one.sets] == [10] * 4
    (path,) = (tmp_path / "exact").rglob("*.npz")
    stamp = path.stat().st_mtime_ns
    again = ExactSets(tmp_path, 0).of(problem, case, sizes)
    assert all(torch.equal(a, b) for a, b in zip(one.sets, again.sets, strict=True))
    assert path.stat().st_mtime_ns == stamp
    monkeypatch.setattr(running, "PACKAGE", tmp_path / "other code")
    ExactSets(tmp_path, 0).of(problem, case, sizes)
    assert len(list((tmp_path / "exact").rglob("*.npz"))) == 2


def test_a_config_has_other_settings_where_it_says_so(problem):
    settings = {
        "class_path": "posterior.samplers.DPS",
        "init_args": {"scale": 0.3, "clip_denoised": True},
        "judge": {"two-*": {"scale": 0.7}, "toon-*": {"clip_denoised": False}},
    }
    one = of_settings("dps", settings)
    made = one.made(problem)
    assert isinstance(made, DPS)
    assert (made.scale, made.clip_denoised) == (0.7, True)
    (ring,) = chosen(["ring"])
    other = one.made(ring)
    assert isinstance(other, DPS)
    assert other.scale == 0.3
    assert one.digest(problem) != one.digest(ring)
    whole = of_settings("whole", {"model": {"sampler": settings}, "data": {}})
    assert whole.digest(ring) == one.digest(ring)


def test_what_is_no_sampler_is_one_line():
    for text, told in (
        ("posterior.priors.RingPrior", "is no sampler"),
        ("posterior.samplers.Nothing", "posterior.samplers has no Nothing"),
        ("nowhere.yaml", "the file of settings nowhere.yaml does not exist"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            contestant_of(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--device: nowhere cannot be used here: Expected one of cpu") as caught:
        judge(Planted(), [cheap_problem()], TINY, device="nowhere")
    assert "\n" not in str(caught.value)
    mistyped = of_settings("mine", {"class_path": "DPS", "judge": {"two-mode": {"scale": 1.0}}})
    with pytest.raises(
        UserError, match="mine: judge: no problem fits 'two-mode'; there are ct-sparse, digits-inpainting"
    ):
        judge({"mine": mistyped}, [cheap_problem()], TINY)
    with pytest.raises(UserError, match="is no sampler"):
        judge(3, [cheap_problem()], TINY)  # type: ignore[arg-type]


PROBLEM = """\
tells: a test
image_shape: [1, 1, 20]
prior: {class_path: benchmarks.judge.problems.two_modes, init_args: {numbers: 20}}
operator: {class_path: benchmarks.judge.problems.Coordinates, init_args: {entries: [3, 4]}}
likelihood: {class_path: posterior.noise.GaussianNoise, init_args: {sigma_y: 0.2}}
"""


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("tells: a test\n", "", "tells is missing"),
        ("entries: [3, 4]", "entries: [3, 44]", "Coordinates: entries must be from 0 to 19"),
        (
            "prior: {class_path: benchmarks.judge.problems.two_modes, init_args: {numbers: 20}}",
            "prior: {class_path: posterior.priors.DiffusionPrior, init_args: {network: {class_path: "
            "posterior.priors.UNet, init_args: {image_size: 32, num_channels: 32, num_res_blocks: 1, "
            "channel_mult: [1, 2], attention_resolutions: [16], num_head_channels: 32, learn_sigma: false}}}}",
            "has no closed form.*another command",
        ),
        ("GaussianNoise, init_args: {sigma_y: 0.2}", "PoissonNoise, init_args: {rate: 1.0}", "Gaussian noise only"),
        ("sigma_y: 0.2", "sigma_y: -1", "sigma_y"),
        ("two_modes, init_args: {numbers: 20}", "two_modes, init_args: {number: 20}", "did you mean numbers"),
    ],
)
def test_bad_problem_files_are_one_line(tmp_path, before, after, told):
    path = tmp_path / "mine.yaml"
    assert before in PROBLEM
    path.write_text(PROBLEM.replace(before, after))
    with pytest.raises(UserError, match=told) as caught:
        read_problem(path)
    assert "\n" not in str(caught.value)
    assert "mine" in str(caught.value)


def test_the_command_judges_and_leaves_its_report(tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text(PROBLEM)
    monkeypatch.setitem(__import__("benchmarks.judge.command").judge.command.BUDGETS, "tiny", TINY)
    out = tmp_path / "out"
    dps = tmp_path / "dps.yaml"
    schedule = "{class_path: posterior.samplers.RespacedSigmas, init_args: {respacing: 20}}"
    dps.write_text(f"class_path: DPS\ninit_args: {{schedule: {schedule}}}\n")
    asked = ["--sampler", "exact=ExactMixture", "--sampler", str(dps), "--budget", "tiny", "--output", str(out)]
    judge_command([*asked, "--problems", f"{path},two-modes"])
    told = capsys.readouterr().out
    assert "exact: No difference from the posterior found on any of 2 problems." in told
    assert "dps: Refuted on" in told
    found = json.loads((out / "judge.json").read_text())
    assert [one["name"] for one in found["samplers"]] == ["exact", "dps"]
    assert [one["problem"] for one in found["samplers"][0]["problems"]] == ["mine", "two-modes"]
    findings = found["samplers"][0]["problems"][0]["findings"]
    assert {"distance", "shift", "width", "shares", "coverage", "spread", "rank"} == {one["kind"] for one in findings}
    assert all(one["detectable"] > 0 for one in findings if one["kind"] in ("width", "shares"))
    page = (out / "report.html").read_text()
    assert page.count("<img") == 2
    assert not re.search(r"""(src|href)=['"](?!data:)""", page)  # nothing outside the file
    assert '<p class="verdict">exact: No difference from the posterior found on any of 2 problems.</p>' in page
    for kind in ("Width: ", "Shares of modes: ", "Distance to the posterior "):
        assert page.count(f"<figcaption>{kind}") == 2
    assert "dps\n  mine, two-modes: DPS(schedule=RespacedSigmas(respacing=" in page.partition("<pre")[2]
    assert f"report: {out / 'report.html'}" in told
    assert "| mine | No difference found" in (out / "judge.md").read_text()
    command("judge", [*asked, "--problems", f"{path},two-modes", "--quiet"])
    assert capsys.readouterr() == (f"report: {out / 'report.html'}\n", "")
    for wrong, line in (
        (["--problems", "nothing"], "there is no problem 'nothing'"),
        (["--budget", "huge"], "there is no budget 'huge'"),
        (["--sampler", "DPS", "--sampler", "DPS"], "two samplers are called DPS"),
    ):
        with pytest.raises(UserError, match=line):
            judge_command([*asked, *wrong])


def test_levels_are_stated_for_all_tests_together(problem):
    (found,) = judge(Planted(), [problem], TINY, quiet=True).found["Planted"]
    assert found.level == LEVEL / len(found.findings)
    assert len(found.corrected) == len(found.findings)
    assert all(c >= one.p for c, one in zip(found.corrected, found.findings, strict=True))


def test_error_over_spread_is_one_for_exchangeable_images_only():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, 200, 1, 2, 3, generator=generator) + 3 * torch.randn(200, 1, 2, 3, generator=generator)
    exact = spread_test(images)
    mean, variance = images[1:].mean(dim=0), images[1:].double().var(dim=0)
    expected = ((images[0] - mean).double().square().sum() / (variance.sum() * (1 + 1 / 9))) ** 0.5
    assert exact.effect == pytest.approx(float(expected))
    assert exact.p > 0.01
    assert exact.low < 1 < exact.high
    centre = images[1:].mean(dim=0)
    narrow = spread_test(torch.cat([images[:1], centre + 0.8 * (images[1:] - centre)]))
    assert narrow.effect == pytest.approx(exact.effect / 0.8)
    assert narrow.p < 1e-4
    trimmed = inside(images, torch.Generator(), trim=2)
    ordered = images[1:].sort(dim=0).values
    held = ((images[0] >= ordered[2]) & (images[0] <= ordered[6])).flatten(1).double().mean(dim=1)
    torch.testing.assert_close(trimmed[0], held)
    assert float(trimmed.mean()) == pytest.approx(0.4)


def test_bars_are_drawn_until_the_work_is_done_and_not_where_there_is_none(monkeypatch):
    monkeypatch.setattr("posterior.terminal.redraws", lambda stream: True)
    assert Progress(0.0, quiet=False).status.live is None
    some = Progress(6.0, quiet=False)
    some.begin("x", 2.0)
    some.told(2)
    assert some.status.live is not None
    some.skip(6.0)
    assert some.status.live is None
