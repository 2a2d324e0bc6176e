"""An accelerator that is not there: tensors on a fake ``cuda``, and a record of where the host would wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from posterior import waits
from posterior.operators import Operator

WAIT_BY_THEMSELVES = ("_linalg_eigh", "_linalg_svd", "_linalg_check_errors", "linalg_lstsq")
VALUES = {"finite?": True, "converged?": False, "measured entries": True}
"""What a fetch gives here, 1.0 otherwise."""


class HiddenWait(AssertionError):
    """The host waits for the device in a place that has no name."""


class Watch(TorchDispatchMode):
    """Sees every operation: refuses copies between host and device, and waiting kernels, outside a named wait."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.open: str | None = None
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        before = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **kwargs)
        after = {x.device.type for x in tree_leaves(out) if isinstance(x, Tensor)}
        copies = name in ("_to_copy", "copy_", "_copy_from") and len(before | after) > 1
        if copies or ("cuda" in before | after and name in WAIT_BY_THEMSELVES):
            self.seen += 1
            if self.open is None:
                raise HiddenWait(f"{name}: {sorted(before)} to {sorted(after)} in no named wait")
        return out


class FakeDevice:
    """Tensors without values on a device that is not there.

    Within `running` every tensor is fake. Values asked for by `posterior.waits` are made up; a computation on the host
    gets real numbers.
    """

    def __init__(self, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.watch = Watch()
        monkeypatch.setattr(waits, "fetch", self.fetch)
        monkeypatch.setattr(waits, "on_host", self.on_host)
        monkeypatch.setattr(waits, "to_device", self.to_device)
        monkeypatch.setattr(waits, "inside", self.inside)
        # there is no engine for a device that is not there: the forward part alone
        monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs, *rest: (torch.empty_like(inputs),))

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.watch.counts)

    @contextmanager
    def running(self) -> Iterator[FakeDevice]:
        with self.mode, self.watch:
            yield self

    def empty(self, like: Tensor) -> Tensor:
        with self.mode:
            return torch.empty(like.shape, dtype=like.dtype, device="cuda")

    def operator(self, operator: Operator) -> Operator:
        names = [name for name, value in vars(operator).items() if isinstance(value, Tensor)]
        return operator._map(names, self.empty)

    def module(self, module: nn.Module) -> nn.Module:
        """Its parameters and buffers, in place."""
        for part in module.modules():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(self.empty(value), requires_grad=False)
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = self.empty(value)
        return module

    # what stands for `posterior.waits`

    def _count(self, name: str, *values: object) -> None:
        tensors = [x for value in values for x in (vars(value).values() if isinstance(value, Operator) else [value])]
        if any(isinstance(x, Tensor) and x.device.type == "cuda" for x in tensors):
            self.watch.counts[name] += 1

    def fetch(self, name: str, x: Tensor) -> object:
        self._count(name, x)
        if name == "mixture components":  # all rows are of the first
            return [self.rows, *[0] * (len(x) - 1)]
        value = VALUES.get(name, 1.0)
        for size in reversed(x.shape):
            value = [value] * size
        return value

    def on_host(self, name: str, compute, *values):  # type: ignore[no-untyped-def]
        self._count(name, *values)
        with _disable_current_modes():
            found = compute(*(real(value) for value in values))
        return tree_map(lambda x: self.mode.from_tensor(x) if isinstance(x, Tensor) else x, found)

    def to_device(self, name: str, x: Tensor, like: Tensor | torch.device) -> Tensor:
        device = like if isinstance(like, torch.device) else like.device
        floating = isinstance(like, Tensor) and x.is_floating_point() and like.is_floating_point()
        if device.type != x.device.type:
            self.watch.counts[name] += 1
        return torch.empty(x.shape, dtype=like.dtype if floating else x.dtype, device=device)

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        assert self.watch.open is None
        seen, self.watch.open = self.watch.seen, name
        try:
            yield
        finally:
            self.watch.open = None
        if self.watch.seen > seen:
            self.watch.counts[name] += 1


def real(value):  # type: ignore[no-untyped-def]
    """The same with numbers in it, on the host."""
    if isinstance(value, Operator):
        names = [name for name, part in vars(value).items() if isinstance(part, Tensor)]
        return value._map(names, real)
    return torch.rand(value.shape, dtype=torch.float64).to(value.dtype)
