"""What several tests share: golden arrays, small priors, toon pictures."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.campaigns.warm import Warm
from benchmarks.tools.pooled import PooledStreams
from datamodules import training
from posterior.priors import GaussianFieldPrior
from tests import peers, stand_in

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

LONGEST = (
    *("benchmarks/test_fuzz.py", "benchmarks/test_judge.py", "test_cli.py", "benchmarks/test_faults.py"),
    *("test_configs.py", "benchmarks/test_matrix.py", "test_resume.py", "benchmarks/test_exact_posterior.py"),
    *("test_training.py", "test_devices.py", "benchmarks/test_mri.py", "benchmarks/test_toon_benchmarks.py"),
    *("test_page_commands.py", "test_kill.py", "samplers/test_annealed_langevin.py", "test_wheel.py"),
)
"""Files that take longest: they come first, so that no process waits long for the other at the end."""

NO_CASES = "got empty parameter set"
"""What pytest says of a test whose parameters are none."""

torch.set_num_threads(1)  # a core each for two workers: threads that wait for one another spin


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if peers.PATH == peers.PART:  # a clone has a part of the golden runs: tests of the others have no cases
        without = [item for item in items if item.get_closest_marker("skip") and NO_CASES in str(item.own_markers)]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Runs commands in processes of their own that need not import everything again."""
    process = Warm()
    yield process
    process.end()


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference arrays with FFHQ pixels, which is not part of the repository."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the reference arrays are not here ({folder})")
    return folder


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of reference arrays; where it is not, one of the same names for a picture of our own."""
    if (SHARED / "reference").is_dir():
        return SHARED / "reference"
    folder = tmp_path_factory.mktemp("reference")
    for name in ("motion_kernels.npz", "bkse_manifest.json"):
        shutil.copyfile(ROOT / "tests" / "data" / name, folder / name)
    with np.load(folder / "motion_kernels.npz") as arrays:
        stand_in.write_arrays(folder, arrays["i050_kernel_u8"][0])
    return folder


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TORCH_HOME with the LPIPS backbones: the real ones, or random weights where those are not."""
    if (SHARED / "weights").is_dir():
        return SHARED / "weights"
    folder = tmp_path_factory.mktemp("backbones")
    stand_in.write_backbones(folder / "hub" / "checkpoints")
    return folder


@pytest.fixture
def lpips_weights(monkeypatch: pytest.MonkeyPatch, backbones: Path) -> Path:
    """Point torch's hub folder at `backbones`; a test of learned values asks for ``reference`` too."""
    monkeypatch.setenv("TORCH_HOME", str(backbones))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return backbones


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


@pytest.fixture(scope="module")
def rendered_here() -> Iterator[None]:
    """Toon faces are rendered in chunks of 4, in this process: for tests that are not about how they are rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHUNK", 4)
        patch.setattr(training, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(1))
        yield


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
def _same_draws_in_any_order() -> None:
    """What a test draws from torch's own generator does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_stray_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Distributed runs of one test must not leak into the next, nor modules that it wrote: others have their names."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    yield
    for name, module in list(sys.modules.items()):
        if any(place in str(getattr(module, "__file__", None)) for place in ("/pytest-of-", "/docs/skeletons/")):
            del sys.modules[name]
