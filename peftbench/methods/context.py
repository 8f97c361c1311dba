"""Context-PEFT: a token trains and uses the numbers of its own context.

Hadji-Kyriacou and Arandjelovic, arXiv 2312.08900, section 3: any number of contexts (text and image
in the paper), each with its own LoRA, added biases or IA3 scales at every adapted layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch

from ..backbones.anatomy import Anatomy, Stack
from ..edits import AddedBias, ContextBank, Edit, LinearEdit, Router
from ..errors import ConfigError, IncompatibleError, unknown
from .base import Method
from .bitfit import BitFit
from .checks import layer_name
from .ia3 import IA3
from .lora import Lora

SHARED, EACH = "shared", "per_context"
ROLES: dict[str, tuple[str, ...]] = {"A": ("attn",), "F": ("mlp",), "AF": ("all",)}
HOOKS = ("stages", "readouts", "losses", "prepare", "param_groups", "scores")
REACHING = ("k", "v")  # roles whose output reaches other tokens


@dataclass(frozen=True)
class RelativeIA3(IA3):
    """IA3 that keeps l - 1, so that no decay and no number format pulls a scale from one."""

    relative: ClassVar[bool] = True


@dataclass(frozen=True)
class Biases(Method):
    """A bias, zero at the start, at every linear layer of some roles, whether it has one or not."""

    roles: tuple[str, ...] = ("all",)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per layer."""
        return [AddedBias(layer_name(s), s) for s in anatomy.linears(self.roles)]


def _paper_host() -> Method:
    return Lora()


