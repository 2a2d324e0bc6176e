"""What the reference arrays hold, for a picture of our own: for clones that have not got them.

Three of the reference's files contain FFHQ pixels and cannot be committed. Each is derived here from the definitions of
its quantities (float64, numpy and scipy, nothing of the package but networks that golden arrays hold to the reference);
tests/test_stand_in.py derives the reference's own numbers from its own inputs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import scipy.ndimage
import scipy.signal
import torch
import torch.nn.functional as F
import torchvision

from benchmarks.tools.recipe import fill_by_recipe
from posterior.priors import UNet

Arrays = dict[str, np.ndarray]

SIDE = 256
SIGMA_Y = 0.05
STATES = {"full": (0, 1, 250, 600, 999), "r100": (0, 1, 40, 99), "ddim50": (0, 1, 20, 49)}
"""Chain -> the indices at which single steps are taken."""
RESPACING = {"full": "1000", "r100": "100", "ddim50": "ddim50"}
GUIDED = [
    ("gaussian", 100, ""),
    ("inpaint", 100, ""),
    ("sr4", 100, ""),
    ("phase", 100, ""),
    ("gaussian", 500, ""),
    ("gaussian", 500, "noclip"),
    ("inpaint", 0, ""),
    ("sr4", 100, "ddim"),
    ("gaussian", 100, "poisson"),
]
"""Operator, index and what is special, of each guided step."""


def picture(rng: np.random.RandomState, side: int) -> np.ndarray:
    """(3, side, side) in [-1, 1]: shapes as large as the picture, edges, and some grain."""
    coarse = np.stack([scipy.ndimage.zoom(rng.randn(6, 6), side / 6, order=3) for _ in range(3)])
    edges = np.sign(scipy.ndimage.zoom(rng.randn(5, 5), side / 5, order=1))
    return np.clip(0.5 * coarse + 0.2 * edges + 0.05 * rng.randn(3, side, side), -1, 1).astype(np.float32)


# operators.npz


def taps(size: int, scale: int) -> np.ndarray:
    """Antialiased cubic resizing along one side as a matrix, (size / scale, size): edges repeat when reflected."""
    matrix = np.zeros((size // scale, size))
    for row in range(size // scale):
        centre = (row + 0.5) * scale - 0.5
        index = np.arange(int(np.floor(centre - 2 * scale)), int(np.ceil(centre + 2 * scale)) + 1)
        x = np.abs(index - centre) / scale
        weight = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x < 2)
        index = np.where(index < 0, -1 - index, np.where(index >= size, 2 * size - 1 - index, index))
        np.add.at(matrix[row], index, weight / weight.sum())
    return matrix


def gaussian_kernel(size: int, std: float) -> np.ndarray:
    """(size, size): a point, blurred."""
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1
    return scipy.ndimage.gaussian_filter(point, std)


def blur(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation of (C, H, W) after reflection without the edge."""
    reach = len(kernel) // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    return np.stack([scipy.signal.correlate(channel, kernel, mode="valid", method="fft") for channel in padded])


