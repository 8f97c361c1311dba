"""A network with data, for analyses that need no finished run: untrained, pretrained and tuned.

Settings come from words as ``train.py`` takes them, or from a finished run, whose tuned network is
then looked at as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..backbones import Backbone
from ..backbones.fresh import fresh_start
from ..edits import Entries
from ..errors import ConfigError, IncompatibleError
from ..methods import Method
from ..methods.checks import layer_name
from ..methods.sift import Sift
from ..runs.execute import check_pair, method_on, phases
from ..runs.settings import Settings
from ..tasks.base import Task
from ..tasks.batch import Split
from ..train.artefact import load_adapter
from ..train.augment import Augment
from ..train.engine import make_accelerator
from ..train.loop import Fitter
from ..train.model import Adapted
from .opened import Opened, open_run

RANDOM, PRETRAINED, TUNED = "random", "pretrained", "tuned"
See = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Scene:
    """Settings, and the finished run that they come from, if any.

    Attributes:
        settings: what ``train.py`` would train.
        run: the finished run; None where the settings come from words.

    """

    settings: Settings
    run: Opened | None = None

    @property
    def states(self) -> tuple[str, ...]:
        """States of the network that can be looked at."""
        return (RANDOM, PRETRAINED, TUNED) if self.run else (RANDOM, PRETRAINED)

    @property
    def title(self) -> str:
        """Network and data in words, for figures."""
        names = self.settings.names
        words = f"{names['backbone']}, {names['data']}"
        return f"{words}, {self.run.result['method']} run" if self.run else words

    @property
    def folder(self) -> Path:
        """Where files go that nobody gave a place for."""
        names = self.settings.names
        own = f"{names['backbone']}-{names['data']}".replace("/", "_")
        return self.run.path / "analysis" if self.run else Path("outputs", "analysis", own)

    def about(self) -> dict[str, Any]:
        """Return what a file of figures says of its origin."""
        names = {g: self.settings.names[g] for g in ("backbone", "data", "method")}
        return (self.run.about() if self.run else names) | {
            "seed": self.settings.seed,
            "backbone_source": self.backbone.source,
        }

    @cached_property
    def task(self) -> Task:
        """The data as the network reads them, loaded once."""
        return self._loaded.bind(self.backbone)  # type: ignore[no-any-return]

    @cached_property
    def _loaded(self) -> Any:
        return self.run.task() if self.run else self.settings.data.load()

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained network, loaded once."""
        return self.run.backbone() if self.run else self.settings.backbone.load()

    @cached_property
    def accelerator(self) -> Accelerator:
        """Device and precision of the settings."""
        return make_accelerator(self.settings.trainer)

    def model(self, state: str, method: Method | None = None) -> Adapted:
        """Return a network with a method attached, as it stands before training, or tuned.

        Args:
            state: of :attr:`states`.
            method: what is attached, that of the settings by default; the tuned one has its own.

        """
        if state == TUNED:
            assert self.run is not None
            return load_adapter(self.run.path, self.backbone)
        chosen = method or method_on(self.settings.method, self._loaded, self.backbone)
        network = self.backbone
        if state == RANDOM:
            network = fresh_start(network, self.settings.seed)
        return Adapted(network, chosen, self.task.head, self.settings.seed)

    def split(self, last: bool = False) -> Split:
        """Return what the first fit of the protocol trains on, or the last one."""
        names = phases(self.settings.protocol)[-1 if last else 0].fit
        parts = [self.task.split(name) for name in names]
        return parts[0] if len(parts) == 1 else Split.concat("+".join(names), parts)

    def fitter(self, model: Adapted, plain: bool = True, last: bool = False) -> Fitter:
        """Return a fit of a model on :meth:`split`, which hands out batches and losses.

        Args:
            model: attached.
            plain: without augmentation, stochastic depth, kept features and compiling.
            last: on the split of the protocol's last fit, which the run's adapter comes from.

        """
        trainer = self.settings.trainer
        if plain:
            off = {"augment": Augment(), "drop_path": 0.0, "cache_features": False}
            trainer = replace(trainer, **off, compile=False)
        return Fitter(
            model,
            self.task,
            self.split(last),
            model.backbone.preprocess,
            trainer,
            self.settings.seed,
            self.accelerator,
        )


