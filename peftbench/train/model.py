"""The network that trains: frozen base, delta and heads in one module.

Shape legend: B batch, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..backbones.backbone import Backbone
from ..edits.base import Delta
from ..edits.noise import stream_seed
from ..edits.sites import Handles, wrap_forward
from ..errors import ConfigError, IncompatibleError
from ..methods.base import Method, Output, Passes

MAIN = "main"
CONNECTOR = "connector"
CONTEXT = "context"
HOLDER = "_peftbench_delta"  # on an adapted network: the delta, in a tuple so that it is no part


class Adapted(nn.Module):
    """A frozen network with a method's delta attached, and classifier heads where there are any.

    Args:
        backbone: the frozen network.
        method: what is added.
        classes: C; None uses the network's own language-model head.
        seed: of all initial values.

    Raises:
        IncompatibleError: the method has no meaning on the network, or another one is in it.

    """

    def __init__(
        self, backbone: Backbone, method: Method, classes: int | None, seed: int = 0
    ) -> None:
        super().__init__()
        self.backbone, self.method = backbone, method
        self.base = backbone.model
        _require_free(self.base, backbone.name)
        anatomy = backbone.anatomy
        generator = torch.Generator().manual_seed(stream_seed(seed, "init"))
        part = anatomy if classes is None else anatomy.for_features()
        self.delta = method.plan(part, generator)
        self.heads = nn.ModuleDict()
        if classes is None:
            if anatomy.logits is None:
                raise IncompatibleError(f"{backbone.name} has no language-model head")
            if method.readouts():
                raise IncompatibleError(f"{type(method).__name__} needs a classifier head")
            if anatomy.connector is not None:
                _require_gradients(self.delta, backbone.name)
                stream = torch.Generator().manual_seed(stream_seed(seed, "head", CONNECTOR))
                self.heads[CONNECTOR] = anatomy.connector(stream)
        else:
            separate = [n for n, kind in method.readouts().items() if kind == "separate"]
            for name in [MAIN, *separate]:
                stream = torch.Generator().manual_seed(stream_seed(seed, "head", name))
                self.heads[name] = new_head(anatomy.width, classes, stream)
        if not self.trainable():
            raise IncompatibleError(
                f"method {type(method).__name__} trains nothing but a classifier head, and "
                f"{backbone.name} is used with its own language-model head"
            )
        self._checkpointing = Handles()
        self.delta.attach()
        vars(self.base)[HOLDER] = (self.delta,)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        context: Mapping[str, Tensor] | None = None,
        features_BD: Tensor | None = None,
    ) -> Output:
        """Return logits and extra logits.

        Args:
            inputs: what the network takes: normalised images, or ids and mask.
            context: tensors that edits read, such as context ids per token.
            features_BD: pooled features that were computed before, where no edit changes them;
                the head alone reads them. Given here and not to the head, so that a wrapper for
                several processes sees the call and adds up its gradients.

        """
        if features_BD is not None:
            return Output(self._head(MAIN, features_BD))
        anatomy, delta = self.backbone.anatomy, self.delta
        self._forget()
        if context:
            delta.context.update(context)
        if MAIN not in self.heads:
            assert anatomy.logits is not None
            logits_BTV = anatomy.logits(self.base, self._connected(inputs))
            return Output(logits_BTV, terms=dict(delta.terms))
        pooled_BD = anatomy.features(self.base, inputs)
        extra: dict[str, Tensor] = {}
        for name, kind in self.method.readouts().items():
            if name in delta.taps:
                token_BD = anatomy.read_token(self.base, delta.taps.pop(name))
                extra[name] = self._head(name if kind == "separate" else MAIN, token_BD)
        return Output(self._head(MAIN, pooled_BD), extra, dict(delta.terms))

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs with all done that writing and its loss have in common.

        That is the encoder's pass of an encoder-decoder, what a captioner sees, and nothing
        elsewhere.
        """
        anatomy = self.backbone.anatomy
        self._forget()
        return dict(inputs) if anatomy.encode is None else anatomy.encode(self.base, inputs)

    def _connected(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what the language model takes, and tell edits what every token is."""
        connect = self.backbone.anatomy.connect
        if connect is None:
            return inputs
        made, context_BT = connect(self.base, self.heads[CONNECTOR], inputs)
        self.delta.context.setdefault(CONTEXT, context_BT)
        return made

    def _forget(self) -> None:
        for held in (self.delta.taps, self.delta.terms, self.delta.context):
            held.clear()

    @torch.no_grad()
    def write(
        self, inputs: Mapping[str, Tensor], end: int, pad: int, longest: int, **how: Any
    ) -> Tensor:
        """Return what the network writes after its inputs, ids (B, G) with G <= longest.

        Args:
            inputs: ids and mask, or what :meth:`encode` made of them; prompts of a decoder end
                together.
            end: id that ends an answer.
            pad: id that fills up the answers that end first.
            longest: tokens of an answer.
            how: further settings of transformers' ``GenerationConfig``; greedy by default.

        """
        from transformers import GenerationConfig

        anatomy = self.backbone.anatomy
        if anatomy.write is None:
            raise IncompatibleError(f"{self.backbone.name} has no language-model head to write by")
        self._forget()
        settings: dict[str, Any] = {
            "do_sample": False,
            "num_beams": 1,
            "use_cache": all(edit.caches for edit in self.delta),
            **how,
        }
        start = getattr(getattr(self.base, "config", None), "decoder_start_token_id", None)
        if start is not None:
            settings["decoder_start_token_id"] = start
        config = GenerationConfig(
            max_new_tokens=longest, eos_token_id=end, pad_token_id=pad, **settings
        )
        return anatomy.write(self.base, self._connected(inputs), config)

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return pooled features (B, D)."""
        return self.backbone.anatomy.features(self.base, inputs)

    def _head(self, name: str, features_BD: Tensor) -> Tensor:
        head = self.heads[name]
        assert isinstance(head, nn.Linear)
        return head(features_BD.to(head.weight.dtype))

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return every tensor that trains, by name."""
        found = {f"delta.{n}": p for n, p in self.delta.named_parameters()}
        found.update({f"heads.{n}": p for n, p in self.heads.named_parameters()})
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Return what the artefact stores: delta (with buffers) and heads, by name."""
        found = {f"delta.{n}": t for n, t in self.delta.tensors().items()}
        found.update({f"heads.{n}": t.detach() for n, t in self.heads.state_dict().items()})
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`tensors` returned.

        Raises:
            ConfigError: a name is missing, unexpected, or has another shape.

        """
        mine = self.tensors()
        for name in sorted(mine.keys() | tensors.keys()):
            if name not in tensors or name not in mine:
                side = "lacks" if name not in tensors else "has the unknown"
                raise ConfigError(f"the stored adapter {side} tensor '{name}'")
            if tensors[name].shape != mine[name].shape:
                raise ConfigError(
                    f"tensor '{name}' is {tuple(tensors[name].shape)} in the stored adapter and "
                    f"{tuple(mine[name].shape)} here"
                )
        self.delta.lift()
        with torch.no_grad():
            for name, tensor in tensors.items():
                mine[name].copy_(tensor)
        self.delta.sync()

    def prepare(self, passes: Passes) -> None:
        """Let the method look at the first batches, before the first step; gradients are dropped.

        Args:
            passes: forward and backward over training batches; in training mode, as a step is.

        Raises:
            NoGradientError: a tensor whose gradient is looked at got none.
            NonFiniteError: such a gradient is not finite.

        """
        try:
            for edit in self.delta:
                edit.preparing = True
            self.method.prepare(self.delta, passes)
        finally:
            for edit in self.delta:
                edit.preparing = False
            for parameter in self.trainable().values():
                parameter.grad = None

    def counts(self) -> dict[str, int]:
        """Return numbers of trainable (method), head and all parameters."""
        head = sum(p.numel() for p in self.heads.parameters())
        trainable = self.delta.parameter_count()
        added = trainable if self.delta.attached else 0
        base = {id(p): p.numel() for p in self.base.parameters()}
        swapped = sum(base.get(id(p), 0) for p in self.delta.parameters())
        return {
            "trainable": trainable,
            "head": head,
            "total": sum(base.values()) + added - swapped + head,
        }

    def checkpointing(self, on: bool) -> None:
        """Recompute each block in the backward pass (non-reentrant) instead of keeping it."""
        self._checkpointing.remove()
        if on:
            for block in self.backbone.anatomy.blocks:
                self._checkpointing.add(wrap_forward(block.module, _recomputed))

    def release(self) -> Backbone:
        """Take everything out of the network and give it back as it was."""
        self._checkpointing.remove()
        self.delta.detach()
        vars(self.base).pop(HOLDER, None)
        return self.backbone

    def stochastic(self) -> bool:
        """Whether the frozen network draws random numbers in training mode."""
        for module in self.base.modules():
            rate = getattr(module, "p", None) if isinstance(module, nn.Dropout) else None
            rate = getattr(module, "drop_prob", rate)
            if isinstance(rate, float) and rate > 0:
                return True
        config = getattr(self.base, "config", None)
        names = ("attention_dropout", "dropout_rate", "attention_probs_dropout_prob")
        return any(getattr(config, name, 0.0) for name in names)


def _require_free(network: nn.Module, name: str) -> None:
    """Refuse a network that a delta is attached to: taking out the two would mix them up."""
    if any(delta.attached for delta in vars(network).get(HOLDER, ())):
        raise IncompatibleError(
            f"{name}: another method is attached to this network; call release() on what it gave, "
            "use a copy of the network, or several methods at once: Combo (method=combo)"
        )


def _require_gradients(delta: Delta, name: str) -> None:
    """Refuse edits that keep gradients from what stands in front of the network."""
    alone = [edit.name for edit in delta if edit.alone]
    if alone:
        raise IncompatibleError(
            f"'{alone[0]}' stands beside the network so that no gradient passes the network, and "
            f"the map in front of it, which {name} needs, would not train"
        )


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)


def new_head(width: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """Return a classifier head: truncated normal weights (std 0.02), zero bias."""
    head = nn.Linear(width, classes)
    nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
    nn.init.zeros_(head.bias)
    return head
