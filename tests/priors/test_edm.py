"""EDM's preconditioning, its networks, and its published pickles."""

from __future__ import annotations

import copy
import gzip
import json
import os
import pickle
import sys
import tempfile
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from benchmarks.__main__ import run
from benchmarks.tools.convert import convert_edm, edm_settings
from benchmarks.tools.recipe import fill_by_recipe
from posterior import UserError
from posterior.edm_pickle import SPARE_DISK, SPARE_MEMORY, read_pickle, write_arrays
from posterior.priors import DhariwalUNet, EDM2UNet, EDMPrior, SongUNet
from posterior.reading import read_json, read_state
from tests.formats import ROUNDING, UnitVariance, made, sampled, shipped

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "data" / "edm_golden.json.gz").read_bytes()))["cases"]
SMALL = GOLDEN[0]["settings"]


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['network']}{len(case['settings'])}")
def test_the_networks_are_nvidias(case):
    """Keys, shapes and outputs, of another implementation than ours."""
    network = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}[case["network"]](**case["settings"]).eval()
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == case["keys"]
    fill_by_recipe(network)
    classes = case["settings"].get("label_dim", 0)
    labels = torch.eye(classes)[[1, 2]] if classes else None
    found = network(images(2, 3, 8, 8), torch.tensor([-0.7, 0.9]), labels)[:, :, ::3, ::3].flatten()
    torch.testing.assert_close(found, torch.tensor(case["output"]), rtol=0, atol=1e-5)


class GaussianNetwork(nn.Module):
    """F for which D is the conditional mean under N(0, variance)."""

    def __init__(self, sigma_data, variance):
        super().__init__()
        self.sigma_data, self.variance = sigma_data, variance

    def forward(self, x, noise):
        sigma = (4 * noise).exp().view(-1, 1, 1, 1)
        radius2 = sigma**2 + self.sigma_data**2
        noisy = x * radius2.sqrt()
        denoised = noisy * self.variance / (self.variance + sigma**2)
        return (denoised - self.sigma_data**2 / radius2 * noisy) * radius2.sqrt() / (sigma * self.sigma_data)


def test_the_preconditioning():
    prior, x = EDMPrior(GaussianNetwork(0.6, 0.3), 0.6, 0.01, 50.0), images(3, 3, 4, 4)
    levels = torch.tensor([0.01, 1.0, 50.0])
    expected = x * (0.3 / (0.3 + levels**2)).view(-1, 1, 1, 1)
    torch.testing.assert_close(prior.denoise(x, levels), expected, rtol=1e-4, atol=1e-5)
    for row, sigma in enumerate(levels.tolist()):
        torch.testing.assert_close(prior.denoise(x, sigma)[row], expected[row], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"outside \[0\.01, 50\]"):
        prior.denoise(x, 51.0)


def test_a_class_is_a_unit_vector():
    class Labelled(nn.Module):
        def forward(self, x, noise, class_labels):
            assert class_labels.shape == (len(x), 3)
            return x + (class_labels @ torch.tensor([1.0, 2.0, 4.0])).view(-1, 1, 1, 1)

    x = images(2, 3, 4, 4)
    priors = [EDMPrior(Labelled(), num_classes=3, label=label) for label in range(3)]
    outputs = [prior.denoise(x, 0.5) - priors[0].denoise(x, 0.5) for prior in priors]
    torch.testing.assert_close(outputs[2], 3 * outputs[1])
    assert outputs[1].min() > 0
    assert len({prior.fingerprint() for prior in priors}) == 3
    for settings, told in (
        ({"num_classes": 3}, "has 3 classes: label must say"),
        ({"label": 1}, "label is 1, but the network has no classes"),
        ({"num_classes": 3, "label": 3}, "label must be >= 0 and <= 2"),
        ({"sigma_min": 2.0, "sigma_max": 1.0}, "sigma_max must be > 2"),
        ({"sigma_data": 0.0}, "sigma_data must be > 0"),
    ):
        with pytest.raises(UserError, match=told):
            EDMPrior(Labelled(), **settings)
    with pytest.raises(UserError, match="takes no class_labels"):
        EDMPrior(GaussianNetwork(0.5, 1.0), num_classes=3, label=1)


