"""How golden.npz was made: the parts of the reference arrays that hold no FFHQ pixels, small enough to commit.

python tests/data/make.py ../shared/reference tests/data/golden.npz
"""

import sys
from pathlib import Path

import numpy as np

reference, target = map(Path, sys.argv[1:])
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
np.savez_compressed(target, **golden)
