"""How peers.npz was made: the first image of the golden runs of the field's samplers, one operator each.

python tests/data/make_peers.py ../shared/reference tests/data

Kept are the noise, the settings, the schedules and how it ends, which no step in between can miss: a state is made of
the one before. The whole file is larger than what a repository should carry. No FFHQ pixels.
"""

import sys
from pathlib import Path

import numpy as np

KEPT = {"final", "states", "mu_before", "final_bar", "indices", "ancestors", "final_log_w", "y_seq", "V_small"}
"""How a run ends, by the names that the runs give it; of states and means only the last is kept."""
PROBLEM = {"mu", "C", "betas", "A", "y", "S", "V", "M"}
RUNS = {
    *("daps_orig", "daps_orig_hmc", "daps_orig_mh", "ddnm_orig_plus", "ddnm_orig_plus_travel", "ddnm_plus"),
    *("ddrm_orig", "diffpir_orig_zeta", "diffpir_prox", "fps_orig", "mcgdiff_orig", "pigdm_noisy", "pigdm_orig"),
    *("pnpdm_orig_ode", "pnpdm_orig_sde", "reddiff_const", "reddiff_orig"),
}
"""Authors' own codes before others, so that every sampler has one."""
BATCH = 2
"""Images of a run; the last axis of that length counts them."""


def wanted(name: str, value: np.ndarray) -> bool:
    schedule = value.ndim <= 1 and name not in ("x_true", "mask")
    return name.startswith("noise") or name == "uniform" or name in KEPT or schedule


reference, folder = map(Path, sys.argv[1:])
part = {}
with np.load(reference / "peer_samplers.npz", allow_pickle=False) as arrays:
    operators = {}
    for key in arrays.files:
        operators.setdefault(key.split("/")[0], set()).add(key.split("/")[1])
    for key in arrays.files:
        run, operator, name = key.split("/")[0], key.split("/")[1], key.split("/")[-1]
        value = arrays[key]
        if run == "problem":
            if name in PROBLEM:
                part[key] = value
            continue
        if run not in RUNS or operator != min(operators[run]) or not wanted(name, value):
            continue
        axes = [axis for axis, length in enumerate(value.shape) if length == BATCH]
        value = value.take([0], axis=axes[-1]) if axes else value
        if name in ("states", "mu_before"):
            value = value[-1:]
        part[key] = value.astype(np.float32) if value.ndim and value.dtype == np.float64 else value
np.savez_compressed(folder / "peers.npz", **part)
