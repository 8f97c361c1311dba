"""Which copies of an edit act on which token of a sequence, found once per forward pass.

Shape legend: B batch, S tokens with a given context, T tokens of a call, N = B T, C contexts,
K copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import IncompatibleError
from .base import Delta, Edit
from .sites import Handles, SequenceSite
from .token import Tokens

NONE = -1  # context number of a token that no copy acts on
RUN = 32  # rows that a run has on average before a product of its own pays off


class Route:
    """Which of some copies act on each token.

    Attributes:
        member_KN: bool.
        exclusive: whether at most one copy acts on a token.

    """

    def __init__(self, member_KN: Tensor, exclusive: bool) -> None:
        self.member_KN, self.exclusive = member_KN, exclusive
        self._masks: dict[torch.dtype, Tensor] = {}
        self._runs: list[tuple[int, int, int]] | None = None

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Return zeros and ones, (K, N)."""
        if torch.compiler.is_compiling():
            return self.member_KN.to(dtype)
        if dtype not in self._masks:
            self._masks[dtype] = self.member_KN.to(dtype)
        return self._masks[dtype]

    def runs(self) -> list[tuple[int, int, int]] | None:
        """Return runs (start, stop, copy) of rows that one copy acts on.

        None where they would not pay off: on a GPU, where lengths would have to be waited for,
        where copies overlap, and where runs are short.
        """
        if not self.exclusive or self.member_KN.device.type != "cpu":
            return None
        if self._runs is None:
            self._runs = _runs(self.member_KN)
        kept, rows = self._runs, self.member_KN.shape[1]
        return kept if len(kept) * RUN <= rows else None


def _runs(member_KN: Tensor) -> list[tuple[int, int, int]]:
    number_N = torch.where(member_KN.any(0), member_KN.int().argmax(0), NONE)
    edges = (number_N[1:] != number_N[:-1]).nonzero().flatten() + 1
    starts = [0, *edges.tolist()]
    stops = [*starts[1:], len(number_N)]
    numbers = number_N[starts].tolist()
    return [r for r in zip(starts, stops, numbers, strict=True) if r[2] != NONE]