def test_the_shipped_prior_in_this_form_gives_the_native_runs_samples():
    toon = shipped()
    prior = EDMPrior(UnitVariance(toon, 0.25), 1.0, toon.sigma_min, toon.sigma_max)
    assert (sampled(prior) - sampled(toon)).abs().max() < ROUNDING


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"img_resolution": 7}, "SongUNet: img_resolution 7 is no multiple of 2"),
        ({"out_channels": 4}, "out_channels must be >= 3 and <= 3"),
        ({"channel_mult": []}, "channel_mult must have 1 to"),
        ({"model_channels": 4096, "channel_mult": [64, 64]}, "more than 1e.10"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter must have an even number"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        SongUNet(**(SMALL | settings))


# published files


class Persistent:
    """As torch_utils.persistence pickles a module: a function that runs source code, and what it is given."""

    def __init__(self, name, module, **attributes):
        held = {name: Persistent.of(child) for name, child in module._modules.items()}
        state = {"_parameters": OrderedDict(module._parameters), "_buffers": module._buffers, "_modules": held}
        source = "raise SystemExit('this code must not run')"
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": name}
        self.meta["state"] = {"training": False, **state, **attributes}

    @staticmethod
    def of(module):
        if isinstance(module, nn.ModuleDict):  # of torch, pickled as itself
            made = nn.ModuleDict()
            made._modules = {name: Persistent.of(child) for name, child in module.items()}
            return made
        return Persistent(type(module).__name__, module)

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Write a pickle: published(network, preconditioning, **attributes) -> its path."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("their code has run")

    persistence = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)

    def write(network, preconditioning="EDMPrecond", inner="SongUNet", settings=SMALL, called="model", **attributes):
        whole = nn.Module()
        facts = {"sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf"), "label_dim": 0}
        held = Persistent(preconditioning, whole, **(facts | attributes))
        held.meta["state"]["_modules"][called] = Persistent(inner, network, _init_args=(), _init_kwargs=settings)
        path = tmp_path / "edm.pkl"
        path.write_bytes(pickle.dumps({"ema": held, "loss_fn": Marks(), "data": None}, protocol=4))
        return path

    return write


