"""Kept samples are taken for those of the same sampler on the same problem only; a bad sampler harms no other."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.judge import running
from benchmarks.judge.command import judge, of_object
from benchmarks.judge.problems import LearnedTruth, chosen, two_modes
from benchmarks.judge.running import Budget, Sizes, contents_of, run
from posterior import Measurement, Streams, UserError
from posterior.priors import Prior
from posterior.samplers import DPS, ConditionalDescent, ExactMixture, LangevinSteps, Sampler, unobserved

SMALL = Budget("small", Sizes(4, 60, 20, 9, sets=3), Sizes(4, 60, 20, 9, sets=3))


class Good(ExactMixture):
    """Exact."""


class Narrow(ExactMixture):
    """Of a third of the width; no setting of its own, and of the same file as `Good`."""

    def __call__(self, prior, measurement, rng, *rest):
        x = super().__call__(prior, measurement, rng, *rest)
        return x.mean(dim=0) + 0.3 * (x - x.mean(dim=0))


class Spoiler(Sampler):
    """Changes the prior's numbers, so that their sum stays what it was."""

    def __call__(self, prior: Prior, measurement: Measurement, rng: Streams, *rest):
        prior.means.mul_(2)
        return ExactMixture()(prior, measurement, rng)


def test_two_classes_of_one_file_do_not_share_samples(tmp_path):
    problems = chosen(["two-modes"])
    judge({"good": Good()}, problems, SMALL, output=tmp_path, quiet=True)
    (found,) = judge({"bad": Narrow()}, problems, SMALL, output=tmp_path, quiet=True).found["bad"]
    assert found.refuted


def test_what_a_sampler_holds_and_what_a_function_encloses_is_seen():
    class Holding:
        def __init__(self, value):
            self.value = value

    many = torch.zeros(5000)
    other = many.clone()
    other[2500] = 1
    assert contents_of(Holding(many)) != contents_of(Holding(other))

    def made(width):
        return lambda y, num_samples: width * y

    digests = {of_object("f", made(width)).digest(chosen(["two-modes"])[0]) for width in (1.0, 1.0, 2.0)}
    assert len(digests) == 2


def test_an_edited_prior_or_another_ending_of_truths_is_another_problem():
    (problem,) = chosen(["two-modes"])
    far = two_modes(distance=9.0, width=0.2, numbers=20)
    near = two_modes(distance=3.0, width=0.2, numbers=20)
    digests = {replace(problem, prior=prior, settings=None).digest for prior in (far, near)}
    shape = problem.image_shape
    digests |= {
        replace(problem, prior=far, settings=None, truth=LearnedTruth(far, shape, denoised)).digest
        for denoised in (False, True)
    }
    assert len(digests) == 4


def test_a_sampler_that_changes_the_prior_is_named_and_harms_no_other():
    problems = chosen(["two-modes"])
    found = judge({"spoiler": Spoiler(), "good": Good()}, problems, SMALL, quiet=True).found
    assert "changed the prior" in str(found["spoiler"][0].failure)
    assert not found["good"][0].refuted
    alone = judge({"good": Good()}, chosen(["two-modes"]), SMALL, quiet=True).found["good"][0]
    assert [one.effect for one in alone.findings] == pytest.approx([one.effect for one in found["good"][0].findings])


def test_nothing_is_concluded_from_next_to_nothing():
    few = Budget("few", Sizes(1, 20, 5, 9, sets=3), Sizes(1, 20, 5, 9, sets=3))
    (found,) = judge({"narrow": Narrow()}, chosen(["two-modes"]), few, quiet=True).found["narrow"]
    assert "too few measurements" in str(found.failure)


