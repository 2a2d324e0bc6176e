"""What priors with a network share: how it is called, and the ways to make that faster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from posterior.checkpoint import load_checkpoint
from posterior.checks import choice
from posterior.priors.base import Prior

log = logging.getLogger(__name__)

Compile = Literal["default", "reduce-overhead", "max-autotune"]
MemoryFormat = Literal["contiguous", "channels_last"]


def check_execution(who: str, compile: str | None, memory_format: str) -> None:
    """Refuse a ``compile`` or ``memory_format`` that there is not.

    Raises:
        UserError: naming the setting.
    """
    if compile is not None:
        choice(who, "compile", compile, Compile)
    choice(who, "memory_format", memory_format, MemoryFormat)


def per_row(value: float | Tensor, x: Tensor) -> Tensor:
    """A number for each image of x (B, C, H, W), (B,) in its dtype: one for all, or (B, 1, 1, 1)."""
    if isinstance(value, Tensor):
        return value.flatten()
    return torch.full((len(x),), value, device=x.device, dtype=x.dtype)  # no copy to the device, which would wait


class NetworkPrior(Prior):
    """A frozen network, called with images and one number each; subclasses say what the numbers and the output are.

    Args:
        network: the module. It may say what images it is for, see `Prior.ask`.
        checkpoint: state dict to load strictly; None leaves the network as it is.
        compile: compile the network (`torch.compile`) in that mode, for each shape of its input on its own;
            ``reduce-overhead`` uses CUDA graphs. The first call takes minutes. Where it cannot be compiled (without a
            C++ compiler, say) that is said in one line and it runs as it is. Its numbers differ in the last digits.
            None: it runs as it is.
        memory_format: ``channels_last`` keeps the weights and the input of convolutions with channels innermost, which
            tensor cores like. Its numbers differ in the last digits.

    Raises:
        UserError: if a word is none there is, or the checkpoint does not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: Path | None,
        compile: Compile | None = None,
        memory_format: MemoryFormat = "contiguous",
    ) -> None:
        super().__init__()
        check_execution(type(self).__name__, compile, memory_format)
        self.network = network
        if checkpoint is not None:
            load_checkpoint(network, Path(checkpoint))
        self.ask(network)
        self.compile_mode: str | None = compile
        self.channels_last = memory_format == "channels_last"
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self._compiled: Callable[[Tensor, Tensor], Tensor] | None = None
        self.requires_grad_(False).eval()

    def call_network(self, x: Tensor, levels: Tensor) -> Tensor:
        """The network's output for x (B, C, H, W) and numbers (B,), in the dtype of x whatever the network's."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with self.autocast(x):
            output = self.network(x, levels) if self.compile_mode is None else self._call_compiled(x, levels)
        return output.to(x.dtype, memory_format=torch.contiguous_format)

    def _call_compiled(self, x: Tensor, levels: Tensor) -> Tensor:
        if self._compiled is None:  # of a bound method: a compiled module would bring keys of its own
            self._compiled = torch.compile(self.network.forward, dynamic=False, mode=self.compile_mode)
        try:
            if self.compile_mode == "default":
                return self._compiled(x, levels)
            torch.compiler.cudagraph_mark_step_begin()
            return self._compiled(x, levels).clone()  # the next call writes over what a graph has given
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            output = self.network(x, levels)  # what is wrong with the input is wrong here, too
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning(f"compile: the network cannot be compiled here and runs as it is ({reason})")
            self.compile_mode = self._compiled = None
            return output

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}
