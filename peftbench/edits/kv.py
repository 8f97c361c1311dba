"""Edits that extend keys and values inside attention.

Every family calls ``scaled_dot_product_attention`` once per attention; the edit replaces that one
call while the attention module runs, so no attention code is repeated here.
Shape legend: B batch, H heads, Tq queries, Tk keys, L prefix length, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import IncompatibleError
from .base import Delta, Edit
from .sites import AttentionSite, Handles, cast, seeded, wrap_forward


class Prefix(Edit):
    """Prefix tuning: keys and values get L learned rows. Li & Liang, arXiv 2101.00190, sec. 4.

    Keys and values are Xavier-uniform over (L, H E). The rows are seen by every query, causal masks
    included. A prefix takes softmax mass, so the network's function changes at the start.
    """

    identity = False

    def __init__(
        self,
        name: str,
        site: AttentionSite,
        length: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(name)
        self.site, self.length = site, length
        g = seeded(generator)
        shape = (length, site.heads * site.head_dim)
        self.key = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape), generator=g))
        self.value = nn.Parameter(nn.init.xavier_uniform_(torch.empty(shape), generator=g))

    def install(self, delta: Delta, handles: Handles) -> None:
        """Run the attention module's forward under a mode that extends its attention call."""
        handles.add(redirect(self.site, self.attend))

    def attend(
        self,
        q_BHQE: Tensor,
        k_BHKE: Tensor,
        v_BHKE: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **rest: Any,
    ) -> Tensor:
        """Call attention with the prefix in front of keys and values, and the mask widened."""
        queries, keys = q_BHQE.shape[-2], k_BHKE.shape[-2]
        if is_causal:
            attn_mask = torch.ones(queries, keys, dtype=torch.bool, device=q_BHQE.device).tril()
        if attn_mask is not None:
            fill = True if attn_mask.dtype == torch.bool else 0.0
            attn_mask = F.pad(attn_mask, (self.length, 0), value=fill)
        return F.scaled_dot_product_attention(
            q_BHQE,
            torch.cat([self.rows(self.key, k_BHKE), k_BHKE], dim=-2),
            torch.cat([self.rows(self.value, v_BHKE), v_BHKE], dim=-2),
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            **rest,
        )

    def rows(self, prefix: Tensor, like_BHKE: Tensor) -> Tensor:
        """Return a prefix as (B, H, L, E), heads repeated where the network repeats them."""
        rows_HLE = prefix.view(self.length, self.site.heads, self.site.head_dim).transpose(0, 1)
        repeats = like_BHKE.shape[1] // self.site.heads
        if repeats > 1:
            rows_HLE = rows_HLE.repeat_interleave(repeats, dim=0)
        return cast(rows_HLE, like_BHKE).expand(like_BHKE.shape[0], -1, -1, -1)


def redirect(site: AttentionSite, attend: Callable[..., Tensor]) -> Callable[[], None]:
    """Send the attention call of one module to ``attend``; return the undo.

    Args:
        site: the attention.
        attend: takes what ``scaled_dot_product_attention`` takes, and gives what it gives.

    Raises:
        IncompatibleError: (from the module's forward) it makes no such call, or several.

    """
    mode = _Redirect(attend)

    def wrapper(forward: Any, *args: Any, **kwargs: Any) -> Any:
        mode.calls = 0
        with mode:
            result = forward(*args, **kwargs)
        if mode.calls != 1:
            raise IncompatibleError(
                f"'{site.name}' called scaled_dot_product_attention {mode.calls} times, and the "
                "edit acts on exactly one call; build the network with fused attention (timm: "
                "without TIMM_FUSED_ATTN=0; transformers: attn_implementation='sdpa')"
            )
        return result

    return wrap_forward(site.module, wrapper)


class _Redirect(TorchFunctionMode):
    """Calls another function where a module calls ``scaled_dot_product_attention``."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend, self.calls = attend, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.calls += 1
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
