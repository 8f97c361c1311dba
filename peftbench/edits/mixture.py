"""Frozen experts beside a linear layer, mixed by a gate. Lin et al., PEMT, ACL 2024 Findings.

Cosines with an expert's output are taken in its narrow space: with E = U h, <z, E> = <U^T z, h> and
|E|^2 = h^T (U^T U) h, so no expert's output is formed alone.
Shape legend: B batch, T tokens, K experts, R rank, I and O widths of the layer, M prompt tokens,
D width of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, IncompatibleError
from . import noise
from .base import Delta, Edit
from .linear import LinearEdit
from .op import ACTIVATIONS
from .sites import Handles, LinearSite, SequenceSite, TensorRef, cast
from .token import Tokens

LEAST = 1e-8  # length below which a cosine counts as that of this length


class LinearTuner(LinearEdit):
    """y' = y + tuner(x) at one linear layer, for tuners that are no matrix.

    Args:
        name: unique name.
        sites: the whole layer in its role.
        tuner: module (B, T, I) -> (B, T, O).
        identity: whether the tuner's output is zero at the start.

    """

    def __init__(
        self, name: str, sites: Sequence[LinearSite], tuner: nn.Module, identity: bool = True
    ) -> None:
        super().__init__(name, sites)
        self.tuner, self.identity = tuner, identity

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the tuner's output."""
        return y + cast(self.tuner(x), y)


@dataclass(frozen=True)
class Expert:
    """E(x) = U act(D x + b) + c; without biases it is U D x.

    Attributes:
        down_RI: D.
        up_OR: U.
        down_bias_R: b.
        up_bias_O: c.

    """

    down_RI: Tensor
    up_OR: Tensor
    down_bias_R: Tensor | None = None
    up_bias_O: Tensor | None = None


class Experts(nn.Module):
    """K frozen experts of one layer. They are no part of what is stored.

    Args:
        given: the experts, all of one form and rank.

    """

    down: Tensor
    up: Tensor
    gram: Tensor
    bias: Tensor | None

    def __init__(self, given: Sequence[Expert]) -> None:
        super().__init__()
        if not given:
            raise ConfigError("a mixture needs at least one expert")
        self.count = len(given)
        biases = [e.down_bias_R for e in given if e.down_bias_R is not None]
        ups_KOR = torch.stack([_with_bias(e) for e in given])
        self.rank = ups_KOR.shape[2]
        self._keep("down", torch.cat([e.down_RI for e in given]))
        self._keep("up", ups_KOR.transpose(0, 1).flatten(1))
        self._keep("gram", ups_KOR.mT @ ups_KOR)
        self._keep("bias", torch.cat(biases) if biases else None)

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def hidden(self, x_BTI: Tensor) -> Tensor:
        """Return h, (B, T, K, R); of experts with biases, the last of R is one."""
        if self.bias is None:
            return F.linear(x_BTI, cast(self.down, x_BTI)).unflatten(-1, (self.count, -1))
        h = F.linear(x_BTI, cast(self.down, x_BTI), cast(self.bias, x_BTI))
        h_BTKR = ACTIVATIONS["gelu_tanh"](h).unflatten(-1, (self.count, -1))
        return F.pad(h_BTKR, (0, 1), value=1.0)

    def mixed(self, h_BTKR: Tensor, weights_BK: Tensor) -> Tensor:
        """Return sum_k w_k E_k, (B, T, O)."""
        weighted = h_BTKR * cast(weights_BK, h_BTKR)[:, None, :, None]
        return F.linear(weighted.flatten(-2), cast(self.up, weighted))

    def cosines(self, h_BTKR: Tensor, z_BTO: Tensor) -> Tensor:
        """Return cos(z, E_k) at every position, (B, T, K), in fp32 or wider."""
        near = F.linear(z_BTO, cast(self.up, z_BTO).t()).unflatten(-1, (self.count, self.rank))
        wide = torch.promote_types(h_BTKR.dtype, torch.float32)
        h, near = h_BTKR.to(wide), near.to(wide)
        products_BTK = (near * h).sum(-1)
        square_BTK = (torch.einsum("btkr,krs->btks", h, self.gram.to(wide)) * h).sum(-1)
        length_BTK = square_BTK.clamp_min(LEAST**2).sqrt()
        return products_BTK / (
            length_BTK * z_BTO.to(wide).norm(dim=-1, keepdim=True).clamp_min(LEAST)
        )

    def folded(self, weights_K: Tensor) -> Tensor:
        """Return sum_k w_k U_k D_k, (O, I), which a frozen weight can take in.

        Raises:
            IncompatibleError: the experts are no matrices.

        """
        if self.bias is not None:
            raise IncompatibleError("experts with an activation cannot be folded into a weight")
        down_KRI = self.down.unflatten(0, (self.count, -1))
        up_OKR = self.up.unflatten(1, (self.count, -1))
        return torch.einsum("k,okr,kri->oi", weights_K.to(down_KRI), up_OKR, down_KRI)


