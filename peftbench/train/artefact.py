"""The adapter as a small folder: ``adapter.safetensors`` and ``adapter.json``, head included."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from ..backbones.backbone import Backbone
from ..errors import ArtefactError, ConfigError
from ..files import write_json, write_tensors
from ..methods.base import Method
from ..spec import build, to_spec
from .model import Adapted

SCHEMA = 1
TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"


def save_adapter(
    folder: Path, model: Adapted, base_sha256: str, labels: Sequence[str] | None, task: str
) -> int:
    """Write the adapter; return the bytes of both files.

    Args:
        folder: ``.../adapter``.
        model: what was trained.
        base_sha256: hash of the frozen network, taken while nothing was attached.
        labels: class names in the order of the head's rows.
        task: what it was trained for.

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
    write_tensors(folder / TENSORS, model.tensors())
    write_json(folder / DESCRIPTION, description)
    return sum((folder / name).stat().st_size for name in (TENSORS, DESCRIPTION))


def describe(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return the adapter folder and its description for a run or adapter folder.

    Raises:
        ArtefactError: there is no adapter, or it was written by a newer version.

    """
    folder = Path(path)
    for place in (folder / "adapter", folder):
        if (place / DESCRIPTION).is_file():
            try:
                description = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ArtefactError(f"{place / DESCRIPTION} is not JSON ({error})") from error
            if description.get("schema_version") != SCHEMA:
                raise ArtefactError(
                    f"{place / DESCRIPTION}: schema {description.get('schema_version')} is not "
                    f"known here (known: {SCHEMA})"
                )
            return place, description
    raise ArtefactError(
        f"{folder} holds no adapter: expected {DESCRIPTION} and {TENSORS} there or in its "
        "subfolder 'adapter'"
    )


def load_adapter(path: str | Path, backbone: Backbone | nn.Module | None = None) -> Adapted:
    """Load base and adapter; the result predicts as it did when it was stored.

    Args:
        path: a run folder or an adapter folder.
        backbone: a loaded network to use; None loads the one that the adapter names.

    Raises:
        ArtefactError: no adapter there, another base network (by hash), or tensors that do not fit.

    """
    folder, description = describe(path)
    method: Method = build(description["method"], "adapter.method")
    if backbone is None:
        spec = description["backbone"]["spec"]
        if not spec:
            raise ArtefactError(
                f"{folder}: the adapter was made on '{description['backbone']['name']}', a network "
                "given by a program; pass the same network as 'backbone'"
            )
        backbone = build(spec, "adapter.backbone").load()
    if isinstance(backbone, nn.Module):
        backbone = Backbone(type(backbone).__name__, backbone, "given by the caller")
    assert isinstance(backbone, Backbone)
    wanted = description["backbone"]["sha256"]
    if backbone.sha256 != wanted:
        raise ArtefactError(
            f"{folder}: made on '{description['backbone']['name']}' with weights {wanted[:12]}; "
            f"'{backbone.name}' given here has {backbone.sha256[:12]}"
        )
    labels = description["labels"]
    model = Adapted(backbone, method, len(labels) if labels is not None else None)
    try:
        model.load_tensors(load_file(str(folder / TENSORS)))
    except (OSError, ConfigError) as error:
        model.release()
        raise ArtefactError(f"{folder / TENSORS}: {error}") from error
    return model.eval()
