"""The configuration files of the DPS code, as one of ours.

Its three YAML files (model, diffusion, task) are read safely, ``!!python/tuple`` included; what has no counterpart here
is named. Facts of the format: the files and the code of DPS2022/diffusion-posterior-sampling.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from posterior.errors import UserError
from posterior.reading import check_file
from posterior.settings import read_yaml

Part = dict[str, Any]


class Section:
    """A mapping of a file whose entries are taken one by one; what is left at the end was not understood."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise UserError(f"{where} must be a mapping, got {values!r}")
        self.values, self.where = dict(values), where

    @classmethod
    def read(cls, path: Path) -> Section:
        """A whole file.

        Raises:
            UserError: naming the file, if it is missing, not YAML, or holds more than plain data.
        """
        check_file(path, "DPS configuration")
        return cls(read_yaml(path), str(path))

    def take(self, key: str, *default: Any) -> Any:
        """The value of a key, removed.

        Raises:
            UserError: if it is missing and there is no default.
        """
        if key not in self.values and not default:
            raise UserError(f"{self.where}: {key} is missing")
        return self.values.pop(key, *default)

    def choose(self, key: str, choices: dict[Any, Any], *default: Any) -> Any:
        """The counterpart of a key's value.

        Raises:
            UserError: naming the value, if it has none.
        """
        value = self.take(key, *default)
        if not isinstance(value, Hashable) or value not in choices:
            raise UserError(
                f"{self.where}: {key}: {value!r} has no counterpart here (known: {', '.join(map(str, choices))})"
            )
        return choices[value]

    def pair(self, key: str, *default: Any) -> tuple[Any, Any]:
        """Two numbers.

        Raises:
            UserError: if they are not.
        """
        value = self.take(key, *default)
        if not isinstance(value, (list, tuple)) or [isinstance(v, (int, float)) for v in value] != [True, True]:
            raise UserError(f"{self.where}: {key} must be two numbers, got {value!r}")
        return value[0], value[1]

    def section(self, key: str) -> Section:
        """A mapping inside."""
        return Section(self.take(key), f"{self.where}: {key}")

    def done(self) -> None:
        """Raises:
        UserError: naming entries that were not taken.
        """
        if self.values:
            raise UserError(f"{self.where}: {', '.join(map(str, self.values))}: no counterpart here")


def part(class_name: str, **settings: Any) -> Part:
    """A class of this package, as a config names it."""
    return {"class_path": f"posterior.{class_name}", **({"init_args": settings} if settings else {})}


def convert(model_config: Path, diffusion_config: Path, task_config: Path, save_dir: Path) -> Part:
    """The three files as one experiment of ours.

    Args:
        model_config, diffusion_config, task_config: the files.
        save_dir: the run's folder.

    Returns:
        What `configs/*.yaml` hold: ``model``, ``data``, ``output``.

    Raises:
        UserError: naming file and entry, if something is missing, has no counterpart, or does not fit together.
    """
    network, checkpoint, learn_sigma = _network(Section.read(model_config))
    noise_schedule, prediction, schedule, step, clip = _diffusion(Section.read(diffusion_config), learn_sigma)
    task = Section.read(task_config)
    sampler = _sampler(task.section("conditioning"), schedule, step, clip)
    data = task.section("data")
    data.choose("name", {"ffhq": None, "imagenet": None})  # both are folders of images
    root = data.take("root")
    data.done()
    measurement = task.section("measurement")
    operator, likelihood = _operator(measurement), _likelihood(measurement.section("noise"))
    measurement.done()
    task.done()
    settings = {"root": str(root), "operator": operator, "likelihood": likelihood}
    prior = part(
        "priors.DiffusionPrior",
        checkpoint=checkpoint,
        prediction=prediction,
        noise_schedule=noise_schedule,
        network=network,
    )
    return {
        "model": {"prior": prior, "sampler": sampler},
        "data": {"class_path": "datamodules.ImageFolder", "init_args": settings},
        "output": {"dir": str(save_dir)},
    }


def _numbers(value: Any) -> list[Any] | None:
    """ "16", "32,16,8", 16 or "" as a list, or None for the last."""
    if isinstance(value, (list, tuple)):
        return list(value)
    parts = [text for text in str(value).split(",") if text.strip()]
    return [float(text) if "." in text else int(text) for text in parts] or None


NUM_CLASSES = 1000
"""Of guided-diffusion's class-conditional networks, which is nowhere in its files: those of ImageNet."""
NETWORK_DEFAULTS = {
    "learn_sigma": False,
    "num_heads": 1,
    "num_head_channels": -1,
    "use_scale_shift_norm": False,
    "dropout": 0.0,
    "resblock_updown": False,
    "use_new_attention_order": False,
}
"""What the DPS code takes where its file says nothing; ours are called the same."""


def _network(model: Section) -> tuple[Part, str, bool]:
    model.take("use_checkpoint", False)  # trade memory for time in training: no effect on results
    model.take("use_fp16", False)  # precision is the trainer's choice here
    settings = _classes(model)
    settings |= {name: model.take(name) for name in ("image_size", "num_channels", "num_res_blocks")}
    settings |= {name: model.take(name, default) for name, default in NETWORK_DEFAULTS.items()}
    model.choose("num_heads_upsample", {-1: None, settings["num_heads"]: None}, -1)
    settings["channel_mult"] = _numbers(model.take("channel_mult", ""))
    settings["attention_resolutions"] = _numbers(model.take("attention_resolutions", 16)) or []
    checkpoint = model.take("model_path")
    model.done()
    return part("priors.UNet", **settings), str(checkpoint), bool(settings["learn_sigma"])