def transposed_blur(v: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The transpose of `blur`: every padded pixel goes back to where it was copied from."""
    reach = len(kernel) // 2
    out = np.stack([scipy.signal.convolve(channel, kernel, mode="full", method="fft") for channel in v.astype(float)])
    for axis in (1, 2):
        source = np.pad(np.arange(v.shape[axis]), reach, mode="reflect")
        folded = np.zeros([v.shape[a] if a == axis else out.shape[a] for a in range(3)])
        np.add.at(folded.swapaxes(0, axis), source, out.swapaxes(0, axis))
        out = folded
    return out


def operator_arrays(given: Arrays) -> Arrays:
    """What the operators make of a picture ``x``, masks, a kernel, photon counts and vectors to transpose."""
    x, side = given["x"], given["x"].shape[-1]
    kernels = {"gaussian": gaussian_kernel(61, 3.0), "motion": given["motion_kernel"].astype(np.float64)}
    found = {}
    for scale in (2, 4, 8):
        matrix = taps(side, scale)
        found[f"sr{scale}_y"] = matrix @ x @ matrix.T
    vector = np.zeros_like(x)
    vector[:, :64, :64] = given["adjoint_blur_in_crop"]
    for name, kernel in kernels.items():
        found[f"{name}_y"] = blur(x, kernel)
        found[f"adjoint_{name}_out_crop"] = transposed_blur(vector, kernel)[:, :96, :96]
    for kind in ("random", "box"):
        found[f"inpaint_{kind}_y"] = given[f"mask_{kind}"] * x
    padded = np.pad(x, ((0, 0), (side // 4, side // 4), (side // 4, side // 4)))
    centred = np.fft.ifftshift(padded, axes=(1, 2))
    found["phase_y"] = np.abs(np.fft.fftshift(np.fft.fft2(centred, norm="ortho"), axes=(1, 2)))
    found["adjoint_sr4_out"] = taps(side, 4).T @ given["adjoint_sr4_in"] @ taps(side, 4)
    for name, rate in (("1p0", 1.0), ("0p1", 0.1)):
        counts = given[f"noise_poisson_counts_rate{name}"]
        found[f"noise_poisson_y_rate{name}"] = np.clip(2 * counts / (255 * rate) - 1, -1, 1)
    return {name: value.astype(np.float32) for name, value in found.items()}


def operator_inputs(kernel: np.ndarray) -> Arrays:
    """What `operator_arrays` is given here."""
    rng = np.random.RandomState(0)
    x = picture(rng, SIDE)
    random, box = np.ones((1, SIDE, SIDE), np.uint8), np.ones((1, SIDE, SIDE), np.uint8)
    random.reshape(-1)[rng.permutation(SIDE**2)[: SIDE**2 // 3]] = 0
    box[:, 83:211, 100:228] = 0
    given = {
        "x": x,
        "motion_kernel": (kernel / kernel.sum()).astype(np.float32),
        "mask_random": random,
        "mask_box": box,
    }
    given |= {name: rng.randn(3, 64, 64).astype(np.float32) for name in ("adjoint_sr4_in", "adjoint_blur_in_crop")}
    photons = np.clip((1.3 * x[:, :64, :64] + 1) / 2, 0, 1)
    for name, rate in (("1p0", 1.0), ("0p1", 0.1)):
        given[f"noise_poisson_counts_rate{name}"] = rng.poisson(255 * rate * photons)
    return given


# sampler_steps.npz


def chain(name: str) -> np.ndarray:
    """Model timesteps of a chain, rising."""
    if name == "ddim50":
        return np.arange(0, 1000, 20)
    return np.round(np.arange(100) * 999 / 99).astype(int) if name == "r100" else np.arange(1000)


def kept(timestep: int) -> float:
    """abar of the linear schedule; 1 before its first step."""
    return float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: timestep + 1]))


class Levels:
    """Constants of one step of a chain: abar here and one index lower, beta, and variances."""

    def __init__(self, name: str, index: int) -> None:
        steps = [-1, *chain(name)]
        self.abar, self.abar_next = kept(steps[index + 1]), kept(steps[index])
        self.beta = 1 - self.abar / self.abar_next
        self.small = self.beta * (1 - self.abar_next) / (1 - self.abar)
        lowest = Levels(name, 1).small if index == 0 else self.small  # the first one is 0, and takes the next one's log
        self.log_range = np.log(lowest), np.log(self.beta)

    def mean(self, x0: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Of the ancestral step."""
        on_x0 = self.beta * self.abar_next**0.5 / (1 - self.abar)
        return on_x0 * x0 + (1 - self.abar_next) * (1 - self.beta) ** 0.5 / (1 - self.abar) * x

    def log_variance(self, v: np.ndarray) -> np.ndarray:
        """That the network has learned."""
        low, high = self.log_range
        return (v + 1) / 2 * high + (1 - v) / 2 * low

    def ddim(self, x0: np.ndarray, epsilon: np.ndarray, noise: np.ndarray, eta: float) -> np.ndarray:
        """One step of DDIM."""
        ratio = (1 - self.abar_next) / (1 - self.abar) * (1 - self.abar / self.abar_next)
        sigma = eta * ratio**0.5
        return self.abar_next**0.5 * x0 + (1 - self.abar_next - sigma**2) ** 0.5 * epsilon + sigma * noise


def step_arrays(given: Arrays) -> Arrays:
    """Single steps without guidance, of states and one output of a network."""
    epsilon, v, noise = (
        value.astype(np.float64) for value in (*np.split(given["A_model_output"], 2, 1), given["A_noise"])
    )
    found = {}
    for case in json.loads(str(given["A_cases_json"])):
        key, index = case["key"], case["index"]
        name = key.split("_")[1]
        levels, x = Levels(name, index), given[f"A_{name}_{index}_x_t"].astype(np.float64)
        x0 = (x - (1 - levels.abar) ** 0.5 * epsilon) / levels.abar**0.5
        x0 = np.clip(x0, -1, 1) if case["clip"] else x0
        again = (x / levels.abar**0.5 - x0) / (1 / levels.abar - 1) ** 0.5
        mean, log_variance = levels.mean(x0, x), levels.log_variance(v)
        found |= {f"{key}_pred_x0": x0, f"{key}_mean": mean, f"{key}_log_variance": log_variance}
        found[f"{key}_ddpm"] = mean + (np.exp(log_variance / 2) * noise if index else 0)
        for eta in (0, 1):
            found[f"{key}_ddim_eta{eta}"] = levels.ddim(x0, again, noise if index else 0 * noise, eta)
    levels = Levels("full", 250)
    for kind, variance in (("small", levels.small), ("large", levels.beta)):
        found[f"A_full_250_clip_fixed_{kind}_log_variance"] = np.full_like(noise, np.log(variance))
    return {name: value.astype(np.float32) for name, value in found.items()}


def measure(operator: str, x: torch.Tensor, given: Arrays) -> torch.Tensor:
    """A x for pictures (B, 3, 32, 32)."""
    if operator == "inpaint":
        return torch.from_numpy(given["B_mask"]) * x
    if operator == "sr4":
        matrix = torch.from_numpy(taps(32, 4)).to(x)
        return matrix @ x @ matrix.T
    if operator == "phase":
        centred = torch.fft.ifftshift(F.pad(x, (8, 8, 8, 8)), dim=(-2, -1))
        return torch.fft.fftshift(torch.fft.fft2(centred, norm="ortho"), dim=(-2, -1)).abs()
    kernel = torch.from_numpy(gaussian_kernel(9, 1.5)).to(x).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), kernel, groups=3)