def _with_bias(expert: Expert) -> Tensor:
    """Return U, with c as a last column where there is one."""
    if expert.up_bias_O is None:
        return expert.up_OR
    return torch.cat([expert.up_OR, expert.up_bias_O[:, None]], 1)


class Gate(nn.Module):
    """g = softmax(c W / t), W zero at the start: all experts alike.

    Args:
        width: of c.
        count: K.
        temperature: t.

    """

    def __init__(self, width: int, count: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, count))
        self.temperature = temperature

    def forward(self, c_BI: Tensor) -> Tensor:
        """Return the weights (B, K), fp32 or wider."""
        scores_BK = c_BI @ cast(self.weight, c_BI) / self.temperature
        return scores_BK.to(torch.promote_types(scores_BK.dtype, torch.float32)).softmax(-1)


class FixedGate(nn.Module):
    """The same weights for every sample: uniform, one-hot, or a mean of learned gates.

    Args:
        weights_K: the weights.

    """

    weights: Tensor

    def __init__(self, weights_K: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights_K, persistent=False)

    def forward(self, c_BI: Tensor) -> Tensor:
        """Return the weights (B, K)."""
        return self.weights.expand(c_BI.shape[0], -1)


class PromptView(Edit):
    """What mixtures read around them: masks of the stacks, and the prompt as the decoder sees it.

    Args:
        name: unique name.
        sequences: of every stack that has mixtures.
        prompt: the prompt; attached before this edit, so that masks are seen as they are widened.

    """

    def __init__(self, name: str, sequences: Sequence[SequenceSite], prompt: Tokens) -> None:
        super().__init__(name)
        self.sequences, self.refs = tuple(sequences), (prompt,)
        self.masks: dict[str, Tensor | None] = {}
        self.memory: dict[str, Tensor] = {}

    @property
    def prompt(self) -> Tokens:
        """The prompt, which is no part of this edit."""
        return self.refs[0]

    def install(self, delta: Delta, handles: Handles) -> None:
        """Watch masks and memories."""
        edits = list(delta)
        behind = [e for e in edits[edits.index(self) + 1 :] if isinstance(e, Tokens)]
        for sequence in self.sequences:
            later = [e for e in behind if e.site.name == sequence.name]
            for mask in sequence.masks:
                handles.add(mask.watch(self._keeper(sequence.name, later)))
            if sequence.memory is not None:
                handles.add(sequence.memory.watch(self._reader(sequence.name)))

        def forget() -> None:
            self.masks.clear()
            self.memory.clear()

        handles.add(forget)

    def _keeper(self, name: str, later: Sequence[Tokens]):  # type: ignore[no-untyped-def]
        def keep(mask: Tensor | None) -> None:
            if mask is not None and mask.dim() != 2:
                raise IncompatibleError(
                    f"mixtures in '{name}' read its attention mask, which must be of shape "
                    f"(batch, tokens); got {tuple(mask.shape)}"
                )
            if mask is not None:
                for edit in later:  # they widen it after this
                    mask = edit.grow(mask)
            self.masks[name] = mask

        return keep

    def _reader(self, name: str):  # type: ignore[no-untyped-def]
        def read(memory_BSD: Tensor | None) -> None:
            if memory_BSD is None:
                raise IncompatibleError(
                    f"the gates of '{name}' read what the encoder makes of the prompt: give the "
                    "stack the encoder's output"
                )
            first = self.prompt.kept
            self.memory[name] = memory_BSD[:, first : first + self.prompt.count].mean(1)

        return read


