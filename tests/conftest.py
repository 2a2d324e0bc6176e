"""What several tests share: golden arrays, small priors, toon pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tools.pooled import PooledStreams
from posterior.priors import GaussianFieldPrior

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference arrays with FFHQ pixels, which is not part of the repository."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the reference arrays are not here ({folder})")
    return folder


@pytest.fixture
def lpips_weights(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point torch's hub folder at the real LPIPS backbones."""
    folder = SHARED / "weights"
    if not folder.is_dir():
        pytest.skip(f"the LPIPS backbones are not here ({folder})")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return folder


@pytest.fixture
def no_lpips_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty_torch_home"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """The committed golden arrays of one group, e.g. ``golden("unet_small")["x"]``."""
    with np.load(ROOT / "tests" / "data" / "golden.npz", allow_pickle=False) as arrays:
        everything = {key: arrays[key] for key in arrays.files}

    def group(name: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{name}/"): value for key, value in everything.items() if key.startswith(f"{name}/")}

    return group


@pytest.fixture
def field() -> GaussianFieldPrior:
    """A Gaussian field with correlated colours and moderate stiffness, for images of any size."""
    return GaussianFieldPrior(
        mean=[0.2, 0.0, -0.1],
        components=[[0.6, 0.6, 0.52915], [0.8, -0.45, -0.39686], [0.0, 0.66144, -0.75]],
        amplitude=[2e-2, 1e-2, 1e-2],
        exponent=[2.0, 1.5, 1.0],
        cutoff=[0.1, 0.1, 0.1],
        floor=0.2,
    )


@pytest.fixture(scope="session")
def pooled() -> type[PooledStreams]:
    return PooledStreams


def relative(a: torch.Tensor, b: torch.Tensor | np.ndarray) -> float:
    """max |a - b| / max |b|."""
    b = torch.as_tensor(b)
    return float((a.detach() - b).abs().max() / b.abs().max())


@pytest.fixture(scope="session", name="relative")
def relative_fixture() -> Callable[..., float]:
    return relative


@pytest.fixture(autouse=True)
def _no_stray_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distributed runs of one test must not leak into the next."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
