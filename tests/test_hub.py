"""Priors by their names on the hub: named like a file of settings, read from the cache, fetched by one command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from benchmarks.__main__ import run
from benchmarks.tools.building import built, settings_of
from posterior import UserError
from posterior.hub import hub_settings, needed
from posterior.priors import DiffusersPrior, Prior
from posterior.settings import conformed, file_digests, read_command_line, read_settings, with_files_read

diffusers = pytest.importorskip("diffusers")
NAME, COMMIT = "google/small", "0123456789012345678901234567890123456789"
PRIOR = {"class_path": "posterior.priors.DiffusersPrior", "init_args": {"folder": f"hf://{NAME}"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as its library saves it."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    place = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(place)
    return place


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filled(cache, folder):
    """The cache with the pipeline in it."""
    place = cache / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)


def prior_of(settings):
    return conformed({"prior": settings}, {"prior": Prior})["prior"]


def test_a_name_stands_where_a_file_of_settings_may(tmp_path):
    """On a command line, with settings of the class behind it; in a file; under ``from``; for commands of functions."""
    command = ["--prior", f"hf://{NAME}", "--prior.label", "3"]
    found = prior_of(read_command_line(command)[0]["prior"])["init_args"]
    assert (found["folder"], found["label"]) == (f"hf://{NAME}", 3)
    for text in (f"prior: hf://{NAME}", f"prior: {{from: hf://{NAME}}}"):
        (tmp_path / "run.yaml").write_text(text)
        assert prior_of(read_settings(tmp_path / "run.yaml")["prior"]) == PRIOR
    (tmp_path / "label.yaml").write_text(f"from: hf://{NAME}@v1\ninit_args: {{label: 3}}")
    found = prior_of(read_settings(tmp_path / "label.yaml"))["init_args"]
    assert (found["folder"], found["label"]) == (f"hf://{NAME}@v1", 3)

    def of_function(prior: Prior) -> None: ...

    assert json.loads(with_files_read(["--prior", f"hf://{NAME}"], of_function)[1]) == PRIOR
    assert prior_of(settings_of(f"hf://{NAME}", "--prior")) == PRIOR  # calibrate's


def test_where_a_path_or_text_is_wanted_it_stays_what_it_is(tmp_path):
    def takes(folder: Path, name: str = "") -> None: ...

    (tmp_path / "run.yaml").write_text(f"{{folder: hf://{NAME}, name: hf://{NAME}}}")
    command = read_command_line(["--folder", f"hf://{NAME}", "--name", f"hf://{NAME}"])[0]
    for settings in (read_settings(tmp_path / "run.yaml"), command):
        found = conformed({"model": settings}, {"model": takes})["model"]
        assert (str(found["folder"]), found["name"]) == (f"hf://{NAME}", f"hf://{NAME}")
    assert file_digests(read_settings(tmp_path / "run.yaml")) == {}


def test_the_prior_of_a_name_is_that_of_the_cache(cache, folder):
    filled(cache, folder)
    (prior,) = built({"prior": PRIOR}, {"prior": Prior}, "here")
    assert prior.fingerprint() == DiffusersPrior(folder).fingerprint()
    with pytest.raises(UserError, match=r"hf://google/large is not in the cache .*'posterior-sampling fetch hf://goog"):
        built({"prior": hub_settings(Path("hf://google/large"))}, {"prior": Prior}, "here")


def test_only_what_is_read_is_needed():
    whole = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
    more = ["README.md", "model_index.json", "unet/diffusion_pytorch_model.bin", "images/0.png"]
    assert sorted(needed(whole + more)) == sorted(whole)
    for place in ("vae", "vqvae"):  # a latent pipeline's autoencoder
        latent = [*whole, f"{place}/config.json", f"{place}/diffusion_pytorch_model.bin"]
        assert sorted(needed(latent + more)) == sorted(latent)
        with pytest.raises(UserError, match=rf"it has no {place}/diffusion_pytorch_model.safetensors"):
            needed([*whole, f"{place}/config.json"])
    with pytest.raises(UserError, match=r"it has text_encoder/config\.json: its network is told texts"):
        needed([*whole, *latent, "text_encoder/config.json"])
    flat = ["config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"]
    assert sorted(needed([*flat, "README.md"])) == sorted(flat)
    for missing in flat:
        with pytest.raises(UserError, match=r"it has no \w+\.\w+: it is no UNet2DModel with its scheduler"):
            needed([name for name in flat if name != missing])


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub on this machine that has one repository, and what it is asked for."""
    asked: list[str] = []
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = self.path.partition(f"/{NAME}/resolve/{COMMIT}/")[2]
            content, kind = b"{}", "application/json"
            status = 200
            if name in files:
                asked.append(name)
                content, kind = files[name].read_bytes(), "application/octet-stream"
            elif self.path.startswith(f"/api/models/{NAME}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": "0"}
                    for name, path in files.items()
                ]
                content = json.dumps(entries).encode()
            elif self.path.startswith(f"/api/models/{NAME}"):
                told = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
                content = json.dumps(told).encode()
            else:
                status = 404
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is said."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_fetch_downloads_what_a_prior_needs_and_no_more(hub, cache, folder):
    """In a process of its own: the hub's address is read when its library is imported."""
    (endpoint, asked), expected = hub, DiffusersPrior(folder).fingerprint()
    command = [sys.executable, "-m", "benchmarks", "fetch", NAME]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"3 files, 0.1 MB. Name it --model.prior hf://{NAME}\n" in done.stdout
    parts = {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"}
    assert set(asked) == parts
    assert DiffusersPrior(Path(f"hf://{NAME}")).fingerprint() == expected


@pytest.mark.parametrize(
    ("at", "name", "told"),
    [
        ("hub", "google/nothing", "error: fetch: hf://google/nothing cannot be fetched: "),
        ("nowhere", f"hf://{NAME}", f"error: fetch: hf://{NAME} cannot be fetched: "),
        ("nowhere", "small", "error: hf://small: a name of the hub has the form hf://owner/name"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(hub, cache, capsys, monkeypatch, at, name, told):
    endpoint = hub[0] if at == "hub" else "http://127.0.0.1:9"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    with pytest.raises(SystemExit, match="2"):
        run("fetch", [name])
    found = capsys.readouterr().err
    assert found.startswith(told)
    assert found.count("\n") == 1
    assert not list(cache.rglob("config.json"))
