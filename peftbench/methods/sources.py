"""Sources of a transfer: tasks that are trained first, and what they leave for the method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..backbones.anatomy import Anatomy
from ..errors import ArtefactError, ConfigError, MissingAssetError, unknown
from ..files import ADAPTER_DESCRIPTION, ADAPTER_TENSORS, sha256_file
from ..spec import TARGET
from .base import Method, Stage
from .prompts import prompt_name

MEND = "train the sources again with the command of the run that uses them"


@dataclass(frozen=True)
class Sources:
    """Tasks to train on first.

    Attributes:
        tasks: settings of each source's data by name, in the order of the experts.
        trainer: settings of their training; None: those of the run that uses them.

    """

    tasks: Mapping[str, Any] = field(default_factory=dict)
    trainer: Any = None

    def stages(self, method: Method, subset: Sequence[str] = ()) -> tuple[Stage, ...]:
        """Return a stage per source.

        Args:
            method: what is trained on each.
            subset: names to keep; none: all.

        """
        names = chosen(self.tasks, subset)
        return tuple(Stage(n, method, self.tasks[n], self.trainer) for n in names)


@dataclass(frozen=True)
class Source:
    """A trained source.

    Attributes:
        folder: with the adapter's two files.
        sha256: of its tensors' file.

    """

    folder: str
    sha256: str


def chosen(
    names: Mapping[str, Any], subset: Sequence[str], key: str = "method.subset"
) -> list[str]:
    """Return the names to use, in their own order.

    Raises:
        ConfigError: a wanted one does not exist.

    """
    for name in subset:
        if name not in names:
            raise unknown("source", name, names, key)
    return [n for n in names if not subset or n in subset]


def taken(adapters: Mapping[str, Path], wanted: Sequence[str]) -> dict[str, Source]:
    """Return the library of trained sources in the order of ``wanted``.

    Args:
        adapters: adapter folder (or run folder) by name.
        wanted: names.

    Raises:
        ConfigError: a wanted one is missing.
        MissingAssetError: a folder holds no adapter.

    """
    found: dict[str, Source] = {}
    for name in wanted:
        if name not in adapters:
            raise ConfigError(f"method.sources: '{name}' has no trained adapter; {MEND}")
        folder = Path(adapters[name])
        places = [p for p in (folder / "adapter", folder) if (p / ADAPTER_DESCRIPTION).is_file()]
        if not places or not (places[0] / ADAPTER_TENSORS).is_file():
            raise MissingAssetError(f"{folder} holds no adapter of the source '{name}'; {MEND}")
        digest = sha256_file(places[0] / ADAPTER_TENSORS)
        found[name] = Source(str(places[0].resolve()), digest)
    return found


@dataclass(frozen=True)
class Trained:
    """The tensors of a trained source.

    Attributes:
        name: of the source.
        folder: where they are.
        tensors: by name.

    """

    name: str
    folder: Path
    tensors: Mapping[str, Tensor]

    def get(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """Return a tensor of the source's delta.

        Args:
            name: of edit and tensor.
            shape: that it must have; None: any.

        Raises:
            ArtefactError: it is missing, or of another shape.

        """
        tensor = self.tensors.get(f"delta.{name}")
        if tensor is None:
            raise ArtefactError(f"{self.folder}: source '{self.name}' lacks the tensor '{name}'")
        fits = len(tensor.shape) == len(shape)
        if not fits or any(w not in (None, n) for n, w in zip(tensor.shape, shape, strict=True)):
            raise ArtefactError(
                f"{self.folder}: tensor '{name}' of source '{self.name}' is "
                f"{tuple(tensor.shape)}, and here it must be {shape}"
            )
        return tensor


def prompts_of(
    library: Mapping[str, Source], anatomy: Anatomy, method: Any, subset: Sequence[str] = ()
) -> list[Tensor]:
    """Return the prompts (M, D) of sources that were trained with prompt tuning.

    Args:
        library: the trained sources.
        anatomy: of the network.
        method: prompt tuning, as the sources were trained with it.
        subset: names to read; none: all.

    """
    site = anatomy.stacks[0].sequence
    name, shape = f"{prompt_name(site)}.tokens", (1, None, site.width)
    return [t.get(name, shape)[0] for t in read(library, subset, anatomy, method, ("tokens",))]


def read(
    library: Mapping[str, Source],
    subset: Sequence[str],
    anatomy: Anatomy,
    method: Method,
    fields: Sequence[str],
) -> list[Trained]:
    """Read trained sources.

    Args:
        library: the sources.
        subset: names to read; none: all.
        anatomy: of the network they must have been trained on.
        method: what they must have been trained with,
        fields: in these settings.

    Raises:
        MissingAssetError: none has been trained, or a folder is gone.
        ArtefactError: another file than before, another network, another method or setting.

    """
    if not library:
        raise MissingAssetError(
            "method.library: this method learns from source tasks that are trained first; a run "
            "does it for method.sources.tasks, a program runs method.stages() and hands the "
            "adapters to method.staged(...)"
        )
    names = chosen(library, subset)
    return [_read(name, library[name], anatomy, method, fields) for name in names]


def _read(
    name: str, source: Source, anatomy: Anatomy, method: Method, fields: Sequence[str]
) -> Trained:
    """Read one trained source."""
    folder = Path(source.folder)
    if not (folder / ADAPTER_TENSORS).is_file():
        raise MissingAssetError(f"{folder}: the adapter of source '{name}' is gone; {MEND}")
    if sha256_file(folder / ADAPTER_TENSORS) != source.sha256:
        raise ArtefactError(
            f"{folder / ADAPTER_TENSORS}: source '{name}' is not what it was when it was chosen "
            f"({source.sha256[:12]}); {MEND}"
        )
    try:
        description = json.loads((folder / ADAPTER_DESCRIPTION).read_text(encoding="utf-8"))
        made, base = description["method"], description["backbone"]["sha256"]
        tensors = load_file(str(folder / ADAPTER_TENSORS))
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtefactError(f"{folder}: source '{name}' cannot be read ({error})") from error
    here = anatomy.sha256()
    if base != here:
        raise ArtefactError(
            f"{folder}: source '{name}' was trained on weights {base[:12]}, and this network has "
            f"{here[:12]}; {MEND}"
        )
    target = f"{type(method).__module__}.{type(method).__qualname__}"
    if made.get(TARGET) != target:
        raise ArtefactError(f"{folder}: source '{name}' is of {made.get(TARGET)}, not of {target}")
    for setting in fields:
        if made.get(setting) != getattr(method, setting):
            raise ArtefactError(
                f"{folder}: source '{name}' was trained with {setting}={made.get(setting)}, and "
                f"method.{setting} is {getattr(method, setting)}; {MEND}"
            )
    return Trained(name, folder, tensors)
