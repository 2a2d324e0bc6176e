"""docs/priors.md is true to the code: its files exist, its classes import, its examples build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import posterior.priors
from benchmarks.__main__ import COMMANDS
from tests.formats import made

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "priors.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The only example in a language that holds a word."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL) if word in text]
    return found


def test_names_are_those_of_the_code():
    rows = re.findall(r"^\|.*\| +(?:tiny|the toon|golden|closed).*\|$", TEXT, re.MULTILINE)
    assert len(rows) == 9
    for row in rows:
        for name in re.findall(r"`([a-z]\w+\d*)`", row.split("|")[5]):
            assert (ROOT / "configs" / "prior" / f"{name}.yaml").is_file(), name
    for name in set(re.findall(r"`(\w+(?:Prior|UNet))`", TEXT)):
        assert hasattr(posterior.priors, name), name
    for name in re.findall(r"(?:configs|docs)/[\w/]+\.(?:yaml|md)", TEXT):
        assert (ROOT / name).is_file(), name
    for name in set(re.findall(r"^    posterior-sampling (\w+)", TEXT, re.MULTILINE)):
        assert name in COMMANDS
    for name in re.findall(r"(?:--config|--prior|--model\.prior) ((?:demo|dps|paper|prior)/\w+)", TEXT):
        assert (ROOT / "configs" / f"{name}.yaml").is_file(), name


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The page's files in a folder that is on the import path, with weights for its network."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_network.py").write_text(block("python", "class MyNetwork"))
    (tmp_path / "mine.yaml").write_text(block("yaml", "EDMPrior"))
    from my_network import MyNetwork

    torch.save({"model": MyNetwork().state_dict(), "step": 3}, tmp_path / "mine.pt")
    yield tmp_path
    import sys

    for name in ("my_network", "my_azula"):
        sys.modules.pop(name, None)


def test_a_network_of_ones_own_and_another_range(files):
    x = torch.zeros(2, 3, 32, 32)
    inner = made(files / "mine.yaml", allow_local=True)
    assert inner.denoise(x, 1.0).shape == x.shape
    path, settings = re.search(
        r"`class_path:\s([\w.]+)`,\s`init_args:\s(\{prior: mine.*?\})`", TEXT.replace("\n  ", " ")
    ).groups()
    (files / "unit.yaml").write_text(f"class_path: {path}\ninit_args: {settings}\n")
    assert made(files / "unit.yaml", allow_local=True).sigma_max == 2 * inner.sigma_max


def test_a_function_that_makes_a_denoiser_of_azulas(files):
    pytest.importorskip("azula")
    text = block("python", "def denoiser").replace("import Backbone", "import MyNetwork as Backbone")
    (files / "my_azula.py").write_text(text)
    settings = "denoiser: {class_path: my_azula.denoiser}, checkpoint: mine.pt, channels: 3"
    (files / "azula.yaml").write_text(f"class_path: posterior.priors.AzulaPrior\ninit_args: {{{settings}}}\n")
    prior = made(files / "azula.yaml", allow_local=True)
    assert prior.channels == 3
    assert prior.denoise(torch.zeros(2, 3, 32, 32), torch.tensor([0.1, 1.0])).shape == (2, 3, 32, 32)
