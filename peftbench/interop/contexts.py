"""One context of a network that tells contexts apart, as an adapted network of its own."""

from __future__ import annotations

from ..edits import ContextBank, Delta, Edit, Router
from ..errors import ConfigError, unknown
from ..train.model import HOLDER, Adapted

KEY = "context"


def one_context(model: Adapted, name: str | None) -> Adapted:
    """Return the network with one context's numbers at every token.

    Afterwards every bank is replaced by its copy of that context, which is an ordinary edit: it can
    be merged into weights or written for Hugging Face PEFT.

    Args:
        model: the adapted network, attached; it is changed.
        name: of the context; None for a network that tells no contexts apart.

    Raises:
        ConfigError: the network has no such context, or has contexts and none is named.

    """
    banks = [e for e in model.delta if isinstance(e, ContextBank)]
    names = list(dict.fromkeys(name for bank in banks for name in bank.names))
    if not banks:
        if name is not None:
            raise ConfigError(f"{KEY}: {type(model.method).__name__} tells no contexts apart")
        return model
    if name is None:
        raise ConfigError(
            f"{KEY}: the weights of a layer are another for each context, so one is exported at a "
            f"time: {KEY}={' or '.join(names)}"
        )
    if name not in names:
        raise unknown("context", name, names, KEY)
    edits: list[Edit] = []
    for edit in model.delta:
        if isinstance(edit, ContextBank):
            if name in edit.names:
                copy: Edit = edit.copies[name]  # type: ignore[assignment]
                copy.name = edit.name
                edits.append(copy)
        elif not isinstance(edit, Router):
            edits.append(edit)
    model.release()
    model.delta = Delta(edits).train(model.training)
    model.delta.attach()
    vars(model.base)[HOLDER] = (model.delta,)
    return model
