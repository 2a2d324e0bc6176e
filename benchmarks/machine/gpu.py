"""What an accelerator gives, in one command of a few minutes: agreement with the CPU, repeats, speed, memory, waits."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine.memory import kept
from benchmarks.machine.overhead import finish, measured, over_bare_calls, seconds
from benchmarks.tools.building import built_from
from benchmarks.tools.recipe import fill_by_recipe
from datamodules.array import load_arrays
from posterior.errors import UserError
from posterior.files import write_whole
from posterior.images import from_pixels
from posterior.measurement import Measurement
from posterior.module import MIXED
from posterior.noise import GaussianNoise
from posterior.operators import SuperResolution
from posterior.priors import DiffusionPrior, Prior, UNet
from posterior.random import Streams
from posterior.samplers import (
    DPS,
    AnnealedLangevin,
    KineticLangevin,
    PublishedAnnealing,
    RespacedSigmas,
    ReverseDiffusion,
    Sampler,
)

ROOT = Path(__file__).parents[2]
DEMOS = ("dps", "langevin", "kinetic")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits."""
TESTS = "tests/test_gpu.py"
"""All that are marked gpu: others import packages that this command does without."""
PRECISIONS = ("float32", "TF32", "bf16-mixed", "16-mixed")


@dataclass
class Bench:
    """Where a part runs, in which size, and where its rows go.

    Args:
        smoke: tiny networks and few steps, on any device.
        file: rows so far are written here after each, so that a part that is stopped leaves them.
    """

    smoke: bool
    file: Path | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def put(self, **row: Any) -> None:
        """Add a row."""
        self.rows.append(row)
        if self.file is not None:
            write_whole(self.file, json.dumps(self.rows).encode())

    def network(self, **settings: Any) -> UNet:
        """The FFHQ network (93.6 M parameters) with recipe weights, on the device."""
        if self.smoke:
            network = UNet(16, num_channels=32, channel_mult=(1, 1), attention_resolutions=(8,), **settings)
        else:
            network = UNet(256, num_channels=128, attention_resolutions=(16,), num_head_channels=64, **settings)
        fill_by_recipe(network)
        return network.requires_grad_(False).eval().to(self.device)

    def images(self, count: int) -> Tensor:
        """Standard normal numbers of the network's size, on the device."""
        side = 16 if self.smoke else 256
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(self.device)

    def demo(self) -> tuple[Prior, dict[str, Sampler]]:
        """The demo's prior, on the CPU, and its samplers; in small, ones like them."""
        if not self.smoke:
            folder = ROOT / "configs" / "demo"
            files = {name: folder / f"super_resolution_{name}.yaml" for name in DEMOS}
            prior = built_from(files["dps"], "model", Prior, "prior")
            return prior, {name: built_from(file, "model", Sampler, "sampler") for name, file in files.items()}
        network = UNet(32, num_channels=32, channel_mult=(1, 1), attention_resolutions=())
        fill_by_recipe(network)
        reverse = ReverseDiffusion(RespacedSigmas(3))
        annealing = PublishedAnnealing(growth=0.03, num_levels=4)
        return DiffusionPrior(network), {
            "dps": DPS(RespacedSigmas(3)),
            "langevin": AnnealedLangevin(1e-3, reverse=reverse, schedule=annealing, score_sigma=0.1),
            "kinetic": KineticLangevin(reverse=reverse, schedule=annealing, score_sigma=0.1),
        }

    def faces(self, count: int) -> tuple[list[str], Measurement]:
        """Held-out toon faces, 4x super-resolution as in the demo; ids and measurement, on the CPU."""
        arrays = load_arrays(ROOT / "datamodules" / "toon_faces32.npz")
        truth, ids = from_pixels(arrays["images"][:count]), [str(name) for name in arrays["ids"][:count]]
        operator = SuperResolution(4, "average").realise(tuple(truth.shape[1:]))
        noise = Streams(0, ids, samples=[-1]).randn("noise", operator.measurement_shape)
        return ids, Measurement.simulate(truth, operator, GaussianNoise(0.05), noise)


