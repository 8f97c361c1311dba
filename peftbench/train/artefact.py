"""The adapter as a small folder: ``adapter.safetensors`` and ``adapter.json``, head included."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import hub
from ..backbones.backbone import Backbone
from ..errors import ArtefactError, ConfigError, IncompatibleError
from ..files import ADAPTER_DESCRIPTION as DESCRIPTION
from ..files import ADAPTER_TENSORS as TENSORS
from ..files import write_json, write_tensors
from ..methods.base import Method
from ..spec import build, to_spec
from ..tasks.captions import CaptionUse
from ..tasks.wording import TextUse
from .model import Adapted

SCHEMA = 1
Use = TypeVar("Use")


def save_adapter(
    folder: Path,
    model: Adapted,
    base_sha256: str,
    labels: Sequence[str] | None,
    task: str,
    text: TextUse | None = None,
    captions: CaptionUse | None = None,
) -> int:
    """Write the adapter; return the bytes of both files.

    Args:
        folder: ``.../adapter``.
        model: what was trained.
        base_sha256: hash of the frozen network, taken while nothing was attached.
        labels: class names in the order of the head's rows.
        task: what it was trained for.
        text: how it is asked, where it reads text.
        captions: how it writes, where it captions pictures.

    """
    backbone = model.backbone
    description: dict[str, Any] = {
        "schema_version": SCHEMA,
        "method": to_spec(model.method),
        "backbone": {
            "name": backbone.name,
            "sha256": base_sha256,
            "source": backbone.source,
            "spec": backbone.spec,
        },
        "labels": list(labels) if labels is not None else None,
        "task": task,
    }
    if text is not None:
        description["text"] = text.stored()
    if captions is not None:
        description["captions"] = captions.stored()
    write_tensors(folder / TENSORS, model.tensors())
    write_json(folder / DESCRIPTION, description)
    return sum((folder / name).stat().st_size for name in (TENSORS, DESCRIPTION))


def describe(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the adapter folder and its description; one from the hub is fetched.

    Args:
        path: a run folder, an adapter folder, or on the hub ``owner/name``, with ``@revision`` or
            not; ``hub:owner/name`` where a folder has that name too.

    Raises:
        ArtefactError: there is no adapter, or it was written by a newer version.
        MissingAssetError: the hub does not give it.

    """
    folder = Path(path)
    on_hub = hub.named(str(path))
    if on_hub is not None and (str(path).startswith(hub.PREFIX) or not folder.exists()):
        return _from_hub(*on_hub)
    for place in (folder / "adapter", folder):
        if (place / DESCRIPTION).is_file():
            return place, _description(place)
    raise ArtefactError(
        f"{folder} holds no adapter: expected {DESCRIPTION} and {TENSORS} there or in its "
        "subfolder 'adapter'"
    )


def _description(place: Path) -> dict[str, Any]:
    """Read the description; folders of sources that lie within ``place`` get their full paths."""
    try:
        description = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{place / DESCRIPTION} is not JSON ({error})") from error
    _check_description(place / DESCRIPTION, description)
    for source in sources_of(description["method"]):
        source["folder"] = str((place / source["folder"]).absolute())
    return dict(description)


def sources_of(method: Any) -> Iterator[dict[str, Any]]:
    """Yield the trained sources (``folder`` and ``sha256``) that a method's description names."""
    if not isinstance(method, Mapping):
        return
    for name, value in method.items():
        if name == "library" and isinstance(value, Mapping):
            known = (s for s in value.values() if isinstance(s, dict) and {"folder"} <= s.keys())
            yield from known
        else:
            yield from sources_of(value)


