"""Places in a frozen network, in one vocabulary for every model family.

A site is live: it holds the module objects themselves, resolved once when a network is loaded.
Shape legend: B batch, T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Side = Literal["input", "output"]


@dataclass(frozen=True)
class TensorRef:
    """One tensor on its way into or out of a module.

    Attributes:
        module: the module it passes.
        side: ``"input"`` (an argument) or ``"output"`` (a result).
        index: position of the argument, or place in a returned tuple. None: the result itself.
        key: keyword of the argument, or attribute of a returned object; preferred over ``index``.

    """

    module: nn.Module
    side: Side
    index: int | None = None
    key: str | None = None

    def read(self, args: tuple, kwargs: Mapping[str, Any], output: Any = None) -> Any:
        """Return the tensor from a call's arguments and result (None if the call has none)."""
        if self.side == "input":
            if self.key is not None and self.key in kwargs:
                return kwargs[self.key]
            if self.index is not None and self.index < len(args):
                return args[self.index]
            return None
        if self.key is not None:
            return getattr(output, self.key)
        return output if self.index is None or isinstance(output, Tensor) else output[self.index]

    def write_input(self, args: tuple, kwargs: dict[str, Any], value: Any) -> tuple[tuple, dict]:
        """Return ``(args, kwargs)`` with this tensor replaced by ``value``."""
        if self.index is not None and self.index < len(args) and self.key not in kwargs:
            return (*args[: self.index], value, *args[self.index + 1 :]), kwargs
        if self.key is None:
            raise KeyError(f"argument {self.index} is not part of the call")
        return args, {**kwargs, self.key: value}

    def write_output(self, output: Any, value: Tensor) -> Any:
        """Return ``output`` with this tensor replaced by ``value``."""
        if self.key is not None:
            output[self.key] = value
            return output
        if self.index is None or isinstance(output, Tensor):
            return value
        return (*output[: self.index], value, *output[self.index + 1 :])

    def edit(self, fn: Callable[[Tensor], Tensor], first: bool = False) -> RemovableHandle:
        """Replace the tensor by ``fn(tensor)`` at every call; absent (None) tensors stay absent.

        Args:
            fn: maps the tensor to its replacement.
            first: run before the hooks that are already there.

        """
        if self.side == "input":

            def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
                value = self.read(args, kwargs)
                if value is None:
                    return args, kwargs
                return self.write_input(args, kwargs, fn(value))

            return self.module.register_forward_pre_hook(before, prepend=first, with_kwargs=True)

        def after(_: nn.Module, args: tuple, output: Any) -> Any:
            return self.write_output(output, fn(self.read(args, {}, output)))

        return self.module.register_forward_hook(after, prepend=first)

    def watch(self, fn: Callable[[Tensor], None]) -> RemovableHandle:
        """Call ``fn(tensor)`` at every call and change nothing."""
        if self.side == "input":

            def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                fn(self.read(args, kwargs))

            return self.module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, args: tuple, output: Any) -> None:
            fn(self.read(args, {}, output))

        return self.module.register_forward_hook(after)


@dataclass(frozen=True)
class LinearSite:
    """A linear layer in its role, or the rows of a fused one that play that role.

    Attributes:
        name: for example ``"encoder/0/q"``.
        role: q, k, v, o, qkv, up, gate, down; cross-attention roles start with ``cross_``.
        module: the layer, weight (out, in).
        path: dotted name of the layer in the network.
        rows: half-open range of output rows of ``module`` that belong to the role.

    """

    name: str
    role: str
    module: nn.Linear
    path: str
    rows: tuple[int, int]

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.module.in_features

    @property
    def out_features(self) -> int:
        """Number of output rows of this role."""
        return self.rows[1] - self.rows[0]

    @property
    def whole(self) -> bool:
        """Whether the role is the whole layer."""
        return self.rows == (0, self.module.out_features)


@dataclass(frozen=True)
class ChannelSite:
    """An output with a channel axis (always the last): linear, norm, or patch embedding.

    Attributes:
        name: for example ``"encoder/0/norm1"``.
        kind: ``linear``, ``norm`` or ``embed``.
        module: the layer whose parameters these are.
        path: dotted name of the layer.
        output: where the output passes.
        features: number of channels.

    """

    name: str
    kind: Literal["linear", "norm", "embed"]
    module: nn.Module
    path: str
    output: TensorRef
    features: int


