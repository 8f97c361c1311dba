"""A finished run as a folder that loads elsewhere, and that folder on the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from .. import hub
from ..errors import ConfigError, PublishError
from ..files import ADAPTER_DESCRIPTION, ADAPTER_TENSORS, replacing, write_json, write_text
from ..train.artefact import describe, sources_of
from .card import card
from .store import RunDir, find_finished

CARD = "README.md"
SOURCES = "sources"


def bundle(run: Path, folder: Path, name: str, licence: str | None = None) -> dict[str, Any]:
    """Write adapter and model card of a finished run into ``folder``; return the description.

    What the adapter leans on comes along: trained sources lie in ``sources/``. Paths of this
    machine do not: a base network that was read from a local file is named by its model.

    Args:
        run: the run's folder.
        folder: where to; new, empty, or an earlier publication.
        name: under which the card says that it is loaded.
        licence: of the adapter.

    Raises:
        ConfigError: the run is not finished, or the folder holds something else.
        ArtefactError: the run has no adapter.

    """
    run_dir = RunDir(run)
    result = find_finished(run_dir)
    if result is None:
        raise ConfigError(f"run: {run} is no finished run (there is no result.json to be trusted)")
    if folder.exists() and any(folder.iterdir()) and not (folder / ADAPTER_DESCRIPTION).is_file():
        raise ConfigError(f"to: {folder} holds other files; name a new folder")
    place, description = describe(run)
    config = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
    _take(place / ADAPTER_TENSORS, folder / ADAPTER_TENSORS)
    for number, source in enumerate(sources_of(description["method"])):
        inside = Path(SOURCES) / f"{number}"
        for file in (ADAPTER_DESCRIPTION, ADAPTER_TENSORS):
            _take(Path(source["folder"]) / file, folder / inside / file)
        source["folder"] = inside.as_posix()
    _without_paths(description, config)
    write_json(folder / ADAPTER_DESCRIPTION, description)
    write_text(folder / CARD, card(name, result, config, description, licence))
    return description


def _take(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _without_paths(description: dict[str, Any], config: dict[str, Any]) -> None:
    """Take out what is true on this machine alone.

    Raises:
        ConfigError: the base network is a local folder, which nobody else has.

    """
    spec = description["backbone"]["spec"] or {}
    if spec.get("weights"):
        spec["weights"] = None
        description["backbone"]["source"] = "read from a local file; known by its hash"
    model = str(spec.get("model", ""))
    if model and Path(model).expanduser().exists() and hub.HUB_ID.fullmatch(model) is None:
        raise ConfigError(
            f"run: its base network is the local folder {model}, which nobody else can load; train "
            "on a network of the hub (backbone.model=owner/name)"
        )
    for source in sources_of(config.get("method", {})):
        source["folder"] = Path(source["folder"]).name
    config.get("method", {}).pop("sources", None)


def to_hub(folder: Path, name: str, message: str, private: bool = False) -> str:
    """Upload a published folder as one commit; return the address of the repository.

    Args:
        folder: as :func:`bundle` wrote it.
        name: ``owner/name``; made if it is not there.
        message: of the commit.
        private: whether a new repository is private.

    Raises:
        PublishError: no login, or the hub refused; says why.

    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise PublishError(
            "no login to the hub was found\n  run `hf auth login` or set HF_TOKEN; to=FOLDER needs "
            "none"
        )
    if (away := hub.out_of_reach()) is not None:
        raise PublishError(f"hub {name}: {away}")
    api = HfApi()
    try:
        with hub.quiet():
            url = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=message)
    except hub.client_errors() as error:
        raise PublishError(f"hub {name}: {hub.reason(error)}") from error
    return str(url)