def test_samples_for_other_measurements_are_not_taken(tmp_path):
    """As if what measures had been changed since they were kept: they are drawn again."""
    problems = chosen(["two-modes"])
    right = judge({"good": Good()}, problems, SMALL, output=tmp_path, quiet=True).found["good"][0]
    paths = sorted((tmp_path / "cells").rglob("*.npz")) + sorted((tmp_path / "exact").rglob("*.npz"))
    for path in paths:
        with np.load(path) as arrays:
            kept = dict(arrays)
        np.savez(path, **kept | {"samples": kept["samples"] + 1, "y": kept["y"] + 0.1})
    again = judge({"good": Good()}, problems, SMALL, output=tmp_path, quiet=True).found["good"][0]
    assert [one.effect for one in again.findings] == [one.effect for one in right.findings]
    for path in paths:  # the same measurements: taken as they are
        with np.load(path) as arrays:
            kept = dict(arrays)
        np.savez(path, **kept | {"samples": kept["samples"] + 1})
    other = judge({"good": Good()}, problems, SMALL, output=tmp_path, quiet=True).found["good"][0]
    assert [one.effect for one in other.findings] != [one.effect for one in right.findings]


def test_kept_truths_are_not_drawn_again(tmp_path, monkeypatch):
    (problem,) = chosen(["two-modes"])
    sizes = Sizes(0, 0, 20, 9)
    first = run(of_object("good", Good()), problem, sizes, 0, tmp_path)

    def no_more(*asked):
        raise AssertionError("drawn again")

    monkeypatch.setattr(type(problem.truth), "draw", no_more)
    again = run(of_object("good", Good()), problem, sizes, 0, tmp_path)
    for one, other in zip(first.pairs, again.pairs, strict=True):
        assert torch.equal(one.truth, other.truth)
        assert torch.equal(one.measurement.y, other.measurement.y)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the code of `posterior`, to be edited."""
    copy = tmp_path / "posterior"
    for file in running.PACKAGE.rglob("*.py"):
        place = copy / file.relative_to(running.PACKAGE)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    monkeypatch.setattr(running, "PACKAGE", copy)
    return copy


def edited(package: Path, name: str, line: str = "# edited") -> None:
    """A line more in a file of the copy."""
    with (package / name).open("a") as file:
        file.write(f"\n{line}\n")


@pytest.mark.parametrize("name", ["samplers/conditional.py", "samplers/__init__.py", "samplers/new.py"])
def test_the_code_of_other_samplers_and_their_list_do_not_count(package, name):
    before = running.code_of(DPS())
    edited(package, name, "from posterior.samplers.new import New")
    assert running.code_of(DPS()) == before


@pytest.mark.parametrize(
    "name", ["samplers/dps.py", "samplers/base.py", "samplers/schedules.py", "priors/mixture.py", "operators/base.py"]
)
def test_the_code_that_a_sampler_and_its_problem_can_reach_counts(package, name):
    before = running.code_of(DPS())
    edited(package, name)
    assert running.code_of(DPS()) != before


def test_code_is_followed_through_a_package_a_function_and_what_a_sampler_holds(package):
    other = package / "samplers" / "kinetic.py"
    before = running.code_of(DPS())
    edited(package, "samplers/kinetic.py")
    assert running.code_of(DPS()) == before
    edited(package, "waits.py", "def late():\n    from posterior.samplers import KineticLangevin")
    reaching = running.code_of(DPS())
    edited(package, "samplers/kinetic.py")
    assert running.code_of(DPS()) != reaching
    assert other not in running._unreached(DPS())
    steps = package / "samplers" / "likelihood_steps.py"
    held = DPS()
    assert steps in running._unreached(held)
    object.__setattr__(held, "held", {"in": [LangevinSteps()]})
    assert steps not in running._unreached(held)


@pytest.mark.parametrize(
    "line",
    [
        "import posterior.samplers",
        "from posterior.samplers import *",
        "from posterior import samplers",
        "from . import kinetic",
        "import importlib\nimportlib.import_module('posterior.samplers.kinetic')",
        "__import__('posterior.samplers.kinetic')",
    ],
)
def test_where_code_cannot_be_followed_all_of_it_counts(package, line):
    assert running._unreached(DPS())
    edited(package, "samplers/dps.py", line)
    assert running._unreached(DPS()) == set()
    assert running._unreached(ConditionalDescent())


def test_all_code_counts_for_a_sampler_from_elsewhere_and_for_a_list_that_does_more(package):
    assert running._unreached(Good()) == set()
    assert running._unreached(ExactMixture())
    edited(package, "samplers/__init__.py", "DPS.scale = 2.0")
    assert running._unreached(ExactMixture()) == set()


def test_what_a_sampler_imports_from_beside_it_counts(tmp_path, monkeypatch):
    """Also from its own package, and through what that imports; not what stands there and is not imported."""
    for name, text in {
        "mine_alone.py": "import helper_of_mine\nimport torch\nclass Mine: pass\n",
        "helper_of_mine.py": "from deeper_of_mine import SCALE\n",
        "deeper_of_mine.py": "SCALE = 1.0\n",
        "not_imported.py": "SCALE = 1.0\n",
        "mine_whole/__init__.py": "",
        "mine_whole/one.py": "from . import two\nfrom mine_whole.sub.three import X\nclass Mine: pass\n",
        "mine_whole/two.py": "",
        "mine_whole/sub/__init__.py": "",
        "mine_whole/sub/three.py": "X = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = running._beside(tmp_path / "mine_alone.py")
    assert {one.name for one in found} == {"mine_alone.py", "helper_of_mine.py", "deeper_of_mine.py"}
    found = running._beside(tmp_path / "mine_whole" / "one.py")
    assert {one.name for one in found} == {"one.py", "two.py", "__init__.py", "three.py"}
    monkeypatch.syspath_prepend(str(tmp_path))
    sampler = importlib.import_module("mine_alone").Mine()
    before = running.code_of(sampler)
    assert running.code_of(sampler) == before
    (tmp_path / "deeper_of_mine.py").write_text("SCALE = 9.0\n")
    assert running.code_of(sampler) != before


class Counting(Sampler):
    """Wider with each call."""

    def __call__(self, prior, measurement, rng, observe=unobserved):
        self.calls = getattr(self, "calls", 0) + 1
        return self.calls * rng.randn("test", measurement.image_shape)


def test_a_sampler_that_changes_itself_is_made_anew_for_each_call():
    (problem,) = chosen(["two-modes"])
    cases, sampler = problem.cases(["a", "b"], 0), Counting()
    first = running.draw("counting", sampler, problem, cases, 3, 0)
    assert np.array_equal(running.draw("counting", sampler, problem, cases, 3, 0).samples, first.samples)


class Held:
    def __init__(self, owner):
        self.owner = owner


def test_a_sampler_whose_parts_know_it_has_a_digest():
    sampler = Counting()
    sampler.helper = Held(sampler)
    assert running.code_of(sampler) == running.code_of(sampler)


class Odd(Sampler):
    def __init__(self, give):
        self.give = give

    def __call__(self, prior, measurement, rng, observe=unobserved):
        return self.give(prior, rng.randn("test", measurement.image_shape))


def without_cost(prior, x):
    prior.cost = None
    return x


def ended(prior, x):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("give", "told"),
    [
        (lambda prior, x: x.to_sparse(), "returned a sparse_coo tensor"),
        (lambda prior, x: x.to("meta"), "returned a tensor without numbers"),
        (without_cost, "changed the prior's cost"),
        (ended, "fails on .*: SystemExit: 3"),
    ],
)
def test_what_a_sampler_can_do_wrong_is_one_line(give, told):
    (problem,) = chosen(["two-modes"])
    with pytest.raises(UserError, match=told):
        running.draw("odd", Odd(give), problem, problem.cases(["a"], 0), 2, 0)


def test_a_cell_whose_header_is_damaged_is_none(tmp_path):
    """Whatever bit it is."""
    (problem,) = chosen(["two-modes"])
    cell = running.draw("good", Counting(), problem, problem.cases(["a"], 0), 2, 0)
    cell.write(tmp_path / "cell.npz")
    whole = (tmp_path / "cell.npz").read_bytes()
    for place in range(60):
        damaged = bytearray(whole)
        damaged[place // 2] ^= 1 << (5 * (place % 2))
        (tmp_path / "cell.npz").write_bytes(damaged)
        running.Cell.read(tmp_path / "cell.npz")