def precision(name: str) -> torch.dtype | None:
    """Set how float32 products are computed; the dtype of autocast, if there is one."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "TF32"
    return MIXED.get(name)


def sampled(sampler: Sampler, prior: Prior, ids: list[str], measurement: Measurement, device: torch.device) -> Tensor:
    """Samples of one chain an image, on the CPU."""
    rng = Streams(0, ids, device=device)
    with torch.no_grad():
        return sampler(prior.to(device), measurement.to(device), rng).cpu()


def agreement(bench: Bench) -> None:
    """CPU against the device: the demo's samples from the same noise, float32 without TF32."""
    precision("float32")
    prior, samplers = bench.demo()
    ids, measurement = bench.faces(2 if bench.smoke else 4)
    for name, sampler in samplers.items():
        there = sampled(sampler, prior, ids, measurement, bench.device)
        here = sampled(sampler, prior, ids, measurement, torch.device("cpu"))
        apart = (there - here).abs().flatten(1)
        bench.put(
            sampler=name,
            largest=float(apart.max()),
            median_image=float(apart.amax(dim=1).median()),
            rms=float(apart.square().mean().sqrt()),
        )


def repeats(bench: Bench) -> None:
    """Bit for bit again with deterministic algorithms; how far the same image is apart in another batch."""
    precision("float32")
    torch.use_deterministic_algorithms(True)
    try:
        prior, samplers = bench.demo()
        sizes = (1, 2) if bench.smoke else (1, 3, 16)
        ids, measurement = bench.faces(sizes[-1])
        for name, sampler in samplers.items():
            try:
                whole = sampled(sampler, prior, ids, measurement, bench.device)
            except RuntimeError as error:  # something in it has no deterministic form on this device
                bench.put(sampler=name, error=str(error).splitlines()[0])
                continue
            again = sampled(sampler, prior, ids, measurement, bench.device)
            apart = {}
            for size in sizes[:-1]:
                part = sampled(sampler, prior, ids[:size], measurement.rows(torch.arange(size)), bench.device)
                apart[f"batch_{size}"] = float((part - whole[:size]).abs().max())
            bench.put(sampler=name, batch=sizes[-1], same_bits=bool(torch.equal(whole, again)), **apart)
    finally:
        torch.use_deterministic_algorithms(False)


def roof(device: torch.device, smoke: bool) -> float:
    """Products and sums a second of a large bfloat16 matrix product."""
    side = 256 if smoke else 8192
    a = torch.randn(side, side, device=device).bfloat16()
    a @ a
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(5 if smoke else 20))


def rate(function: Callable[[], object], images: int, device: torch.device, least: float) -> float:
    """Images a second: median over calls for at least so many seconds, and at least 3 calls."""
    function(), function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < least and len(times) < 50):
        times.append(seconds(function, device))
    return images / statistics.median(times)


def operations(network: UNet, x: Tensor) -> float:
    """Of a forward pass of one image, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x[:1], torch.full((1,), 500.0, device=x.device))
    return float(counter.get_total_flops())


def speed(bench: Bench) -> None:
    """Images a second of the FFHQ network by precision and memory format: the bare network, and through the prior."""
    network, device, least = bench.network(), bench.device, 0.05 if bench.smoke else 0.5
    batches = (2,) if bench.smoke else (1, 16)
    count, top = operations(network, bench.images(1)), roof(device, bench.smoke)
    bench.put(what="bf16 matrix product", tflops=top / 1e12, network_gflop=count / 1e9)
    for memory_format in ("contiguous", "channels_last"):
        prior = DiffusionPrior(network, memory_format=memory_format)
        for name in PRECISIONS:
            if name == "16-mixed" and device.type == "cpu":
                continue
            prior.network_dtype = precision(name)
            for batch in batches:
                x, t = bench.images(batch), torch.full((batch,), 500.0, device=device)
                z = x.contiguous(memory_format=torch.channels_last) if memory_format == "channels_last" else x

                def bare(z: Tensor = z, t: Tensor = t, prior: DiffusionPrior = prior) -> None:
                    with torch.no_grad(), prior.autocast(z):
                        prior.network(z, t)

                def ours(x: Tensor = x, prior: DiffusionPrior = prior) -> None:
                    with torch.no_grad():
                        prior.denoise(x, 1.0)

                plain, through = (rate(function, batch, device, least) for function in (bare, ours))
                bench.put(
                    what=f"{name}, {memory_format}, batch {batch}",
                    images_per_second=through,
                    bare=plain,
                    share_of_roof=through * count / top,
                )


def compiled(bench: Bench) -> None:
    """The same compiled, in bfloat16: seconds of the first call, images a second, and how far its output moves."""
    device, batch = bench.device, 2 if bench.smoke else 16
    network, x = bench.network(), bench.images(batch)
    plain = DiffusionPrior(network)
    count, top = operations(network, x), roof(device, bench.smoke)
    precision("bf16-mixed")
    for mode in ("default", "reduce-overhead"):
        prior = DiffusionPrior(network, compile=mode)
        prior.network_dtype = plain.network_dtype = torch.bfloat16
        with torch.no_grad():
            first = seconds(lambda prior=prior: prior.denoise(x, 1.0), device)  # type: ignore[misc]
            apart = (prior.denoise(x, 1.0) - plain.denoise(x, 1.0)).abs().max() / plain.denoise(x, 1.0).abs().max()
            through = rate(lambda prior=prior: prior.denoise(x, 1.0), batch, device, 0.5)  # type: ignore[misc]
        bench.put(
            what=f"bf16-mixed, compiled ({mode}), batch {batch}",
            first_call_seconds=first,
            images_per_second=through,
            share_of_roof=through * count / top,
            relative_difference=float(apart),
            fell_back=prior.compile_mode is None,
        )


def beyond_network(bench: Bench) -> None:
    """Each sampler's time over that of as many bare network calls; the goal is 3 %."""
    prior = DiffusionPrior(bench.network())
    for name in ("bf16-mixed",) if bench.smoke else ("bf16-mixed", "TF32"):
        prior.network_dtype = precision(name)
        for batch in (1,) if bench.smoke else (1, 8):
            found = over_bare_calls(prior, bench.images(batch).clamp(-1, 1), 3 if bench.smoke else 20, 3)
            for sampler, (ratio, bare_call) in found.items():
                bench.put(
                    sampler=sampler,
                    precision=name,
                    batch=batch,
                    overhead_percent=100 * (ratio - 1),
                    bare_call_ms=1000 * bare_call,
                )