class Mixture(Edit):
    """z = y + a(y), y = W x + sum_k g_k E_k(x), with a term that rewards agreeing experts.

    The gate reads the mean of the layer's own input over the prompt's places, or, in a stack that
    reads another one, the mean over these places of what it reads. The term (B,) is
    sum_k g_bk (1 - c_k), c_k the mean over all real positions of the batch of cos(z, E_k(x)); its
    batch mean is the Task Sparsity Loss of the layer. It is handed out where gradients are wanted.

    Args:
        name: unique name.
        site: the layer.
        stack: name of its stack.
        experts: frozen.
        gate: (B, I or D) -> (B, K).
        view: what is read around the layer.
        tuner: a; None leaves it out.
        share: what the term is multiplied by, 1 / number of mixtures; 0: no term.
        mask_padding: leave padding out of c_k.

    """

    identity = False

    def __init__(
        self,
        name: str,
        site: LinearSite,
        stack: str,
        experts: Experts,
        gate: nn.Module,
        view: PromptView,
        tuner: nn.Module | None,
        share: float,
        mask_padding: bool = True,
    ) -> None:
        super().__init__(name)
        self.site, self.stack, self.refs = site, stack, (view,)
        self.experts, self.gate, self.tuner = experts, gate, tuner
        self.share, self.mask_padding = share, mask_padding

    @property
    def place(self) -> TensorRef:
        """Where the mixture is added."""
        return TensorRef(self.site.module, "output")

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output."""

        def after(_: nn.Module, args: tuple, y_BTO: Tensor) -> Tensor:
            return self.change(args[0], y_BTO, delta)

        handles.add(self.site.module.register_forward_hook(after))

    def read(self, x_BTI: Tensor) -> Tensor:
        """Return what the gate reads."""
        (view,) = self.refs
        if self.stack in view.memory:
            return view.memory[self.stack]
        first = view.prompt.slot(x_BTI.shape[1])
        return x_BTI[:, first : first + view.prompt.count].mean(1)

    def change(self, x_BTI: Tensor, y_BTO: Tensor, delta: Delta) -> Tensor:
        """Return z; hand out the gate (``delta.taps``) and the term (``delta.terms``)."""
        weights_BK = self.gate(self.read(x_BTI))
        delta.taps[f"gate/{self.name}"] = weights_BK
        h_BTKR = self.experts.hidden(x_BTI)
        z_BTO = y_BTO + cast(self.experts.mixed(h_BTKR, weights_BK), y_BTO)
        if self.tuner is not None:
            z_BTO = z_BTO + cast(self.tuner(z_BTO), z_BTO)
        if self.share and torch.is_grad_enabled():
            means_K = self._mean(self.experts.cosines(h_BTKR, z_BTO))
            delta.terms[f"sparsity/{self.name}"] = self.share * sparsity(weights_BK, means_K)
        return z_BTO

    def _mean(self, cosines_BTK: Tensor) -> Tensor:
        mask_BT = self.refs[0].masks.get(self.stack) if self.mask_padding else None
        if mask_BT is None:
            return cosines_BTK.mean((0, 1))
        real_BT1 = mask_BT.to(cosines_BTK.dtype)[..., None]
        return (cosines_BTK * real_BT1).sum((0, 1)) / real_BT1.sum()


def sparsity(weights_BK: Tensor, cosines_K: Tensor) -> Tensor:
    """Return sum_k g_bk (1 - c_k), (B,); its mean is the Task Sparsity Loss of one layer."""
    return (weights_BK * (1 - cosines_K)).sum(-1)


class CorrelatedTokens(Tokens):
    """P + sum_i softmax(P P_i^T) P_i: a prompt that attends to frozen prompts of other tasks.

    Args:
        name: unique name.
        site: the sequence.
        start: P at the start, (1, M, D).
        others: P_i, (M_i, D) each; they are no part of what is stored.
        correlation_dropout: on the probabilities, the same for all samples of a batch.
        stay: as for :class:`Tokens`.

    """

    def __init__(
        self,
        name: str,
        site: SequenceSite,
        start: Tensor,
        others: Sequence[Tensor],
        correlation_dropout: float = 0.0,
        stay: bool = True,
    ) -> None:
        super().__init__(name, site, start.shape[1], start, stay=stay)
        self.correlation_dropout = correlation_dropout
        for i, other_MD in enumerate(others):
            self.register_buffer(f"other{i}", other_MD, persistent=False)
        self.number = len(others)

    @property
    def others(self) -> list[Tensor]:
        """P_i, (M_i, D) each."""
        return [getattr(self, f"other{i}") for i in range(self.number)]

    def made(self, layer: int, like_BTD: Tensor) -> Tensor:
        """Return the correlated prompt for every sample, (B, M, D)."""
        others = self.others

        def drop(probabilities: Tensor, i: int) -> Tensor:
            p, name = self.correlation_dropout, f"{self.name}/correlation/{i}"
            return noise.dropout(probabilities, p, self.training, name, shared=True)

        with torch.autocast(like_BTD.device.type, enabled=False):
            prompt_MD = correlated(self.tokens[layer], others, drop)
        return cast(prompt_MD, like_BTD).expand(like_BTD.shape[0], -1, -1)


def correlated(prompt_MD: Tensor, others: Sequence[Tensor], drop=lambda p, i: p) -> Tensor:  # type: ignore[no-untyped-def]
    """Return P + sum_i drop(softmax(P P_i^T)) P_i, (M, D); no scaling of the products."""
    total_MD = prompt_MD
    for i, other_ND in enumerate(others):
        total_MD = total_MD + drop((prompt_MD @ other_ND.t()).softmax(-1), i) @ other_ND
    return total_MD