@dataclass(frozen=True)
class Context(Method):
    """A set of another method's edits for each context.

    Attributes:
        inner: the method; its edits must stand at linear layers.
        names: of the contexts; a token's number is the place in this list, -1 is no context.
        contexts: ``per_context``; ``shared``, one set for all; or ``NAME_only`` with a name: the
            other contexts pass the frozen layers.
        written: the context of what the network writes, and of all tokens where none is given.
        targets: the paper's places: A attention, F feed-forward, AF both (LoRA and biases: all
            layers; IA3: keys, values and the input of the last layer); ``own``: those of ``inner``.
        scale: s of a low-rank update; None: alpha / rank of ``inner``.
        skip_dead: leave out what only changes the last block's output at tokens of the other
            contexts: all but their keys and values there. For decoders without a loss on them.
        merge: decode with weights into which the written context's set is merged.

    """

    inner: Method = field(default_factory=_paper_host)
    names: tuple[str, ...] = ("text", "image")
    contexts: str = EACH
    written: str = "text"
    targets: Literal["A", "F", "AF", "own"] = "AF"
    scale: float | None = 1.0
    skip_dead: bool = False
    merge: bool = True

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ConfigError(
                f"method.names: {list(self.names)} must be different names, one or more"
            )
        for name in self.names:
            if not name.isidentifier() or name == SHARED:
                raise ConfigError(f"method.names: '{name}' is no name; letters, digits and _ are")
        allowed = [EACH, SHARED, *(f"{n}_only" for n in self.names)]
        if self.contexts not in allowed:
            raise unknown("choice of contexts", self.contexts, allowed, "method.contexts")
        if self.written not in self.names:
            raise unknown("context", self.written, self.names, "method.written")
        for hook in HOOKS:
            if getattr(type(self.inner), hook) is not getattr(Method, hook):
                raise ConfigError(
                    f"method.inner: {type(self.inner).__name__} is more than edits of linear layers"
                    f" (it has '{hook}' of its own); lora, dora, ia3 and bitfit work here"
                )
        self.placed()

    def placed(self) -> Method:
        """Return the inner method at the target layers, in the form that contexts need.

        Raises:
            ConfigError: the targets are not known for it, or it says other ones itself.

        """
        inner, targets = self.inner, self.targets
        if targets == "own":
            return RelativeIA3(**vars(inner)) if type(inner) is IA3 else self._scaled(inner)
        if isinstance(inner, Lora):
            self._untouched("roles")
            return self._scaled(replace(inner, roles=ROLES[targets]))
        if type(inner) is IA3:
            self._untouched("outputs", "inputs")
            outputs = inner.outputs if "A" in targets else ()
            return RelativeIA3(outputs, inner.inputs if "F" in targets else ())
        if isinstance(inner, BitFit):
            return Biases(ROLES[targets])
        raise ConfigError(
            f"method.targets: {targets} is not written down for {type(inner).__name__}; use "
            "method.targets=own, where its own settings say which layers"
        )

    def _untouched(self, *names: str) -> None:
        for name in names:
            if getattr(self.inner, name) != getattr(type(self.inner)(), name):
                raise ConfigError(
                    f"method.inner.{name} is given, and method.targets={self.targets} says which "
                    "layers as well; use method.targets=own with it"
                )

    def _scaled(self, inner: Method) -> Method:
        if not isinstance(inner, Lora) or self.scale is None:
            return inner
        if inner.alpha != type(inner)().alpha:
            raise ConfigError(
                f"method.inner.alpha is given, and method.scale={self.scale} says the factor of "
                "the update as well; use method.scale=null with it"
            )
        return replace(inner, alpha=self.scale * inner.rank, rslora=False)

    def serves(self) -> dict[str, tuple[int, ...] | None]:
        """Return, for each set by name, the numbers of the contexts that use it; None is all."""
        if self.contexts == SHARED:
            return {SHARED: None}
        numbers = {name: (i,) for i, name in enumerate(self.names)}
        if self.contexts == EACH:
            return dict(numbers)
        name = self.contexts.removesuffix("_only")
        return {name: numbers[name]}

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """Return a router per stack, and a bank per adapted layer with a copy per context.

        Raises:
            IncompatibleError: an edit of the inner method does not stand at a linear layer.

        """
        serves, routers = self.serves(), self._routers(anatomy)
        sets = {name: self._set(anatomy, generator) for name in serves}
        last = {id(s.module) for s in anatomy.stacks[0].blocks[-1].linears.values()}
        home = {
            id(s.module): stack.name
            for stack in anatomy.stacks
            for block in stack.blocks
            for s in block.linears.values()
        }
        found: list[Edit] = []
        for name, first in next(iter(sets.values())).items():
            roles = {s.role for s in first.sites}
            router = routers[home[id(first.module)]]
            if roles <= {"cross_k", "cross_v"}:  # they read the first stack's sequence
                router = next(iter(routers.values()))
            kept = [n for n in serves if self._alive(n, router, id(first.module) in last, roles)]
            if kept:
                found.append(ContextBank(name, {n: sets[n][name] for n in kept}, router))
        return [*routers.values(), *found]

    def _alive(self, name: str, router: Router, last: bool, roles: set[str]) -> bool:
        """Whether a context's set at a layer can matter."""
        if router.only([name]) is not None:
            return True
        dead = self.skip_dead and last and not roles & set(REACHING)
        return router.given and not dead

    def _routers(self, anatomy: Anatomy) -> dict[str, Router]:
        """Return what reads the numbers of each stack's tokens; they are the first stack's."""

        def router(stack: Stack, given: bool) -> Router:
            return Router(
                f"{stack.sequence.name}/contexts",
                stack.sequence,
                self.names,
                self.serves(),
                written=self.names.index(self.written),
                given=given,
                merge=self.merge,
            )

        return {s.name: router(s, i == 0) for i, s in enumerate(anatomy.stacks)}

    def _set(self, anatomy: Anatomy, generator: torch.Generator) -> Mapping[str, LinearEdit]:
        """Return one set of the inner method's edits by name."""
        inner = self.placed()
        found: dict[str, LinearEdit] = {}
        for edit in inner.edits(anatomy, generator):
            if not isinstance(edit, LinearEdit):
                raise IncompatibleError(
                    f"method.inner: contexts choose among edits of linear layers, and "
                    f"{type(self.inner).__name__} puts a {type(edit).__name__} at '{edit.name}'; "
                    "lora, dora, ia3 and bitfit (with method.targets=A, F or AF) work here"
                )
            found[edit.name] = edit
        return found

    def check(self, family: str) -> None:
        """Refuse what the inner method refuses."""
        self.inner.check(family)
