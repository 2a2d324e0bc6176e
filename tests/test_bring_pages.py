"""The pages "bring your ...": their Python runs as it stands, their files and names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import posterior.priors
from posterior.settings import conformed
from posterior.shipped import shipped

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("images", "operators", "zoo")}
PAGES["measurements"] = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.parametrize("page", ["operators", "measurements"])
def test_the_python_runs(page, monkeypatch, capsys):
    """With one or two samples in place of eight."""
    pytest.importorskip("resvg_py", reason="the extra 'faces' is not installed")
    scope: dict[str, object] = {}
    torch.manual_seed(0)
    for code in blocks(page, "python"):
        exec(code.replace("num_samples=8", "num_samples=2"), scope)
    assert scope["result"].samples.shape[2:] == (3, 32, 32)  # type: ignore[attr-defined]
    if page == "measurements":
        found = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
        assert found == pytest.approx([0.1, 0.1], rel=0.2)


def test_the_task_of_the_page_is_one():
    from posterior.noise import Likelihood
    from posterior.operators import OperatorFamily

    (text,) = blocks("measurements", "yaml")
    conformed(yaml.safe_load(text), {"operator": OperatorFamily, "likelihood": Likelihood})


def test_the_zoo_names_what_is_there():
    names = set(re.findall(r"`(prior/\w+)`", PAGES["zoo"]))
    assert {"prior/ffhq256", "prior/edm_ffhq64", "prior/photos"} <= names
    assert names <= set(shipped())
    for name in set(re.findall(r"`(\w+(?:Prior))`", PAGES["zoo"])):
        assert hasattr(posterior.priors, name), name


def test_its_counts_are_those_of_our_networks():
    with torch.device("meta"):
        networks = {
            "edm-ffhq-64x64-uncond-vp": posterior.priors.SongUNet(64, augment_dim=9, channel_mult=[1, 2, 2, 2]),
            "edm-cifar10-32x32-uncond-vp": posterior.priors.SongUNet(32, augment_dim=9, channel_mult=[2, 2, 2]),
            "edm-imagenet-64x64-cond-adm": posterior.priors.DhariwalUNet(64, label_dim=1000),
        }
    for name, network in networks.items():
        (row,) = [line for line in PAGES["zoo"].splitlines() if line.startswith(f"| `{name}.pkl`")]
        millions = sum(one.numel() for one in network.parameters()) / 1e6
        assert f"{millions:.1f} M (counted" in row