def guided_network() -> UNet:
    """The small network of the reference."""
    network = UNet(32, 32, 1, [1, 2, 2], True, [16, 8], num_head_channels=16)
    fill_by_recipe(network)
    return network.requires_grad_(False)


def guided_arrays(given: Arrays) -> Arrays:
    """Guided steps: denoised image, misfit, its gradient through the network, and the state after it."""
    network, noise, found = guided_network(), given["B_noise"].astype(np.float64), {}

    def denoised(x: torch.Tensor, index: int, clip: bool) -> tuple[torch.Tensor, torch.Tensor]:
        abar = kept(index)
        epsilon, v = network(x, torch.full((len(x),), float(index))).chunk(2, dim=1)
        x0 = (x - (1 - abar) ** 0.5 * epsilon) / abar**0.5
        return x0.clamp(-1, 1) if clip else x0, v

    for case in json.loads(str(given["B_cases_json"])):
        key, index, levels = case["key"], case["index"], Levels("full", case["index"])
        x, y = torch.from_numpy(given[f"{key}_x_prev"]).requires_grad_(), torch.from_numpy(given[f"{key}_y"])
        x0, v = denoised(x, index, case["clip"])
        misfit = (y - measure(case["operator"], x0, given)).norm()
        if case["distance"] == "poisson":
            misfit = (misfit / y.abs()).mean()
        (grad,) = torch.autograd.grad(misfit, x)
        state, x0, v, grad = (value.detach().double().numpy() for value in (x, x0, v, grad))
        if case["sampler"] == "ddim":
            epsilon = (state / levels.abar**0.5 - x0) / (1 / levels.abar - 1) ** 0.5
            unguided = levels.ddim(x0, epsilon, noise, 0.0)
        else:
            unguided = levels.mean(x0, state) + (np.exp(levels.log_variance(v) / 2) * noise if index else 0)
        found |= {f"{key}_x0_hat": x0, f"{key}_norm": misfit.detach().double().numpy(), f"{key}_grad": grad}
        found[f"{key}_x_next"] = unguided - case["scale"] * grad
    x, y = torch.from_numpy(given["C_x_prev"]).requires_grad_(), torch.from_numpy(given["C_y"])
    joint = (y - measure("gaussian", denoised(x, 100, True)[0], given)).norm()
    (grad,) = torch.autograd.grad(joint, x)
    found |= {"C_batch_norm": joint.detach().numpy(), "C_batch_grad": grad.numpy()}
    return {name: np.asarray(value, dtype=np.float32) for name, value in found.items()}


