"""Edits around a frozen operation: y' = f(op, x). U-Tuning, arXiv 2303.00690: OP(x) + tuner(x).

Shape legend: B batch, T tokens, D width, R bottleneck width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import noise
from .base import Delta, Edit
from .sites import Handles, OpSite, TensorRef, cast, seeded

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class Bottleneck(nn.Module):
    """A(x) = s (W_up act(W_down x + b_down) + b_up). Houlsby et al., arXiv 1902.00751, sec. 2.1.

    Args:
        width: D.
        hidden: R.
        scale: s, fixed.
        init: ``houlsby`` (down N(0, 0.02) truncated, up zero: no effect at the start),
            ``lora`` (down Kaiming-uniform a = sqrt(5), up zero; AdaptFormer's rule),
            ``small`` (both truncated normal 0.02, biases zero; GIST's release),
            ``near_zero`` (both normal 0.01 cut at two deviations, biases zero; Houlsby's rule as
            printed, Adapter+), ``normal`` (the same uncut; PEMT),
            ``xavier`` (both Xavier-uniform, biases N(0, 1e-6)) and ``xavier_down`` (the same for
            down, up zero), the two of U-Tuning.
        generator: the random stream of initial values.
        out: width of the output; None: D.

    """

    def __init__(
        self,
        width: int,
        hidden: int,
        scale: float = 1.0,
        activation: Activation = "gelu",
        init: Literal[
            "houlsby", "lora", "small", "near_zero", "normal", "xavier", "xavier_down"
        ] = "houlsby",
        generator: torch.Generator | None = None,
        out: int | None = None,
    ) -> None:
        super().__init__()
        g = seeded(generator)
        self.scale, self.activation = scale, activation
        out = width if out is None else out
        down = torch.empty(hidden, width)
        up = torch.zeros(out, hidden)
        down_bias, up_bias = torch.zeros(hidden), torch.zeros(out)
        if init == "lora":
            nn.init.kaiming_uniform_(down, a=5**0.5, generator=g)
        elif init in ("xavier", "xavier_down"):
            nn.init.xavier_uniform_(down, generator=g)
            nn.init.normal_(down_bias, std=1e-6, generator=g)
        elif init == "near_zero":
            for matrix in (down, up):
                nn.init.trunc_normal_(matrix, std=0.01, a=-0.02, b=0.02, generator=g)
        elif init == "normal":
            for matrix in (down, up):
                nn.init.normal_(matrix, std=0.01, generator=g)
        else:
            nn.init.trunc_normal_(down, std=0.02, generator=g)
        if init == "small":
            nn.init.trunc_normal_(up, std=0.02, generator=g)
        if init == "xavier":
            nn.init.xavier_uniform_(up, generator=g)
            nn.init.normal_(up_bias, std=1e-6, generator=g)
        self.down_weight, self.up_weight = nn.Parameter(down), nn.Parameter(up)
        self.down_bias, self.up_bias = nn.Parameter(down_bias), nn.Parameter(up_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the tuner's output, same shape as the input."""
        h_BTR = F.linear(x_BTD, cast(self.down_weight, x_BTD), cast(self.down_bias, x_BTD))
        h_BTR = ACTIVATIONS[self.activation](h_BTR)
        bias_D: Tensor = self.up_bias
        if self.scale != 1.0:  # on the narrow side, where it costs least
            h_BTR, bias_D = h_BTR * self.scale, bias_D * self.scale
        return F.linear(h_BTR, cast(self.up_weight, h_BTR), cast(bias_D, h_BTR))


class OpEdit(Edit):
    """Adds a tuner's output to an operation's output, at one or several operations.

    Args:
        name: unique name.
        sites: the operations; more than one shares the tuner's weights.
        tuner: module (B, T, D) -> (B, T, D).
        reads: ``output`` (sequential: y + tuner(y)), ``stream`` (parallel, the residual stream
            before the norm) or ``input`` (parallel, what the operation reads).
        identity: whether the tuner's output is zero at the start.
        drop_path: probability that a sample goes without the tuner in training.

    """

    def __init__(
        self,
        name: str,
        sites: Sequence[OpSite],
        tuner: nn.Module,
        reads: Literal["output", "stream", "input"],
        identity: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(name)
        self.sites, self.reads, self.identity = tuple(sites), reads, identity
        self.tuner, self.drop_path = tuner, drop_path

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook each operation's output, and the tensor that the tuner reads."""
        for site in self.sites:
            if self.reads == "output":
                handles.add(site.output.edit(self.sequential))
            else:
                source = site.stream if self.reads == "stream" else site.input
                self._parallel(source, site.output, handles)

    def sequential(self, y_BTD: Tensor) -> Tensor:
        """Return y + tuner(y)."""
        return y_BTD + cast(self._tuned(y_BTD), y_BTD)

    def _tuned(self, u_BTD: Tensor) -> Tensor:
        return noise.drop_path(self.tuner(u_BTD), self.drop_path, self.training, self.name)

    def _parallel(self, source: TensorRef, output: TensorRef, handles: Handles) -> None:
        seen: list[Tensor] = []

        def add(y_BTD: Tensor) -> Tensor:
            return y_BTD + cast(self._tuned(seen.pop()), y_BTD)

        def keep(x_BTD: Tensor) -> None:
            seen.append(x_BTD)

        handles.add(source.watch(keep))
        handles.add(output.edit(add))
        handles.add(seen.clear)


class InputOp(Edit):
    """op(x + tuner(x)): a tuner in front of a frozen operation.

    Args:
        name: unique name.
        site: the operation.
        readers: the linear layers that read what enters the operation, into which an affine tuner
            (one with ``affine``) can be merged.
        tuner: module (B, T, D) -> (B, T, D).
        identity: whether the tuner's output is zero at the start.

    """

    def __init__(
        self,
        name: str,
        site: OpSite,
        readers: Sequence[nn.Linear],
        tuner: nn.Module,
        identity: bool = True,
    ) -> None:
        super().__init__(name)
        self.site, self.readers, self.identity = site, tuple(readers), identity
        self.tuner = tuner

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the operation's input."""
        handles.add(self.site.input.edit(self.change))

    def change(self, x_BTD: Tensor) -> Tensor:
        """Return x + tuner(x)."""
        return x_BTD + cast(self.tuner(x_BTD), x_BTD)

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W (1 + M) and b + W c for one reader, where the tuner is x -> M x + c."""
        matrix_DD, vector_D = self.tuner.affine()  # type: ignore[operator]
        shift_O = weight_OI @ vector_D.to(weight_OI.dtype)
        bias_O = shift_O if bias_O is None else bias_O + shift_O
        return weight_OI + weight_OI @ matrix_DD.to(weight_OI.dtype), bias_O
