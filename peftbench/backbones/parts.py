"""Small helpers that family files share when they write an anatomy down."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..edits.sites import ChannelSite, LinearSite, TensorRef


def module_paths(model: nn.Module) -> dict[int, str]:
    """Return the dotted name of every module, by identity."""
    return {id(module): name for name, module in model.named_modules()}


def linear_site(
    prefix: str,
    role: str,
    module: nn.Linear,
    paths: dict[int, str],
    rows: tuple[int, int] | None = None,
) -> LinearSite:
    """Return the site of a linear layer (or of some of its rows) in a role."""
    span = rows or (0, module.out_features)
    return LinearSite(f"{prefix}/{role}", role, module, paths[id(module)], span)


def linear_channels(prefix: str, sites: Iterable[LinearSite]) -> list[ChannelSite]:
    """Return one channel site for each distinct layer among linear sites."""
    seen: dict[int, ChannelSite] = {}
    for s in sites:
        if s.whole and id(s.module) not in seen:
            output = TensorRef(s.module, "output")
            seen[id(s.module)] = ChannelSite(
                f"{prefix}/{s.role}", "linear", s.module, s.path, output, s.module.out_features
            )
    return list(seen.values())


def norm_channel(name: str, module: nn.Module, paths: dict[int, str], features: int) -> ChannelSite:
    """Return the channel site of a norm layer."""
    output = TensorRef(module, "output")
    return ChannelSite(name, "norm", module, paths[id(module)], output, features)
