"""How the files here were made: the parts of the reference that hold no FFHQ pixels, small enough to commit.

python tests/data/make.py ../shared/reference tests/data

What holds FFHQ pixels is derived for another picture when the tests run (tests/stand_in.py).
"""

import json
import sys
from pathlib import Path

import numpy as np

PATHS = {"i000": 50, "i025": 50, "i050": 50, "i100": 10}
"""Tag -> how many motion paths are kept, of which those of the highest intensity are long."""

reference, folder = map(Path, sys.argv[1:])
golden = {}
for name in ("unet_small", "unet_small_b", "unet_small_c"):
    with np.load(reference / f"{name}.npz", allow_pickle=False) as arrays:
        for key in ("config_json", "keys", "x", "timesteps", "y", "cotangent", "grad_x", "time_embedding_32"):
            golden[f"{name}/{key}"] = arrays[key]
with np.load(reference / "unet_ffhq_full.npz", allow_pickle=False) as arrays:
    for key in ("keys", "param_sum", "param_sumsq", "recipe_first_tensor", "x", "timesteps", "y"):
        golden[f"unet_ffhq_full/{key}"] = arrays[key]
with np.load(reference / "schedule.npz", allow_pickle=False) as arrays:
    for key in arrays.files:
        if key.endswith(("timesteps", "_betas", "alphas_cumprod", "_T500")):
            golden[f"schedule/{key}"] = arrays[key]
with np.load(reference / "operators.npz", allow_pickle=False) as arrays:
    for key in ("sr4_weights", "sr4_indices", "gaussian_kernel"):
        golden[f"operators/{key}"] = arrays[key]
np.savez_compressed(folder / "golden.npz", **golden)

motion = {}
with np.load(reference / "motion_kernels.npz", allow_pickle=False) as arrays:
    for tag, count in PATHS.items():
        offsets = arrays[f"{tag}_path_offsets"][: count + 1]
        motion[f"{tag}_path_offsets"] = offsets
        motion[f"{tag}_path_xy"] = arrays[f"{tag}_path_xy"][: offsets[-1]]
        motion[f"{tag}_seeds"] = arrays[f"{tag}_seeds"][:count]
        motion[f"{tag}_kernel_u8"] = arrays[f"{tag}_kernel_u8"][: 200 if tag == "i050" else count]
    for key in ("summary_json", *(f"size{n}_{what}" for n in (31, 101, 151) for what in ("seed", "kernel_u8"))):
        motion[key] = arrays[key]
np.savez_compressed(folder / "motion_kernels.npz", **motion)

for name in ("bkse", "unet_ffhq", "unet_imagenet"):
    content = json.loads((reference / f"{name}_manifest.json").read_text())
    (folder / f"{name}_manifest.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