def memory_of_dps(bench: Bench) -> None:
    """MiB an image that DPS takes, with and without ``checkpoint_activations``: from peaks at two batch sizes."""
    precision("float32")
    for checkpointed in (False, True):
        network = bench.network(checkpoint_activations=checkpointed)
        if bench.device.type == "cpu":  # what autograd keeps
            per_image, peak = kept(network, network.image_size, checkpointed), None
        else:
            prior, peaks = DiffusionPrior(network), []
            for batch in (2, 6):
                ids, measurement = measured(bench.images(batch).clamp(-1, 1))
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                DPS(RespacedSigmas(2))(prior, measurement, Streams(0, ids, device=bench.device))
                peaks.append(torch.cuda.max_memory_allocated() / 2**20)
            per_image, peak = (peaks[1] - peaks[0]) / 4, peaks[1]
        bench.put(checkpoint_activations=checkpointed, mib_per_image=per_image, peak_mib_of_6=peak)


def waits_of(bench: Bench) -> None:
    """Host waits a step, seen by the profiler: those of a run of 2 n steps less those of one of n, over n."""
    prior, _ = bench.demo()
    prior.to(bench.device)
    ids, measurement = bench.faces(2)
    measurement = measurement.to(bench.device)
    few = 3 if bench.smoke else 10
    makers: dict[str, Callable[[int], Sampler]] = {
        "reverse diffusion": lambda n: ReverseDiffusion(RespacedSigmas(n)),
        "DPS": lambda n: DPS(RespacedSigmas(n)),
        "annealed Langevin": lambda n: AnnealedLangevin(
            1e-3, reverse=ReverseDiffusion(RespacedSigmas(3)), schedule=PublishedAnnealing(num_levels=n + 1)
        ),
        "kinetic Langevin": lambda n: KineticLangevin(
            reverse=ReverseDiffusion(RespacedSigmas(3)), schedule=PublishedAnnealing(num_levels=n + 1), score_sigma=0.1
        ),
    }
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])
    for name, make in makers.items():
        counts = []
        for steps in (few, few, 2 * few):  # the first warms up
            with profile(activities=activities) as profiler, torch.no_grad():
                make(steps)(prior, measurement, Streams(0, ids, device=bench.device))
            finish(bench.device)
            counts.append(sum(event.count for event in profiler.key_averages() if event.key in WAITS))
        bench.put(sampler=name, waits_per_step=(counts[2] - counts[1]) / few, waits_of_a_run=counts[1])