class Router(Edit):
    """Reads the context numbers of tokens; changes nothing by itself.

    ``delta.context["context"]`` holds int64 (B, S), the context of each token of a prompt, -1 for
    none; or bool (B, S, C), where contexts may overlap. Tokens behind the given ones belong to the
    context ``written``, and so does everything where nothing is given. A row serves as many rows of
    the network as its beams. What is given stays until the next forward pass begins, so a
    recomputation in the backward pass sees it.

    Args:
        name: unique name.
        site: the sequence.
        contexts: names in the order of their numbers.
        serves: copy -> numbers of its contexts; None: every context (all numbers from 0).
        written: number of the context of what is written.
        given: whether the numbers are about this sequence; else it is all ``written``.
        merge: while a network goes on with a key-value cache and all that comes is ``written``,
            banks use weights into which that copy is merged.

    """

    def __init__(
        self,
        name: str,
        site: SequenceSite,
        contexts: Sequence[str],
        serves: Mapping[str, Sequence[int] | None],
        written: int = 0,
        given: bool = True,
        merge: bool = True,
    ) -> None:
        super().__init__(name)
        self.site, self.contexts, self.serves = site, tuple(contexts), dict(serves)
        self.written, self.given, self.merge = written, given, merge
        self.held = 0
        self.merging = 0  # grows whenever a new spell of writing begins; 0 while there is none
        self.ends: list[Callable[[], None]] = []  # called when a spell of writing ends
        self._spells = 0
        self._context: dict[str, Tensor] = {}
        self._mixed = False
        self._seen: tuple[Tensor, int, int, int] | None = None
        self._routes: dict[tuple[str, ...], Route] = {}

    def install(self, delta: Delta, handles: Handles) -> None:
        """Watch the key-value cache, and where a forward pass begins."""
        self._context = delta.context
        self._mixed = any(isinstance(e, Tokens) for e in delta)
        handles.add(self.reset)
        handles.add(self.site.block_inputs[0].watch(lambda _: self._begin()))
        if self.site.embed is not None:
            handles.add(self.site.embed.watch_cache(self._note))

    def sync(self) -> None:
        """Forget weights that were merged before the parameters changed."""
        self.reset()

    def reset(self) -> None:
        """Forget everything about the last forward pass."""
        self.held = 0
        self._stop()
        self._begin()

    def _stop(self) -> None:
        if self.merging:
            self.merging = 0
            for end in self.ends:
                end()

    def _begin(self) -> None:
        self._seen = None
        self._routes.clear()

    def _note(self, held: int, new: int) -> None:
        self.held = held
        ids = self.ids()
        writes = held > 0 and (ids is None or held >= ids.shape[1])
        able = self.merge and not self.training and not torch.is_grad_enabled()
        if not (writes and able) or torch.compiler.is_compiling():
            self._stop()
        elif not self.merging:
            self._spells += 1
            self.merging = self._spells

    def ids(self) -> Tensor | None:
        """Return what is given, None if nothing is.

        Raises:
            IncompatibleError: it has another form, or other edits move the tokens.

        """
        found = self._context.get("context") if self.given else None
        if found is None:
            return None
        number = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        sets = found.dtype == torch.bool and found.dim() == 3
        if not (number and found.dim() == 2) and not (
            sets and found.shape[2] == len(self.contexts)
        ):
            raise IncompatibleError(
                f"context: {found.dtype} of shape {tuple(found.shape)} is given; allowed: whole "
                f"numbers (batch, tokens), or bool (batch, tokens, {len(self.contexts)})"
            )
        if self._mixed:
            raise IncompatibleError(
                "context: another part of the method puts learned tokens into the sequence, so the "
                "numbers given do not say which token they belong to; leave that part out"
            )
        return found

    def only(self, names: Sequence[str]) -> str | None:
        """Return which of some copies serves what is written, None if none does."""
        for name in names:
            numbers = self.serves[name]
            if numbers is None or self.written in numbers:
                return name
        return None

    def route(self, x: Tensor, names: tuple[str, ...]) -> Route | str | None:
        """Return which of some copies act on the tokens of a layer's input.

        Args:
            x: (B, T, ...), what the layer reads.
            names: of the copies.

        Returns:
            One copy's name (or None) where all tokens are ``written``, else a route.

        """
        ids = self.ids()
        if ids is None or self.held >= ids.shape[1]:
            return self.only(names)
        if torch.compiler.is_compiling():
            return self._route(ids, x, names)
        call = (ids, self.held, x.shape[0], x.shape[1])
        if self._seen is None or self._seen[0] is not ids or self._seen[1:] != call[1:]:
            self._begin()
            self._check(ids)
            self._seen = call
        if names not in self._routes:
            self._routes[names] = self._route(ids, x, names)
        return self._routes[names]

    def _check(self, ids: Tensor) -> None:
        if ids.dtype == torch.bool or ids.device.type != "cpu" or None in self.serves.values():
            return
        low, high = (int(v) for v in ids.aminmax())
        if low < NONE or high >= len(self.contexts):
            names = ", ".join(f"{i} {n}" for i, n in enumerate(self.contexts))
            raise IncompatibleError(
                f"context: the number {low if low < NONE else high} is given; allowed: -1 none, "
                f"{names} (method.names)"
            )

    def _route(self, ids: Tensor, x: Tensor, names: tuple[str, ...]) -> Route:
        if x.dim() < 3 or x.shape[0] % ids.shape[0]:
            raise IncompatibleError(
                f"context: numbers of shape {tuple(ids.shape)} do not fit a layer that reads "
                f"{tuple(x.shape)}; one row is needed for every sample"
            )
        here = ids[:, self.held : self.held + x.shape[1]]
        behind = x.shape[1] - here.shape[1]
        if behind and here.dim() == 2:
            here = F.pad(here, (0, behind), value=self.written)
        elif behind:
            written = torch.arange(here.shape[2], device=here.device) == self.written
            here = torch.cat([here, written.expand(here.shape[0], behind, -1)], 1)
        if x.shape[0] != ids.shape[0]:
            here = here.repeat_interleave(x.shape[0] // ids.shape[0], 0)
        rows = [self._acts(here, self.serves[name]).flatten() for name in names]
        return Route(torch.stack(rows), exclusive=here.dim() == 2)

    def _acts(self, here: Tensor, numbers: Sequence[int] | None) -> Tensor:
        """Return where a copy acts, (B, T)."""
        if here.dim() == 3:
            return here.any(2) if numbers is None else here[:, :, list(numbers)].any(2)
        if numbers is None:
            return here > NONE
        found = here == numbers[0]
        for number in numbers[1:]:
            found = found | (here == number)
        return found