def open_scene(run: str | None, words: Sequence[str]) -> Scene:
    """Open a finished run, or compose settings from words.

    Raises:
        ConfigError: both are given, neither fits, or the data are a suite of tasks.
        IncompatibleError: network, data and method do not go together.

    """
    if run is not None:
        if words:
            raise ConfigError(
                f"'{words[0]}': with run=... everything is as in that run; leave it out, or leave "
                "run out and say backbone=... data=... method=..."
            )
        opened = open_run(run)
        return Scene(opened.settings, opened)
    from ..runs.compose import compose_settings

    settings = compose_settings(words)
    if hasattr(settings.data, "selected"):
        raise ConfigError(f"data: '{settings.names['data']}' is a suite; name one of its tasks")
    check_pair(settings)
    return Scene(settings)


def sparse_method(settings: Settings) -> Sift:
    """Return the SIFT method of the settings, or SIFT as it is by default beside another method."""
    return settings.method if isinstance(settings.method, Sift) else Sift()


def tensors_of(model: Adapted, method: Sift) -> dict[str, nn.Parameter]:
    """Return the tensors that SIFT chooses entries from, as they stand in a network, by name."""
    found: dict[str, nn.Parameter] = {}
    for sites in model.backbone.anatomy.linears(method.roles):
        layer = sites[0].module
        for attribute in ("weight", "bias") if method.biases else ("weight",):
            tensor = getattr(layer, attribute)
            if tensor is not None and all(tensor is not other for other in found.values()):
                found[f"{layer_name(sites)}/{attribute}"] = tensor
    return found


@contextmanager
def watching(model: Adapted, tensors: Mapping[str, nn.Parameter], see: See) -> Iterator[None]:
    """Show every gradient of some tensors to ``see`` as soon as it is there, then drop it.

    Args:
        model: whose entries (SIFT) get no gradient meanwhile.
        tensors: by name.
        see: (name, gradient) -> None.

    """
    entries = {id(e.tensor): e for e in model.delta if isinstance(e, Entries)}
    handles: list[Any] = []
    trained = {name: tensor.requires_grad for name, tensor in tensors.items()}

    def take(name: str, tensor: Tensor) -> None:
        gradient, tensor.grad = tensor.grad, None
        assert gradient is not None
        see(name, gradient)

    try:
        for edit in entries.values():  # whatever is not watched is dropped
            edit.preparing = True
        for name, tensor in tensors.items():
            own = entries.get(id(tensor))
            if own is not None:
                own.watcher = partial(see, name)
            else:
                tensor.requires_grad_(True)
                handles.append(tensor.register_post_accumulate_grad_hook(partial(take, name)))
        yield
    finally:
        for edit in entries.values():
            edit.watcher, edit.preparing = None, False
        for handle in handles:
            handle.remove()
        for name, tensor in tensors.items():
            tensor.requires_grad_(trained[name])


def batch_gradient(
    fitter: Fitter, tensors: Mapping[str, nn.Parameter], batch: int, out: Tensor
) -> None:
    """Write the gradient of one training batch into ``out``, (n,), tensor after tensor.

    The model's mode is left as it is; parameters of edits and heads keep no gradient.

    Raises:
        IncompatibleError: no gradient reached a tensor.

    """
    at, places = 0, {}
    for name, tensor in tensors.items():
        places[name] = slice(at, at + tensor.numel())
        at += tensor.numel()
    seen: set[str] = set()

    def see(name: str, gradient: Tensor) -> None:
        out[places[name]] = gradient.reshape(-1).to(out)
        seen.add(name)

    rows_R = fitter.batch_index(*divmod(batch, fitter.steps_per_epoch))
    with watching(fitter.model, tensors, see):
        fitter.part(batch, rows_R, torch.arange(len(rows_R)))
    for parameter in fitter.params.values():
        parameter.grad = None
    if without := [name for name in tensors if name not in seen]:
        raise IncompatibleError(
            f"no gradient reaches {', '.join(without[:3])} under this method; use method=sift, "
            "full or none of these layers (method.roles)"
        )