def gpu_tests(bench: Bench) -> None:
    """`pytest -m gpu`."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    bench.put(exit_status=done.returncode, last_line=lines[-1] if lines else done.stderr.strip()[-200:])
    if done.returncode not in (0, 5):  # 5: none was there
        bench.put(output="\n".join(lines[-40:]))


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "agreement": (agreement, 60),
    "repeats": (repeats, 60),
    "speed": (speed, 75),
    "overhead": (beyond_network, 75),
    "memory": (memory_of_dps, 40),
    "waits": (waits_of, 40),
    "tests": (gpu_tests, 90),
    "compiled": (compiled, 180),
}
"""Name -> what it does, and its own time limit in seconds; the command's limit comes on top."""


def run_part(name: str, smoke: bool, file: Path | None = None) -> list[dict[str, Any]]:
    """The rows of one part, in this process.

    Raises:
        UserError: if there is no such part.
    """
    if name not in PARTS:
        raise UserError(f"gpu: there is no part {name!r}, but {', '.join(PARTS)}")
    bench = Bench(smoke, file)
    PARTS[name][0](bench)
    return bench.rows


def card() -> str:
    """The device's name."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


@contextmanager
def own_process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, none of which outlives the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def launch(name: str, smoke: bool, folder: Path, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own: its state, seconds and rows, whatever happens to it."""
    rows, log = folder / f"{name}.json", folder / f"{name}.log"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks", "gpu", "--part", name, "--smoke", str(smoke).lower()]
    environment = os.environ | {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic algorithms ask for
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    start = time.monotonic()
    with own_process([*command, "--output", str(folder.parent)], log, environment) as process:
        try:
            status = process.wait(timeout=limit)
            state = "done" if status == 0 else f"failed: {last_line(log)}"
        except subprocess.TimeoutExpired:
            state = f"stopped after {limit:.3g} s"
    found = json.loads(rows.read_text(encoding="utf-8")) if rows.is_file() else []
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "rows": found}


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


def gpu(
    output: Path = Path("results/gpu"), part: str | None = None, smoke: bool = False, minutes: float = 6.0
) -> dict[str, Any]:
    """Measure what an accelerator gives; writes gpu.json after each part, and gpu.md at the end.

    Parts: agreement with the CPU, repeats, speed, overhead, memory, waits, tests, compiled. Each runs in a process of
    its own with its own time limit. The same command goes on with what is missing; without a GPU it runs on the CPU,
    which makes sense for the small version alone.

    Args:
        output: folder of the results.
        part: run this part alone, here, without a time limit; its rows go to <output>/parts/<part>.json.
        smoke: tiny networks and few steps.
        minutes: for all parts together.

    Raises:
        UserError: if there is no such part, or no GPU for the full version.
    """
    output = output.absolute()
    folder = output / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    if part is not None:
        return {part: run_part(part, smoke, folder / f"{part}.json")}
    if not smoke and not torch.cuda.is_available():
        raise UserError("gpu: no CUDA device is here: --smoke true runs the small version on the CPU")
    versions = {"card": card(), "torch": torch.__version__, "cuda": torch.version.cuda, "smoke": smoke}
    file = output / "gpu.json"
    results: dict[str, Any] = versions | {"parts": {}}
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        if {key: before.get(key) for key in versions} == versions:
            results = before
    deadline = time.monotonic() + 60 * minutes
    for name, (_, limit) in PARTS.items():
        if results["parts"].get(name, {}).get("state") == "done":
            continue
        left = deadline - time.monotonic()
        if left < 5:
            results["parts"].setdefault(name, {"state": "no time was left", "seconds": 0, "rows": []})
        else:
            results["parts"][name] = launch(name, smoke, folder, min(limit, left))
        write_whole(file, json.dumps(results, indent=1).encode())
        print(f"{name}: {results['parts'][name]['state']}, {results['parts'][name]['seconds']} s", flush=True)
    write_whole(output / "gpu.md", report(results).encode())
    print(f"report: {output / 'gpu.md'}")
    return results


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def report(results: dict[str, Any]) -> str:
    """All parts as tables."""
    lines = [f"# {results['card']}", "", f"PyTorch {results['torch']}, CUDA {results['cuda']}."]
    if results["smoke"]:
        lines += ["", "The small version: these numbers only say that it runs."]
    for name, (function, _) in PARTS.items():
        entry = results["parts"].get(name, {"state": "not run", "seconds": 0, "rows": []})
        lines += ["", f"## {name}", "", (function.__doc__ or "").strip(), ""]
        lines += [f"{entry['state']}, {entry['seconds']} s"]
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in entry["rows"]:
            groups.setdefault(tuple(row), []).append(row)
        for columns, rows in groups.items():
            lines += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
            lines += [f"| {' | '.join(shown(row[column]) for column in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"
