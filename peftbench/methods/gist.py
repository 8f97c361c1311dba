"""GIST: one extra token and knowledge interaction. Ruan et al., arXiv 2312.07255.

z0 = [class ; D_p(g) ; patches]; the same head reads the class token (s_c) and the mean of the Gist
tokens (s_g). L = CE(s_c) + lambda CE(s_g) + mu [KL(p||q) + KL(q||p)], with p, q the softmax of
s_c / tau and s_g / tau, no tau^2 and no stopped gradient. Numbers of the official release.
Shape legend: B batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import Delta, Edit, Tokens
from ..errors import ConfigError
from .adapter import Adapter
from .base import Criterion, Method, Output, ParamGroup, Passes, Stage
from .checks import at_least, fraction

GIST = "gist"


def _released_host() -> Method:
    return Adapter("shared_parallel", hidden=4, scale=0.1, init="small")


@dataclass(frozen=True)
class Gist(Method):
    """A wrapper around any other method.

    Attributes:
        inner: the host method.
        enabled: False is exactly the host.
        tokens: m, number of Gist tokens.
        dropout: p, on the tokens as they are inserted.
        lambda_ce: weight of the Gist cross entropy.
        mu_kl: weight of each direction of the divergence.
        tau: temperature.
        kl_mode: which directions; cls_to_gist is KL(p||q), gist_to_cls is KL(q||p).
        detach: ``teacher`` stops the gradient into the first argument of each KL.
        tau_squared: multiply the divergence by tau^2 (off in the release).
        head_sharing: ``separate`` gives the Gist token a head of its own, C (d + 1) numbers.
        inference: which logits predict.
        insert: behind the class token, or at the end.
        decay: weight decay on the tokens (on in the release).

    """

    refused: ClassVar[Mapping[str, str]] = {
        "t5": "the network generates text; no token stands for a class",
        "llama": "it reads the last token of a causal sequence; there is no class token in front",
    }

    inner: Method = field(default_factory=_released_host)
    enabled: bool = True
    tokens: int = 1
    dropout: float = 0.1
    lambda_ce: float = 0.5
    mu_kl: float = 0.75
    tau: float = 3.0
    kl_mode: Literal["both", "cls_to_gist", "gist_to_cls", "none"] = "both"
    detach: Literal["none", "teacher"] = "none"
    tau_squared: bool = False
    head_sharing: Literal["shared", "separate"] = "shared"
    inference: Literal["cls", "gist", "mean_prob"] = "cls"
    insert: Literal["after_cls", "end"] = "after_cls"
    decay: bool = True

    def __post_init__(self) -> None:
        at_least("method.tokens", self.tokens, 1)
        fraction("method.dropout", self.dropout)
        if self.tau <= 0:
            raise ConfigError(f"method.tau: {self.tau} must be above 0")
        at_least("method.lambda_ce", self.lambda_ce, 0)
        at_least("method.mu_kl", self.mu_kl, 0)
        if isinstance(self.inner, Gist) or GIST in self.inner.readouts():
            raise ConfigError("method.inner: GIST wraps another method, not itself")

    def stages(self) -> tuple[Stage, ...]:
        """Return the host's."""
        return self.inner.stages()

    def staged(self, adapters: Mapping[str, Path]) -> Gist:
        """Return the method with the host's sources."""
        return replace(self, inner=self.inner.staged(adapters))

    def on_task(self, description: tuple[int, ...]) -> Gist:
        """Return the method with the host on a task."""
        return replace(self, inner=self.inner.on_task(description))

    def check(self, family: str) -> None:
        """Refuse what the host refuses, and networks without a class position."""
        self.inner.check(family)
        if self.enabled:
            super().check(family)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """Return the host's edits, then the tokens, which so stand next to the class token."""
        edits = self.inner.edits(anatomy, generator)
        if self.enabled:
            edits.append(
                Tokens(
                    GIST,
                    anatomy.stacks[0].sequence,
                    self.tokens,
                    start=0.5,
                    dropout=self.dropout,
                    place="front" if self.insert == "after_cls" else "end",
                    readout=GIST,
                    readout_in_eval=self.inference != "cls",
                    generator=generator,
                )
            )
        return edits

    def readouts(self) -> Mapping[str, str]:
        """One extra read-out, through the same head unless it is separate."""
        inner = self.inner.readouts()
        return {**inner, GIST: self.head_sharing} if self.enabled else inner

    def losses(self, output: Output, criterion: Criterion) -> dict[str, Tensor]:
        """Return the host's terms, the Gist cross entropy, and each direction of the divergence."""
        terms = self.inner.losses(output, criterion)
        if not self.enabled:
            return terms
        gist_BC = output.extra[GIST]
        terms["gist_ce"] = self.lambda_ce * criterion(gist_BC)
        forward, backward = divergences(output.logits, gist_BC, self.tau, self.detach)
        weight = self.mu_kl * (self.tau**2 if self.tau_squared else 1.0)
        if self.kl_mode in ("both", "cls_to_gist"):
            terms["kl_cls_gist"] = weight * forward
        if self.kl_mode in ("both", "gist_to_cls"):
            terms["kl_gist_cls"] = weight * backward
        return terms

    def scores(self, output: Output) -> Tensor:
        """Return the class-token logits, or what ``inference`` says."""
        if not self.enabled or self.inference == "cls":
            return output.logits
        if self.inference == "gist":
            return output.extra[GIST]
        both = [F.log_softmax(x.float(), -1) for x in (output.logits, output.extra[GIST])]
        return torch.logaddexp(*both) - math.log(2)  # finite where a probability underflows

    def prepare(self, delta: Delta, passes: Passes) -> None:
        """Let the host look at data, with the loss of both."""
        self.inner.prepare(delta, passes)

    def param_groups(self, delta: Delta, heads: nn.Module) -> list[ParamGroup]:
        """Return the host's groups, with the tokens apart where they are not decayed."""
        groups = self.inner.param_groups(delta, heads)
        if self.decay or not self.enabled:
            return groups
        name = f"delta.edits.{GIST}.tokens"
        for group in groups:
            if name in group.params:
                own = ParamGroup({name: group.params.pop(name)}, group.lr, weight_decay=0.0)
                return [*groups, own]
        raise ConfigError("method.decay: the host's groups do not hold the Gist tokens")


def divergences(
    class_BC: Tensor, gist_BC: Tensor, tau: float, detach: str = "none"
) -> tuple[Tensor, Tensor]:
    """Return KL(p||q) and KL(q||p) per sample, (B,), of logits softened by ``tau``, in fp32.

    Their sum is sum_k (p_k - q_k)(log p_k - log q_k): BKLD, section 4 of the paper.
    """
    log_p = F.log_softmax(class_BC.float() / tau, dim=-1)
    log_q = F.log_softmax(gist_BC.float() / tau, dim=-1)
    stopped = detach == "teacher"
    teacher_p, teacher_q = (log_p.detach(), log_q.detach()) if stopped else (log_p, log_q)
    forward = F.kl_div(log_q, teacher_p, reduction="none", log_target=True).sum(-1)
    backward = F.kl_div(log_p, teacher_q, reduction="none", log_target=True).sum(-1)
    return forward, backward