def step_inputs() -> Arrays:
    """What `step_arrays` and `guided_arrays` are given here."""
    rng = np.random.RandomState(1)

    def normal(*shape: int) -> np.ndarray:
        return rng.randn(*shape).astype(np.float32)

    def noisy(abar: float, rows: int = 1) -> np.ndarray:
        return (abar**0.5 * faces[:rows] + (1 - abar) ** 0.5 * normal(rows, 3, 32, 32)).astype(np.float32)

    faces = np.stack([picture(rng, 32) for _ in range(2)])
    model_output = np.concatenate([normal(1, 3, 32, 32), 0.5 * normal(1, 3, 32, 32)], axis=1)
    given: Arrays = {"A_model_output": model_output, "A_noise": normal(1, 3, 32, 32)}
    single = []
    for name, indices in STATES.items():
        for index in indices:
            timestep = int(chain(name)[index])
            given[f"A_{name}_{index}_x_t"] = noisy(kept(timestep))
            for clip in (True, False):
                case = {"key": f"A_{name}_{index}_{'clip' if clip else 'noclip'}", "index": index, "clip": clip}
                single.append(case | {"model_timestep": timestep, "respacing": RESPACING[name]})
    mask = np.ones(32 * 32, np.float32)
    mask[rng.permutation(32 * 32)[:500]] = 0
    given |= {"B_noise": normal(1, 3, 32, 32), "B_mask": mask.reshape(1, 1, 32, 32)}
    guided = []
    for operator, index, special in GUIDED:
        key = "_".join(part for part in ("B", operator, str(index), special) if part)
        case = {"key": key, "operator": operator, "index": index, "clip": special != "noclip", "scale": 0.3}
        law = "poisson" if special == "poisson" else "frobenius"
        guided.append(case | {"sampler": "ddim" if special == "ddim" else "ddpm", "distance": law})
        clean = measure(operator, torch.from_numpy(faces[:1]), given).numpy()
        given |= {f"{key}_x_prev": noisy(kept(index)), f"{key}_y": clean + SIGMA_Y * normal(*clean.shape)}
    clean = measure("gaussian", torch.from_numpy(faces), given).numpy()
    given |= {"C_x_prev": noisy(kept(100), 2), "C_y": clean + SIGMA_Y * normal(*clean.shape)}
    return given | {"A_cases_json": np.array(json.dumps(single)), "B_cases_json": np.array(json.dumps(guided))}


def write_arrays(folder: Path, kernel: np.ndarray) -> None:
    """Write operators.npz and sampler_steps.npz.

    Args:
        folder: where to.
        kernel: one of the reference's motion kernels.
    """
    inputs = operator_inputs(kernel)
    np.savez(folder / "operators.npz", **inputs, **operator_arrays(inputs))
    inputs = step_inputs()
    np.savez(folder / "sampler_steps.npz", **inputs, **step_arrays(inputs), **guided_arrays(inputs))


# The backbones of LPIPS


def write_backbones(folder: Path) -> None:
    """Write the files of weights that LPIPS reads, random ones: a network as any, but for what it has learned."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for name, file in (("alexnet", "alexnet-owt-7be5be79.pth"), ("vgg16", "vgg16-397923af.pth")):
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in getattr(torchvision.models, name)().state_dict().items()}
        state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}  # zeros take no room
        for key, shape in shapes.items():
            if key.startswith("features.") and key.endswith("weight"):
                state[key] = torch.randn(shape, generator=generator) * (2 / shape[1:].numel()) ** 0.5
        torch.save(state, folder / file)
