"""Export folders that are either whole or absent, and the classifier head beside or inside them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ExportError
from ..files import write_tensors
from ..train.model import MAIN, Adapted

HEAD_FILE = "head.safetensors"


def require_new(folder: Path) -> None:
    """Raise :class:`ExportError` if ``folder`` is there already and not an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ExportError(f"{folder} is there already; name a new folder or remove it first")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` if the block succeeds, else disappears.

    Raises:
        ExportError: ``folder`` is there already and not empty, or cannot be made.

    """
    require_new(folder)
    parent = folder.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=parent))
    except OSError as error:
        raise ExportError(f"{folder} cannot be made ({error.strerror or error})") from error
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def main_head(model: Adapted) -> nn.Linear | None:
    """Return the classifier head, None where the network's language-model head is used."""
    if MAIN not in model.heads:
        return None
    head = model.heads[MAIN]
    assert isinstance(head, nn.Linear)
    return head


def put_head(network: Any, head: nn.Linear) -> str | None:
    """Make ``head`` the network's own classifier where it has a place for one (timm).

    Returns:
        The dotted name of the place, None where the network has none; it is then left as it is.

    """
    if not hasattr(network, "reset_classifier"):
        return None
    network.reset_classifier(head.out_features)
    place = network.get_classifier()
    place.to(head.weight.device)
    with torch.no_grad():
        place.weight.copy_(head.weight)
        place.bias.copy_(head.bias)
    return next(name for name, module in network.named_modules() if module is place)


def write_head(folder: Path, head: nn.Linear) -> None:
    """Write the head as ``weight`` (classes, width) and ``bias`` (classes,)."""
    write_tensors(folder / HEAD_FILE, dict(head.state_dict()))


def base_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an export says of where it comes from, out of an adapter's description."""
    base = description["backbone"]
    return {
        "method": description["method"],
        "task": description["task"],
        "labels": description["labels"],
        "base": {key: base[key] for key in ("name", "sha256", "source", "spec")},
    }


def head_note(features: str) -> str:
    """Return the README paragraph on a head that lies beside the network."""
    return f"""
## Classifier head

The network's class in transformers has no head of this form, so it lies beside the weights in
`{HEAD_FILE}`: `weight` (classes, width) and `bias` (classes). It reads {features}:

    from safetensors.torch import load_file
    head = load_file("{HEAD_FILE}")
    logits = features @ head["weight"].T + head["bias"]
"""