@dataclass(frozen=True)
class OpSite:
    """A frozen operation OP inside ``stream + OP(stream)``.

    Attributes:
        name: for example ``"encoder/0/attn"``.
        kind: attn, cross_attn, mlp or block.
        stream: the residual stream that enters the sub-layer (before its norm in pre-norm nets).
        input: what the operation itself reads (after the norm in pre-norm nets); changing it
            leaves the residual stream as it is, but for a block, whose stream it is.
        output: what the operation gives back, as it is added to the stream (after layer scale,
            dropout and drop path); for a block, the block's output.
        width: D.

    """

    name: str
    kind: Literal["attn", "cross_attn", "mlp", "block"]
    stream: TensorRef
    input: TensorRef
    output: TensorRef
    width: int


@dataclass(frozen=True)
class AttentionSite:
    """A module whose forward calls ``scaled_dot_product_attention`` exactly once.

    Attributes:
        name: for example ``"encoder/0/attn"``.
        module: the attention module.
        heads: number of key/value heads.
        head_dim: numbers per head.
        scale: factor of the scores; None is ``head_dim ** -0.5``.

    """

    name: str
    module: nn.Module
    heads: int
    head_dim: int
    scale: float | None = None


@dataclass(frozen=True)
class Embed:
    """How a stack turns token ids into vectors, for stacks that do it in their own forward.

    Attributes:
        owner: module whose forward takes ``input_ids`` or ``inputs_embeds``.
        table: the embedding.

    """

    owner: nn.Module
    table: nn.Module

    def install(self) -> RemovableHandle:
        """Hand the stack vectors in place of ids, so that the sequence can be edited."""

        def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
            ids = args[0] if args else kwargs.get("input_ids")
            if ids is None or kwargs.get("inputs_embeds") is not None:
                return args, kwargs
            rest = {**kwargs, "input_ids": None, "inputs_embeds": self.table(ids)}
            if args:
                rest.pop("input_ids")
            return (None, *args[1:]) if args else args, rest

        return self.owner.register_forward_pre_hook(before, with_kwargs=True)

    def watch_cache(self, fn: Callable[[int, int], None]) -> RemovableHandle:
        """Call ``fn`` with how many tokens a key-value cache holds, and how many come now."""

        def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            past = kwargs.get("past_key_values")
            held = 0 if past is None else int(past.get_seq_length())
            given = args[0] if args else kwargs.get("input_ids")
            given = given if given is not None else kwargs.get("inputs_embeds")
            fn(held, 0 if given is None else given.shape[1])

        return self.owner.register_forward_pre_hook(before, with_kwargs=True)


@dataclass(frozen=True)
class SequenceSite:
    """The token sequence of one stack, from right after the embedding to after the last norm.

    Attributes:
        name: stack name.
        width: D.
        prefix_tokens: class and register tokens in front, which stay in front.
        enter: sequence (B, T, D) right after the embedding.
        leave: sequence (B, T, D) after the last norm.
        block_inputs: the sequence as it enters each block.
        masks: attention masks (B, T), 1 = token, that must grow with the sequence.
        positions: position ids (B, T), where a caller may pass them.
        embed: set when ids must be turned into vectors first.
        table: word embeddings, where the sequence is made of words.
        readers: masks (B, T) over this sequence in other stacks, which read it after ``leave``.
        memory: what this stack reads of another stack after its ``leave``, (B, S, D).

    """

    name: str
    width: int
    prefix_tokens: int
    enter: TensorRef
    leave: TensorRef
    block_inputs: tuple[TensorRef, ...]
    masks: tuple[TensorRef, ...] = ()
    positions: TensorRef | None = None
    embed: Embed | None = None
    table: nn.Module | None = None
    readers: tuple[TensorRef, ...] = ()
    memory: TensorRef | None = None


@dataclass
class Handles:
    """Everything an attached edit must undo, undone in reverse order."""

    undo: list[Callable[[], None]] = field(default_factory=list)

    def add(self, handle: RemovableHandle | Callable[[], None]) -> None:
        """Remember a hook handle or a function that undoes a change."""
        self.undo.append(handle.remove if isinstance(handle, RemovableHandle) else handle)

    def remove(self) -> None:
        """Undo everything."""
        while self.undo:
            self.undo.pop()()


def wrap_forward(module: nn.Module, wrapper: Callable[..., Any]) -> Callable[[], None]:
    """Replace ``module.forward`` by ``wrapper(forward, *args, **kwargs)``; return the undo."""
    had = "forward" in vars(module)
    inner = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return wrapper(inner, *args, **kwargs)

    module.forward = forward

    def undo() -> None:
        if had:
            module.forward = inner
        else:
            del module.forward

    return undo


def cast(parameter: Tensor, like: Tensor) -> Tensor:
    """Return ``parameter`` in the dtype of ``like`` (edits keep fp32 masters over any base)."""
    return parameter if parameter.dtype == like.dtype else parameter.to(like.dtype)


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """Return ``generator``, or one with a fixed seed."""
    return generator if generator is not None else torch.Generator().manual_seed(0)
