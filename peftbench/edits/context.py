"""A bank whose copies each serve some contexts: one layer, one set of numbers per kind of token.

Context-PEFT, Hadji-Kyriacou and Arandjelovic, arXiv 2312.08900: a token uses the numbers of its own
context. Copies that add or scale are computed together: all low-rank factors in two products, with
a mask on the narrow tensor between them.
Shape legend: N rows (all leading axes flattened), I input width, O output width, K copies, R ranks
of all roles and copies together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import fused, noise
from .bank import Bank
from .base import Delta
from .linear import AddedBias, InputScale, LinearEdit, LowRank, OutputScale, add_rows
from .router import Route, Router
from .sites import Handles, cast, wrap_forward


class Idle(torch.autograd.Function):
    """A tensor as it is, with zero gradients for numbers that had no part in it."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *numbers: Tensor) -> Tensor:
        """Return ``y``."""
        ctx.save_for_backward(*numbers)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Pass the gradient on."""
        return grad, *(torch.zeros_like(n) for n in ctx.saved_tensors)


RANKS = 64  # of all copies together, from which a product per run of tokens beats one with a mask


class ContextBank(Bank):
    """y' = f_k(x, y) with the copy k of each token's context; several at once where they overlap.

    Args:
        name: unique name.
        copies: edits of the same layer by the name of their context.
        router: says which copy acts on which token; attached before this edit.

    """

    def __init__(self, name: str, copies: Mapping[str, LinearEdit], router: Router) -> None:
        super().__init__(name, copies)
        self.router_ref = [router]  # in a list, so that it is no submodule
        self.names = tuple(copies)
        kinds = {type(c) for c in copies.values()}
        kind = kinds.pop() if len(kinds) == 1 else LinearEdit
        self.before = BEFORE.get(kind)
        self.joint = JOINT.get(kind, one_by_one)
        self.fusable = kind is LowRank
        self._plain: tuple[int, Tensor | None, Tensor | None] = (0, None, None)

    @property
    def router(self) -> Router:
        """What says which copy acts on which token."""
        return self.router_ref[0]

    def install(self, delta: Delta, handles: Handles) -> None:
        """Stand in for the layer's forward where nothing edits it yet; else hook it."""
        self.router.ends.append(self._forget)
        handles.add(lambda: self.router.ends.remove(self._forget))
        if fused.free(self.module):
            handles.add(wrap_forward(self.module, self.around))
        elif self.before is not None:
            handles.add(self.module.register_forward_pre_hook(self._enter))
        else:
            handles.add(self.module.register_forward_hook(self._leave))

    def _forget(self) -> None:
        self._plain = (0, None, None)

    def _enter(self, _: nn.Module, args: tuple) -> tuple:
        x, route = args[0], self.router.route(args[0], self.names)
        if route is None:
            return args
        assert self.before is not None
        if isinstance(route, str):
            scaled = self.copies[route].around(lambda inputs: inputs, x)  # type: ignore[operator]
            return (self._idle(route, scaled), *args[1:])
        return (self.before(self.each, x, route), *args[1:])

    def _leave(self, _: nn.Module, args: tuple, y: Tensor) -> Tensor:
        return self.change(args[0], y, self.router.route(args[0], self.names))

    def change(self, x: Tensor, y: Tensor, route: Route | str | None) -> Tensor:
        """Return the layer's new output from its input and its frozen output."""
        if route is None:
            return y
        if isinstance(route, str):
            return self._idle(route, self.copies[route].change(x, y))  # type: ignore[operator]
        return self.joint(self.each, x, y, route)

    def _idle(self, name: str, y: Tensor) -> Tensor:
        """Return ``y``, and give the numbers of all copies but one a gradient: zero."""
        if len(self.copies) == 1 or not (self.training and torch.is_grad_enabled()):
            return y
        others = [p for n, c in self.copies.items() if n != name for p in c.parameters()]
        return Idle.apply(y, *others)

    def around(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the layer's new output from its input and the frozen layer's ``forward``."""
        if self.router.merging:
            return self._written(forward, x)
        route = self.router.route(x, self.names)
        if route is None:
            return forward(x)
        if isinstance(route, str):
            return self._idle(route, self.copies[route].around(forward, x))  # type: ignore[operator]
        if self.before is not None:
            return forward(self.before(self.each, x, route))
        first: Any = self.each[0]
        dropped = self.training and getattr(first, "dropout", 0) > 0
        if dropped or not self.fusable or not fused.fits(x, self.module.weight):
            return self.joint(self.each, x, forward(x), route)
        copies: list[Any] = self.each
        sites = first.sites
        wide = len(copies) * first.rank >= RANKS
        runs = route.runs() if wide else None
        node, choice = (
            (fused.FusedLowRank, route.mask(x.dtype)) if runs is None else (fused.FusedRuns, runs)
        )
        return node.apply(
            x,
            self.module.weight,
            self.module.bias,
            choice,
            first.scale,
            tuple(s.rows for s in sites),
            *(c.a[s.role] for s in sites for c in copies),
            *(c.b[s.role] for s in sites for c in copies),
        )

    def _written(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the output for tokens that are written, by one product with merged weights."""
        name = self.router.only(self.names)
        if name is None:
            return forward(x)
        spell, weight, bias = self._plain
        if spell != self.router.merging:
            weight, bias = self.merged(name)
            self._plain = (self.router.merging, weight, bias)
        assert weight is not None
        return F.linear(x, weight, bias)

    def merged(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Return plain (weight, bias) of the layer under one copy, in the layer's own format."""
        kind = self.module.weight.dtype
        wide = torch.promote_types(kind, torch.float32)
        bias = None if self.module.bias is None else self.module.bias.to(wide)
        with torch.no_grad():
            weight, bias = self.copies[name].merged(self.module.weight.to(wide), bias)  # type: ignore[operator]
        return weight.to(kind), None if bias is None else bias.to(kind)


def one_by_one(copies: Sequence[Any], x: Tensor, y: Tensor, route: Route) -> Tensor:
    """Return the output under each copy where it acts, one after the other."""
    for copy, acts_N in zip(copies, route.member_KN, strict=True):
        y = torch.where(acts_N.view(*y.shape[:-1], 1), copy.change(x, y), y)
    return y


def low_rank(copies: Sequence[Any], x: Tensor, y: Tensor, route: Route) -> Tensor:
    """Return ``y + s sum_k m_k B_k A_k x`` in two products."""
    sites, first = copies[0].sites, copies[0]
    x = noise.dropout(x, first.dropout, first.training, first.name)
    x_NI, y_NO = x.flatten(0, -2), y.flatten(0, -2)
    a_RI = torch.cat([c.a[s.role] for s in sites for c in copies])
    h_NR = cast(x_NI @ cast(a_RI, x_NI).t(), y_NO)
    mask_NK = route.mask(h_NR.dtype).t()
    h = h_NR.view(len(h_NR), len(sites), len(copies), -1) * mask_NK[:, None, :, None]
    factors = [cast(torch.cat([c.b[s.role] for c in copies], 1), y_NO) for s in sites]
    return add_rows(y_NO, sites, h.flatten(2).unbind(1), factors, first.scale).view_as(y)


def added_bias(copies: Sequence[Any], x: Tensor, y: Tensor, route: Route) -> Tensor:
    """Return ``y + sum_k m_k b_k``."""
    bias_KO = cast(torch.stack([c.bias for c in copies]), y)
    return torch.addmm(y.flatten(0, -2), route.mask(y.dtype).t(), bias_KO).view_as(y)


def scaled(copies: Sequence[Any], z: Tensor, route: Route) -> Tensor:
    """Return ``z prod_k (1 + m_k (l_k - 1))``."""
    shift_KO = cast(torch.stack([c.shift() for c in copies]), z)
    z_NO, mask_KN = z.flatten(0, -2), route.mask(z.dtype)
    if route.exclusive:
        return torch.addcmul(z_NO, z_NO, mask_KN.t() @ shift_KO).view_as(z)
    for mask_N, shift_O in zip(mask_KN, shift_KO, strict=True):
        z_NO = torch.addcmul(z_NO, z_NO, mask_N[:, None] * shift_O)
    return z_NO.view_as(z)


def output_scale(copies: Sequence[Any], x: Tensor, y: Tensor, route: Route) -> Tensor:
    """Return the scaled output."""
    return scaled(copies, y, route)


Joint = Callable[[Sequence[Any], Tensor, Tensor, Route], Tensor]
JOINT: dict[type, Joint] = {LowRank: low_rank, AddedBias: added_bias, OutputScale: output_scale}
BEFORE: dict[type, Callable[[Sequence[Any], Tensor, Route], Tensor]] = {InputScale: scaled}
