"""The edit: one trainable change at one site; and the delta that holds all edits of a method."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ..errors import ConfigError, IncompatibleError
from .sites import Handles


class Edit(nn.Module):
    """One trainable change. Its parameters live here, outside the frozen network.

    Attributes:
        name: unique within a delta; also the prefix of its tensors in the artefact.
        identity: whether the network computes the same function right after :meth:`install`.
        alone: whether the edit keeps gradients out of the network, so that no other edit can train.
        caches: whether a network may go on with a key-value cache under it when it writes.
        preparing: set while a method looks at data; gradients that arrive then are not to train on.

    """

    identity: bool = True
    alone: bool = False
    caches: bool = True
    preparing: bool = False

    def __init__(self, name: str) -> None:
        super().__init__()
        if "." in name:
            raise ConfigError(f"edit name '{name}' must not hold a dot")
        self.name = name

    def install(self, delta: Delta, handles: Handles) -> None:
        """Attach to the network; everything done is undone by ``handles``."""
        raise TypeError(f"{type(self).__name__} does not say how it attaches")

    def sync(self) -> None:
        """Bring the network up to date after this edit's parameters changed in place."""

    def lift(self) -> None:
        """Take this edit's numbers out of the network, before its buffers change in place."""

    def gathered(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return (parameter, tensor of the network) where a hook takes the first's gradient.

        Autograd does not see these parameters, so several processes add up their gradients by hand.
        """
        return []


class Delta(nn.Module):
    """All edits of a method over one network. Attached, it changes the network; detached, nothing.

    Attributes:
        edits: edits by name, in the order in which they attach.
        taps: tensors that edits hand out of the network during a forward pass.
        context: tensors that edits read during a forward pass, such as context ids per token.
        terms: loss terms that edits hand out during a forward pass, (B,) each.

    """

    def __init__(self, edits: Iterable[Edit] = ()) -> None:
        super().__init__()
        self.edits = nn.ModuleDict()
        for edit in edits:
            if edit.name in self.edits:
                raise ConfigError(f"two edits are called '{edit.name}'")
            self.edits[edit.name] = edit
        for edit in self:
            if edit.alone and len(self.edits) > 1:
                other = next(n for n in self.edits if n != edit.name)
                raise IncompatibleError(
                    f"'{edit.name}' stands beside the network so that no gradient passes the "
                    f"network, and other edits in it ('{other}') would not train; use one or the "
                    "other"
                )
        self.taps: dict[str, Tensor] = {}
        self.context: dict[str, Tensor] = {}
        self.terms: dict[str, Tensor] = {}
        self._handles = Handles()
        self._attached = False

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self.edits.values())

    @property
    def attached(self) -> bool:
        """Whether the edits act on the network now."""
        return self._attached

    @property
    def identity(self) -> bool:
        """Whether the network's function is unchanged before the first training step."""
        return all(edit.identity for edit in self)

    def attach(self) -> Delta:
        """Put every edit into the network; if one fails, none stays."""
        if not self._attached:
            try:
                for edit in self:
                    edit.install(self, self._handles)
                self._attached = True
                self.sync()
            except BaseException:
                self.detach()
                raise
        return self

    def detach(self) -> None:
        """Take every edit out; the network is what it was, bit for bit."""
        self._handles.remove()
        self.taps.clear()
        self.context.clear()
        self.terms.clear()
        self._attached = False

    def sync(self) -> None:
        """Bring the network up to date after the parameters changed in place."""
        for edit in self:
            edit.sync()

    def lift(self) -> None:
        """Take the edits' numbers out of the network until the next :meth:`sync`."""
        for edit in self:
            edit.lift()

    def tensors(self) -> dict[str, Tensor]:
        """Return what the artefact stores: parameters and buffers by name.

        A tensor that several edits share is there once, under its first name.
        """
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, tensor in self.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[name.removeprefix("edits.")] = tensor.detach()
        return found

    def parameter_count(self) -> int:
        """Return the number of trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
