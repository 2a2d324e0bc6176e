"""docs/method.md is true to the code: its names import, its sections are the ones that are cited, its numbers hold."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import posterior.samplers
from posterior import Measurement
from posterior.noise import GaussianNoise
from posterior.operators import Dense
from posterior.priors import LinearBetas, RingPrior
from posterior.samplers import AnnealingSchedule, PublishedAnnealing, ReverseStep, Sampler, SigmaSchedule

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
SECTIONS = {int(number): body for number, body in re.findall(r"^## (\d+)\. (.*?)(?=^## |\Z)", TEXT, re.M | re.S)}
CITATION = re.compile(r"method\.md`?,?\s+sections?\s+(\d+)(?:\s+and\s+(\d+))?")
CODE = ("posterior", "datamodules", "benchmarks", "tests")


def names(text: str) -> set[str]:
    return set(re.findall(r"`(posterior(?:\.\w+)+)`", text))


def test_every_name_imports():
    for name in names(TEXT):
        pkgutil.resolve_name(name)


def test_every_section_names_what_implements_it():
    assert list(SECTIONS) == list(range(1, 12))
    for number, body in SECTIONS.items():
        assert names(body), number


def test_every_citation_has_its_section():
    files = [path for folder in CODE for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    files += [*ROOT.glob("*.py"), *(ROOT / "docs" / "skeletons").glob("*.py")]
    cited = set()
    for path in files:
        text = path.read_text(encoding="utf-8")
        found = CITATION.findall(text)
        assert len(found) == text.count("method.md"), f"{path}: a citation of method.md without its section"
        cited |= {int(number) for pair in found for number in pair if number}
    assert {1, 2, 3, 4, 5, 6, 7, 8, 9, 11} <= cited <= set(SECTIONS)


def test_no_sampler_schedule_or_step_is_left_out():
    for name, cls in vars(posterior.samplers).items():
        if inspect.isclass(cls) and issubclass(cls, (Sampler, SigmaSchedule, AnnealingSchedule, ReverseStep)):
            abstract = inspect.isabstract(cls)
            assert abstract or f"`posterior.samplers.{name}`" in TEXT, f"docs/method.md does not name {name}"


def test_the_levels_of_section_1_are_those_of_the_linear_betas():
    stated = {int(t): float(sigma) for t, sigma in re.findall(r"sigma_(\d+) = ([\d.]+\d)", SECTIONS[1])}
    assert set(stated) == {0, 100, 999}
    for t, sigma in stated.items():
        assert LinearBetas().sigmas[t] == pytest.approx(sigma, rel=5e-3)


def test_the_published_schedules_of_section_4_begin_where_it_says():
    measurement = Measurement(torch.zeros(1, 1, 1, 1), Dense(torch.ones(1, 1), (1, 1, 1)), GaussianNoise(0.05))
    (stated,) = re.findall(r"begin at\s+v_1 = ([\d., and]+\d)\.", SECTIONS[4])
    tops = [float(value) for value in re.split(r", | and ", stated)]
    settings = [(0.009, 1000)] + [(float(f), int(n)) for f, n in re.findall(r"\((0\.\d+), (\d+)\)", SECTIONS[4])]
    found = [PublishedAnnealing(f, n).levels(measurement, 1e-3)[0].variance for f, n in settings]
    assert found == pytest.approx(tops, abs=5e-3)


def test_the_ring_of_section_6_bends_as_it_says():
    """Second derivatives of log p, by autograd in float64; w = 0.1."""
    width = 0.1
    prior = RingPrior(width)

    def bends(r: float) -> tuple[float, float]:
        """Radial and tangential."""
        x = torch.tensor([r, 0.0], dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda x: prior.log_prob(x.view(1, 2, 1, 1))[0], x)
        return float(hessian[0, 0]), float(hessian[1, 1])

    assert bends(1.0) == pytest.approx((-1 / width**2 + 1 / 2, -1 / 2), abs=0.02)
    assert bends(0.5)[1] == pytest.approx((1 / 0.5 - 1) / width**2, rel=0.03)
    assert bends(1e-4)[1] == pytest.approx(1 / (2 * width**4) - 1 / width**2, rel=1e-3)
    radial, tangential = zip(*(bends(r) for r in torch.linspace(1e-4, 2, 40).tolist()), strict=True)
    assert min(radial) >= -1 / width**2
    assert max(*radial, *tangential) == pytest.approx(1 / (2 * width**4) - 1 / width**2, rel=1e-3)
