"""Published files of EDM and EDM2, which are pickles: read without running anything that they name.

Every class that a pickle names becomes a stub that keeps what it is given; the three functions that rebuild tensors are
ours. This runs in a process of its own (`read_pickle`), which hands back a safetensors file and JSON, nothing else.

Facts of the format: `torch_utils/persistence.py` of NVlabs/edm, version 6, and the reductions of torch's tensors.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from posterior.errors import UserError
from posterior.reading import check_file, read_json, read_state, reason, shown

LONGEST = 600
"""Seconds that the reading process may take."""
SPARE_MEMORY, SPARE_DISK = 2 * 2**30, 16 * 2**20
"""Bytes that the reading process may have beyond multiples of the file's size."""
WEIGHTS, FACTS = "weights.safetensors", "facts.json"
PERSISTENT = "_reconstruct_persistent_obj"
"""The function that a pickle of EDM would have run."""


class Stub:
    """Stands for an object of a foreign class.

    Args:
        arguments: that it was called with.
    """

    name = ""
    """Of the class, with its module."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Stub:
        made = super().__new__(cls)
        made.arguments, made.state, made.items = arguments, None, {}  # type: ignore[attr-defined]
        return made

    def __init__(self, *arguments: Any, **keywords: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value  # type: ignore[attr-defined]

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2, of a storage that `_storage` has read.

    Raises:
        ValueError: if the tensor is not within its storage, which torch would enlarge by memory as it finds it.
    """
    if not isinstance(storage, torch.storage.TypedStorage):
        raise ValueError("a tensor without storage")
    size, stride, count = tuple(size), tuple(stride), math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else offset
    if min(offset, *size, *stride, 0) < 0 or max(end, count) > storage.size():
        raise ValueError(f"a tensor {list(size)} that does not fit into its storage of {storage.size()} numbers")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)


def _storage(content: bytes) -> Any:
    """torch.storage._load_from_bytes, of numbers alone."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _parameter(data: Any, *rest: Any) -> Any:
    """torch._utils._rebuild_parameter."""
    return data


SAFE: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
}
"""What a pickle may call; all else is a `Stub`."""


class Unpickler(pickle.Unpickler):
    """Imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        return SAFE.get(path) or type(name.rpartition(".")[2], (Stub,), {"name": path})


def _module(found: Any) -> tuple[str, dict[str, Any]] | None:
    """Class and attributes of what was a module, or None."""
    if not isinstance(found, Stub):
        return None
    name, state = found.name.rpartition(".")[2], found.state
    if name == PERSISTENT and found.arguments and isinstance(meta := found.arguments[0], dict):  # type: ignore[attr-defined]
        name, state = str(meta.get("class_name")), meta.get("state")
    return (name, state) if isinstance(state, dict) and "_modules" in state else None


def _tensors(state: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, as a state dict calls them.

    Raises:
        ValueError: if one is neither a tensor nor None.
    """
    for kind in ("_parameters", "_buffers"):
        for name, value in (state.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif value is not None:
                raise ValueError(f"its {prefix}{name} is no tensor but a {type(value).__name__}")
    for name, inner in (state.get("_modules") or {}).items():
        if (module := _module(inner)) is not None:
            yield from _tensors(module[1], f"{prefix}{name}.")


def _plain(value: Any) -> Any:
    """Numbers, text, lists and mappings of them; of anything else nothing."""
    if isinstance(value, Stub):
        return _plain(value.items)  # type: ignore[attr-defined]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else None


def write_arrays(path: Path, folder: Path) -> None:
    """Write the network of a pickle: its tensors, and what made it.

    Raises:
        ValueError: if it holds no network in the preconditioning of EDM, or one without weights.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Unpickler(file).load()
    held = found.get("ema", found) if isinstance(found, dict) else found
    whole = _module(held)
    if whole is None:
        raise ValueError("it holds no network called ema")
    name, state = whole
    inner = next((part for key in ("model", "unet") if (part := _module(state["_modules"].get(key))) is not None), None)
    if inner is None:
        raise ValueError(f"its {name} holds no network called model or unet")
    kept = ("label_dim", "sigma_data", "sigma_min", "sigma_max", "img_channels", "img_resolution")
    facts = {
        "preconditioning": name,
        "network": inner[0],
        "settings": _plain(inner[1].get("_init_kwargs") or {}),
        **{key: _plain(state[key]) for key in kept if key in state},
    }
    tensors = {key: value.detach().clone().contiguous() for key, value in _tensors(inner[1])}
    if not tensors:
        raise ValueError(f"its {inner[0]} holds no weights")
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The network of a published file: read in a process of its own, whose arrays and JSON alone are taken.

    Returns:
        Its state dict; and ``preconditioning``, ``network`` (names of classes), ``settings`` (that made the network),
        ``label_dim``, ``sigma_data``, ``sigma_min``, ``sigma_max``, ``img_channels``, ``img_resolution``.

    Raises:
        UserError: naming the file, if it is missing, damaged, or holds no such network.
    """
    check_file(path, "pickle")
    paths = [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "posterior.edm_pickle", str(path), folder]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"pickle {shown(path)} takes longer than {LONGEST} seconds to read") from error
        if done.returncode:
            told = (done.stderr.strip().splitlines() or ["the reading process was killed"])[-1]
            raise UserError(f"pickle {shown(path)} is no network of EDM's: {told[:300]}")
        return read_state(Path(folder) / WEIGHTS), read_json(Path(folder) / FACTS, "facts")


def _bound(size: int) -> None:
    """Give this process no more than a file of so many bytes can need: a pickle that claims more ends it, nothing else.

    Memory counts from what is taken by now, most of it by torch.
    """
    import resource  # not everywhere

    torch.set_num_threads(1)  # each has address space of its own
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for kind, most in (
        (resource.RLIMIT_AS, pages * resource.getpagesize() + 8 * size + SPARE_MEMORY),
        (resource.RLIMIT_FSIZE, 2 * size + SPARE_DISK),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    try:
        if sys.platform == "linux":
            _bound(Path(sys.argv[1]).stat().st_size)
        write_arrays(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        sys.exit(reason(error))
