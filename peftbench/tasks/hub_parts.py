"""The parts of a data set as ``datasets`` reads them, from hub or disk; errors in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import ConfigError, CorruptAssetError, MissingAssetError, PeftbenchError, unknown

TABLES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
"""Endings of tables and their readers."""


def needed(what: str) -> None:
    """Refuse where the package ``datasets`` is not installed.

    Args:
        what: who needs it, for example ``data=hub_images``.

    Raises:
        ConfigError: it is not; says how to get it.

    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the package 'datasets', which is not installed\n"
            "  pip install 'peftbench[data]'"
        ) from error


def local(path: str) -> Path | None:
    """Return the folder or file that a path means, or None where it is a hub id."""
    place = Path(path).expanduser()
    if place.exists():
        return place
    if hub.HUB_ID.fullmatch(path):
        return None
    raise MissingAssetError(
        f"data.path: there is no folder or file {path}, and it is no id of the hub (owner/name)"
    )


def load(path: str, subset: str | None, revision: str | None) -> Mapping[str, Any]:
    """Call ``datasets.load_dataset`` and put its errors into words."""
    import datasets

    place = local(path)
    where: dict[str, Any] = {"path": path if place is None else str(place), "name": subset}
    if place is None:
        where["revision"] = revision
        obtainable(path)
    elif revision is not None:
        raise ConfigError(f"data.revision: '{revision}': {path} is local and has no revisions")
    elif place.is_file():
        if place.suffix != ".parquet":
            raise ConfigError(
                f"data.path: {path} is no parquet file; a folder, a parquet file or owner/name"
            )
        where |= {"path": "parquet", "data_files": {"train": str(place)}}
    try:
        with quiet():
            loaded: Mapping[str, Any] = datasets.load_dataset(**where)
            return loaded
    except Exception as error:  # whatever a client or one of a dozen readers raises
        raise told(path, subset, place is None, error) from error


def load_files(folder: Path) -> Mapping[str, Any]:
    """Read a folder of tables, ``<split>.jsonl`` or ``<split>-00000-of-00002.parquet``.

    Raises:
        MissingAssetError: it holds no table.
        ConfigError: its tables are of several kinds.
        CorruptAssetError: a table cannot be read.

    """
    files: dict[str, list[str]] = {}
    kinds = set()
    for path in sorted(folder.iterdir()):
        if path.suffix in TABLES:
            split = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
            files.setdefault(split, []).append(str(path))
            kinds.add(TABLES[path.suffix])
    if not kinds:
        listed = ", ".join(f"<split>{suffix}" for suffix in TABLES)
        raise MissingAssetError(f"data.path: {folder} holds no tables ({listed})")
    if len(kinds) > 1:
        raise ConfigError(f"data.path: {folder} holds tables of several kinds: {sorted(kinds)}")
    return _tables(kinds.pop(), files, str(folder))


def load_table(path: Path) -> Mapping[str, Any]:
    """Read one table as the split ``train``.

    Raises:
        CorruptAssetError: it cannot be read.

    """
    return _tables(TABLES[path.suffix], {"train": [str(path)]}, str(path))


def _tables(kind: str, files: Mapping[str, list[str]], what: str) -> Mapping[str, Any]:
    """Read every split by itself: read together, a column that one lacks is filled with nothing."""
    import datasets

    try:
        with quiet():
            return {
                name: datasets.load_dataset(kind, data_files={name: paths}, split=name)
                for name, paths in files.items()
            }
    except Exception as error:  # whatever one of the readers raises
        raise told(what, None, False, error) from error


def obtainable(path: str) -> None:
    """Fail within seconds where a data set is neither in the cache nor within reach."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = path.partition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    if any(folder.glob("*/*/*/dataset_info.json")):
        return
    offline = datasets.config.HF_HUB_OFFLINE
    why = "HF_DATASETS_OFFLINE or HF_HUB_OFFLINE is set" if offline else hub.out_of_reach()
    if why is not None:
        raise missing(path, f"it is not in the local cache, and {why}")


def missing(path: str, why: str) -> MissingAssetError:
    """Return the error for a data set that cannot be had."""
    from huggingface_hub import constants

    return MissingAssetError(
        f"data set {path} cannot be loaded (key: data.path)\n  why not: {why}\n"
        f"  asked: {constants.ENDPOINT}; a copy on disk instead: data.path=FOLDER"
    )


def told(path: str, subset: str | None, remote: bool, error: Exception) -> PeftbenchError:
    """Return the error for a person that stands for one out of ``datasets``."""
    from datasets.exceptions import DatasetNotFoundError

    text = " ".join(str(error).split())[:400]
    listed = re.search(r"vailable[^:]*: \[([^\]]*)\]", text)
    if listed and isinstance(error, ValueError):
        choices = re.findall(r"'([^']+)'", listed[1])
        if subset is None:
            return ConfigError(f"data.subset: {path} has several; choose one of {choices}")
        return unknown(f"subset of {path}", subset, choices, "data.subset")
    if remote:
        try:
            hub.check_stored("dataset", path, f"data.path: a file of {path}")
        except CorruptAssetError as damaged:
            return damaged
    if isinstance(error, DatasetNotFoundError):
        more = "" if "Revision" in text else " (`hf auth login` opens private and gated ones)"
        return missing(path, text + more)
    if remote and isinstance(error, hub.client_errors()):
        return missing(path, hub.reason(error))
    causes = " ".join(str(error.__cause__ or "").split())[:300]
    return CorruptAssetError(f"data.path: datasets cannot read {path}: {text} {causes}".rstrip())


def commit_of(path: str, revision: str | None, parts: Mapping[str, Any]) -> str:
    """Return the commit that was read, and hold it to the one that was asked for.

    Offline, ``datasets`` takes the copy that was read last, whatever its revision.
    """
    files = [Path(f["filename"]) for part in parts.values() for f in part.cache_files]
    commits = {file.parent.name for file in files}
    commit = commits.pop() if len(commits) == 1 else ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CorruptAssetError(f"data.path: the stored copy of {path} does not name its commit")
    meant = revision and (hub.cached_commit("dataset", path, revision) or revision)
    if meant and meant != commit:
        raise missing(
            path,
            f"revision '{revision}' was asked for, the local copy is of commit {commit[:12]}, and"
            " the hub was not asked (offline) or did not answer",
        )
    return commit


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars to terminals."""
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        with hub.quiet():
            yield
    finally:
        datasets.enable_progress_bars()