def _from_hub(name: str, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """Fetch the files of an adapter, all of one commit; nothing else of the repository is read."""
    folder = hub.download(name, DESCRIPTION, revision).parent
    hub.download(name, TENSORS, folder.name)
    description = _description(folder)
    for source in sources_of(description["method"]):
        place = Path(source["folder"])
        if not place.is_relative_to(folder.absolute()) or ".." in place.parts:
            raise ArtefactError(f"{name}: a source lies outside the repository ({place})")
        for file in (DESCRIPTION, TENSORS):
            hub.download(name, str(place.relative_to(folder.absolute()) / file), folder.name)
    return folder, description


def _check_description(path: Path, description: Any) -> None:
    """Refuse another schema and a description without the parts that loading needs."""
    if not isinstance(description, dict):
        raise ArtefactError(f"{path} is no description of an adapter")
    if description.get("schema_version") != SCHEMA:
        raise ArtefactError(
            f"{path}: schema {description.get('schema_version')} is not known here "
            f"(known: {SCHEMA})"
        )
    lacking = [k for k in ("method", "backbone", "labels", "task") if k not in description]
    if not lacking:
        base = description["backbone"]
        wanted = ("name", "sha256", "source", "spec")
        lacking = [f"backbone.{k}" for k in wanted if not isinstance(base, dict) or k not in base]
    if lacking:
        raise ArtefactError(f"{path} lacks '{lacking[0]}'")


def text_use(folder: Path, description: dict[str, Any]) -> TextUse:
    """Return how an adapter is asked.

    Args:
        folder: of the adapter.
        description: as :func:`describe` gives it.

    Raises:
        ArtefactError: it was stored without that, or with something else.

    """
    return _use(folder, description, "text", "how a raw text is put before it", TextUse.read)


def caption_use(folder: Path, description: dict[str, Any]) -> CaptionUse:
    """Return how an adapter writes captions.

    Args:
        folder: of the adapter.
        description: as :func:`describe` gives it.

    Raises:
        ArtefactError: it was stored without that, or with something else.

    """
    return _use(folder, description, "captions", "how long a caption may be", CaptionUse.read)


def _use(
    folder: Path,
    description: dict[str, Any],
    part: str,
    says: str,
    read: Callable[[dict[str, Any]], Use],
) -> Use:
    stored = description.get(part)
    try:
        if not isinstance(stored, dict):
            raise ConfigError(f"there is no part '{part}' that says {says}")
        return read(stored)
    except ConfigError as error:
        raise ArtefactError(
            f"{folder / DESCRIPTION}: {error}\n"
            "  train.py with the same settings and another output= stores it; peftbench.load needs "
            "none of it"
        ) from error


def load_adapter(path: str | Path, backbone: Backbone | nn.Module | None = None) -> Adapted:
    """Load base and adapter; the result predicts as it did when it was stored.

    Args:
        path: a run folder, an adapter folder, or ``owner/name`` on the hub; see :func:`describe`.
        backbone: a loaded network to use; None loads the one that the adapter names.

    Raises:
        ArtefactError: no adapter there, another base network (by hash), or tensors that do not fit.

    """
    folder, description = describe(path)
    tensors = _stored(folder / TENSORS)
    try:
        method: Method = build(description["method"], "adapter.method")
        if backbone is None:
            backbone = _base(folder, description)
    except ConfigError as error:
        raise ArtefactError(f"{folder / DESCRIPTION}: {error}") from error
    if isinstance(backbone, nn.Module):
        backbone = Backbone(type(backbone).__name__, backbone, "given by the caller")
    assert isinstance(backbone, Backbone)
    wanted = description["backbone"]["sha256"]
    if backbone.sha256 != wanted:
        raise ArtefactError(
            f"{folder}: made on '{description['backbone']['name']}' with weights {wanted[:12]}; "
            f"'{backbone.name}' given here has {backbone.sha256[:12]}; "
            f"{_first_misfit(method, backbone, tensors)}"
        )
    labels = description["labels"]
    try:
        model = Adapted(backbone, method, len(labels) if labels is not None else None)
    except IncompatibleError as error:
        raise ArtefactError(f"{folder / DESCRIPTION}: {error}") from error
    try:
        _same_types(tensors, model.tensors())
        model.load_tensors(tensors)
    except ConfigError as error:
        model.release()
        raise ArtefactError(f"{folder / TENSORS}: {error}") from error
    return model.eval()


def _stored(path: Path) -> dict[str, Tensor]:
    """Read the stored tensors; a damaged file is found before any network is touched."""
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{path} cannot be read ({error})") from error


def _same_types(stored: dict[str, Tensor], mine: dict[str, Tensor]) -> None:
    """Refuse numbers that would be rounded on loading."""
    for name in sorted(stored.keys() & mine.keys()):
        if stored[name].dtype != mine[name].dtype:
            raise ConfigError(
                f"tensor '{name}' is {stored[name].dtype} in the stored adapter and "
                f"{mine[name].dtype} here"
            )


def _base(folder: Path, description: dict[str, Any]) -> Backbone:
    """Load the network that the adapter names."""
    spec = description["backbone"]["spec"]
    if not spec:
        raise ArtefactError(
            f"{folder}: the adapter was made on '{description['backbone']['name']}', a network "
            "given by a program; pass the same network as 'backbone'"
        )
    return build(spec, "adapter.backbone").load()


def _first_misfit(method: Method, backbone: Backbone, tensors: dict[str, Tensor]) -> str:
    """Say which stored tensor is the first that would not fit another network."""
    try:
        delta = method.plan(backbone.anatomy, torch.Generator().manual_seed(0))
    except IncompatibleError as error:
        return str(error)
    here = {f"delta.{n}": t for n, t in delta.tensors().items()}
    stored = {n: t for n, t in tensors.items() if n.startswith("delta.")}
    for name in sorted(here.keys() | stored.keys()):
        if name not in stored or name not in here:
            return (
                f"first difference: '{name}' is {'stored only' if name in stored else 'not stored'}"
            )
        if here[name].shape != stored[name].shape:
            shapes = f"{tuple(stored[name].shape)} stored, {tuple(here[name].shape)} here"
            return f"first difference: '{name}', {shapes}"
    return "the adapter's tensors have the right shapes, but the network's weights are others"