class Marks:
    """Leaves a folder behind if it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("the_code_of_a_pickle_has_run",)


@torch.no_grad()
def test_a_published_pickle_becomes_a_prior_and_no_code_of_it_runs(tmp_path, published, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = SongUNet(**SMALL).eval()
    fill_by_recipe(network)
    path = published(network)
    (tmp_path / "sitecustomize.py").write_text("open('the_path_of_the_user_is_kept', 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run("convert", ["edm", str(path)])
    assert (tmp_path / "the_path_of_the_user_is_kept").exists()
    assert not (tmp_path / "the_code_of_a_pickle_has_run").exists()
    assert "edm.json: the prior" in capsys.readouterr().out
    prior = made(tmp_path / "edm.json")
    assert (prior.sigma_min, prior.sigma_max, prior.channels, prior.size) == (0.002, 80.0, 3, (8, 8))
    x = images(2, 3, 8, 8)
    for sigma in (0.002, 0.5, 80.0):
        assert torch.equal(prior.denoise(x, sigma), EDMPrior(network).denoise(x, sigma))
    with pytest.raises(SystemExit):
        run("convert", ["edm", str(path)])
    assert "edm.safetensors is there already" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"is a pickle, .*: posterior-sampling convert edm .*edm.pkl"):
        EDMPrior(network, checkpoint=path)


def in_this_process(path):
    """What the process of its own does, with its time for imports left out."""
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(path, Path(folder))
        return read_state(Path(folder) / "weights.safetensors"), read_json(Path(folder) / "facts.json", "facts")


def test_classes_of_a_published_pickle_are_counted(published):
    settings = GOLDEN[5]["settings"]
    network = DhariwalUNet(**settings)
    state, facts = in_this_process(published(network, "Precond", "DhariwalUNet", settings, label_dim=5, sigma_max=60.0))
    assert state.keys() == network.state_dict().keys()
    found = edm_settings(facts, "x.safetensors")["init_args"]
    assert (found["num_classes"], found["sigma_max"], found["network"]["init_args"]) == (5, 60.0, settings)


@torch.no_grad()
def test_a_published_pickle_of_edm2_becomes_a_prior(tmp_path, published):
    """It has no levels of its own, calls its network unet, and keeps weights of half precision."""
    settings = {"img_resolution": 8, "img_channels": 4, "label_dim": 3, "model_channels": 16, "channel_mult": [1, 2]}
    settings |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 16, "dropout": 0.1}
    network = EDM2UNet(**settings).eval()
    fill_by_recipe(network)
    theirs = copy.deepcopy(network).half()
    for module in theirs.modules():  # theirs has a list in its place
        module._buffers.pop("resample_filter", None)
    state, facts = in_this_process(published(theirs, "Precond", "UNet", settings, "unet", label_dim=3))
    network.load_state_dict(state)
    safetensors.torch.save_file(state, tmp_path / "edm2.safetensors")
    (tmp_path / "edm2.json").write_text(json.dumps(edm_settings(facts, "edm2.safetensors")))
    (tmp_path / "one.yaml").write_text("from: edm2.json\ninit_args: {label: 2}\n")
    prior, x = made(tmp_path / "one.yaml"), images(2, 4, 8, 8)
    assert (prior.sigma_min, prior.sigma_max, prior.channels, prior.size) == (0.002, 80.0, 4, (8, 8))
    expected = EDMPrior(network, num_classes=3, label=2)
    for sigma in (0.002, 0.5, 80.0):
        assert torch.equal(prior.denoise(x, sigma), expected.denoise(x, sigma))


def test_what_is_no_published_pickle_is_one_line(tmp_path, published, capsys):
    network = SongUNet(**SMALL)
    path = published(network)
    path.write_bytes(path.read_bytes()[:-100])
    for arguments, told in (
        (["edm", str(path)], "edm.pkl is no network of EDM's: "),
        (["edm", "nowhere.pkl"], "pickle nowhere.pkl does not exist"),
        (["edm", ""], "pickle . is a folder"),
        (["edm", str(path), "--output", "x.pt"], "--output must end in .safetensors"),
        (["edm", str(path), "--output", "nowhere/x.safetensors"], "nowhere, where --output would be, is not a folder"),
        (["adm", str(path)], "convert: argument kind: invalid choice: 'adm'"),
    ):
        with pytest.raises(SystemExit):
            run("convert", arguments)
        line = capsys.readouterr().err
        assert told in line
        assert line.count("\n") == 1
    for of, told in (
        ({"preconditioning": "VPPrecond"}, "its preconditioning is VPPrecond, not one of"),
        ({"inner": "Unknown"}, "its network is a Unknown, not one of"),
    ):
        with pytest.raises(UserError, match=told):
            edm_settings(in_this_process(published(network, **of))[1], "x")


class Strange(dict):
    """A class that a stub must stand for: filled entry by entry."""


class Odd(list):
    """Another: filled by its end."""


@pytest.mark.parametrize("held", [3, {"weights": 3}, [Strange(a=1), Odd([2])], Strange(_modules={})])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_holds_no_network_is_said_whatever_it_holds(tmp_path, held, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": held}, protocol=protocol))
    with pytest.raises(ValueError, match="it holds no network called ema"):
        in_this_process(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"sigma_max": "80"}, "its sigma_max must be a number, got '80'"),
        ({"sigma_max": None}, "its sigma_max must be a number, got None"),
        ({"sigma_max": 10**400}, "Precond: sigma_max must be > 0.002 and <= "),
        ({"sigma_max": float("nan")}, "Precond: sigma_max must be > 0.002 and <= "),
        ({"sigma_min": 90.0}, "Precond: sigma_max must be > 90 and <= "),
        ({"sigma_min": -1.0}, "Precond: sigma_min must be > 0 and <= "),
        ({"sigma_data": None}, "its sigma_data must be a number, got None"),
        ({"sigma_data": True}, "its sigma_data must be a number, got True"),
        ({"sigma_data": 0}, "Precond: sigma_data must be > 0 and <= "),
        ({"label_dim": [1]}, r"its label_dim must be a whole number, got \[1\]"),
        ({"label_dim": 1.5}, "its label_dim must be a whole number, got 1.5"),
        ({"label_dim": -1}, "Precond: label_dim must be >= 0 and <= "),
        ({"settings": [8]}, r"its settings must be a mapping, got \[8\]"),
    ],
)
def test_facts_that_make_no_prior_are_refused(spoilt, told):
    facts = {"preconditioning": "Precond", "network": "SongUNet", "settings": {}, "sigma_max": 80.0, "label_dim": 0}
    edm_settings(facts, "x")
    with pytest.raises(UserError, match=told):
        edm_settings(facts | spoilt, "x")


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    facts = {"preconditioning": "Precond", "network": "SongUNet", "settings": {}}
    monkeypatch.setattr("benchmarks.tools.convert.read_pickle", lambda file: ({"x": torch.ones(1)}, facts))
    with pytest.raises(UserError, match=r"convert: .* cannot be written: "):
        convert_edm(tmp_path / "x.pkl", tmp_path / f"{'x' * 300}.safetensors")


class Rebuilt:
    """Pickled as a tensor of torch, whose arguments are given."""

    def __init__(self, storage, *arguments):
        self.arguments = storage, *arguments

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (*self.arguments, False, OrderedDict())


def bare(**parameters):
    """A module with these parameters, of whatever kind."""
    module = nn.Module()
    module._parameters = parameters
    return module


NUMBERS = torch.arange(6.0)


@pytest.mark.parametrize(
    "view",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (7, (), ()),
        (7, (0,), (1,)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (0, (-2, -3), (3, 1)),
        (5, (2,), (-1,)),
        (0, (1000,), (0,)),
    ],
    ids=str,
)
def test_a_tensor_outside_its_storage_is_refused(published, view):
    good = Rebuilt(NUMBERS._typed_storage(), 1, (2, 2), (3, 1))
    state, _ = in_this_process(published(bare(w=good, none=None, empty=torch.zeros(0), one=torch.tensor(2.0))))
    assert state["w"].tolist() == [[1, 2], [4, 5]]
    assert (state["one"], state["empty"].shape, "none" in state) == (2, (0,), False)
    with pytest.raises(ValueError, match="that does not fit into its storage of 6 numbers"):
        in_this_process(published(bare(w=Rebuilt(NUMBERS._typed_storage(), *view))))


def test_weights_that_are_none_are_refused(published):
    with pytest.raises(ValueError, match="its w is no tensor but a list"):
        in_this_process(published(bare(w=[1.0])))
    with pytest.raises(ValueError, match="its SongUNet holds no weights"):
        in_this_process(published(bare()))


def test_the_reading_process_takes_no_more_than_the_file_can_need(tmp_path, published):
    claim = b"\x80\x05" + b"\x96" + (SPARE_MEMORY + 2**20).to_bytes(8, "little")  # BYTEARRAY8 of that length
    (tmp_path / "x.pkl").write_bytes(claim)
    with pytest.raises(UserError, match="is no network of EDM's: MemoryError"):
        read_pickle(tmp_path / "x.pkl")
    shared = torch.zeros(2**18)
    path = published(bare(**{f"w{number}": shared for number in range(SPARE_DISK // 2**20 + 4)}))
    with pytest.raises(UserError, match=r"is no network of EDM's: .*File too large"):
        read_pickle(path)