def _classes(model: Section) -> Part:
    """Of a class-conditional network: how many, and the one that is sampled.

    The DPS code tells its network no class, and fails; the key ``label`` is ours.
    """
    if not model.choose("class_cond", {False: False, True: True}, False):
        return {}
    label = model.take("label", None)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < NUM_CLASSES:
        told = "is missing" if label is None else f"is {label!r}"
        raise UserError(
            f"{model.where}: class_cond is true, but label {told}: add the class that is sampled, 0 to "
            f"{NUM_CLASSES - 1}, as in 'label: 207'"
        )
    return {"num_classes": NUM_CLASSES, "label": label}


def _diffusion(diffusion: Section, learn_sigma: bool) -> tuple[Part, str, Part, Part, bool]:
    """Noise schedule, prediction, the chain's levels, its step, and whether x0 is clipped."""
    steps = diffusion.take("steps", 1000)
    betas = diffusion.choose("noise_schedule", {"linear": "LinearBetas", "cosine": "CosineBetas"})
    prediction = diffusion.choose("model_mean_type", {"epsilon": "epsilon", "start_x": "x0"})
    variance = diffusion.choose(
        "model_var_type", {"learned_range": "learned", "fixed_small": "small", "fixed_large": "large"}
    )
    if (variance == "learned") != learn_sigma:
        raise UserError(
            f"{diffusion.where}: model_var_type does not fit the model's learn_sigma, which is {learn_sigma}"
        )
    diffusion.choose("dynamic_threshold", {False: None}, False)
    if diffusion.take("rescale_timesteps", False) and steps != 1000:
        raise UserError(f"{diffusion.where}: rescale_timesteps with {steps} steps has no counterpart here")
    respacing = diffusion.take("timestep_respacing", steps) or steps
    if isinstance(respacing, (list, tuple)):
        respacing = ",".join(map(str, respacing))
    ancestral = {} if variance == "learned" else {"fixed_variance": variance}
    step = diffusion.choose(
        "sampler", {"ddpm": part("samplers.Ancestral", **ancestral), "ddim": part("samplers.DDIM", ddim_eta=0.0)}
    )
    clip = diffusion.take("clip_denoised", True)
    diffusion.done()
    noise_schedule = part(f"priors.{betas}", num_steps=steps)
    levels = part("samplers.RespacedSigmas", respacing=respacing, noise_schedule=noise_schedule)
    return noise_schedule, prediction, levels, step, clip


def _sampler(conditioning: Section, schedule: Part, step: Part, clip: bool) -> Part:
    names = {"ps": "DPS", "ps+": "DPSPlus", "mcg": "MCG", "projection": "Projection", "vanilla": "ReverseDiffusion"}
    name = conditioning.choose("method", names)
    parameters = Section(conditioning.take("params", None) or {}, f"{conditioning.where}: params")
    conditioning.done()
    settings: Part = {"schedule": schedule, "step": step, "clip_denoised": clip}
    if name in ("DPS", "DPSPlus", "MCG"):
        settings["scale"] = parameters.take("scale", 1.0)
    if name == "DPSPlus":
        settings["copies"] = parameters.take("num_sampling", 5)
    parameters.done()
    return part(f"samplers.{name}", **settings)


def _operator(measurement: Section) -> Part:
    operator = measurement.section("operator")
    name = operator.take("name")
    if name == "super_resolution":
        operator.take("in_shape", None)  # ours follows the image
        result = part("operators.SuperResolution", scale=operator.take("scale_factor"), kernel="bicubic")
    elif name == "gaussian_blur":
        size, std = operator.take("kernel_size"), operator.take("intensity")
        result = part("operators.GaussianBlur", kernel_size=size, std=std)
    elif name == "motion_blur":
        size, intensity = operator.take("kernel_size"), operator.take("intensity")
        result = part("operators.MotionBlur", kernel_size=size, intensity=intensity)
    elif name == "phase_retrieval":
        result = part("operators.PhaseRetrieval", oversample=operator.take("oversample"))
    elif name == "nonlinear_blur":
        options = Section.read(Path(operator.take("opt_yml_path"))).section("KernelWizard")
        result = part("operators.NonlinearBlur", checkpoint=str(options.take("pretrained")))
    elif name == "inpainting":
        result = _mask(measurement.section("mask_opt"))
    elif name == "noise":  # denoising: every pixel is seen
        result = part("operators.RandomInpainting", low=0.0, high=0.0)
    else:
        raise UserError(f"{operator.where}: name: {name!r} has no counterpart here")
    operator.done()
    return result


def _mask(mask: Section) -> Part:
    mask.take("image_size", None)  # ours follows the image
    kind = mask.choose("mask_type", {"random": "random", "box": "box"})
    if kind == "random":
        low, high = mask.pair("mask_prob_range")
        result = part("operators.RandomInpainting", low=low, high=high)
    else:
        low, high = mask.pair("mask_len_range")
        margins = mask.pair("margin", [16, 16])
        if high - low != 1 or len(set(margins)) != 1:
            raise UserError(
                f"{mask.where}: boxes of {low} to {high - 1} pixels with margins {list(margins)} have no counterpart "
                "here: one size and one margin are"
            )
        result = part("operators.BoxInpainting", box=low, margin=margins[0])
    mask.done()
    return result


def _likelihood(noise: Section) -> Part:
    name = noise.choose("name", {"gaussian": "GaussianNoise", "poisson": "PoissonNoise"})
    result = (
        part("noise.GaussianNoise", sigma_y=noise.take("sigma"))
        if name == "GaussianNoise"
        else part("noise.PoissonNoise", rate=noise.take("rate"))
    )
    noise.done()
    return result
