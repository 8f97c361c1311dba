"""What the Hugging Face Hub's clients leave open: a quick answer, words for errors, whole files.

Weights and data sets are fetched by timm, transformers and datasets themselves. Here is what they
need around them: a hub that is away is told within seconds, an error says what to do, and a stored
file is held to the checksum that it is stored under.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from .errors import CorruptAssetError, MissingAssetError
from .files import sha256_file

REACH_SECONDS = 10.0
Kind = Literal["model", "dataset"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PREFIX = "hub:"


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE was set when this process started."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def out_of_reach() -> str | None:
    """Ask the hub once, with a limit of 10 seconds; return why it cannot be asked, or None.

    The clients try for minutes before they give up.
    """
    from huggingface_hub import constants

    if offline():
        return "HF_HUB_OFFLINE is set and the file is not in the local cache"
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return None  # it answered; the client will say the rest
    except OSError as error:
        return f"{constants.ENDPOINT} cannot be reached ({error})"
    return None


def refusal(name: str, filename: str, revision: str | None = None) -> str | None:
    """Ask the hub for a model's file; return why it is not given, or None where it is.

    transformers calls a file absent whatever the hub's answer was.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, filename, revision=revision), timeout=REACH_SECONDS)
    except client_errors() as error:
        return reason(error)
    return None


def named(text: str) -> tuple[str, str | None] | None:
    """Read ``owner/name``, also ``hub:owner/name`` and ``owner/name@revision``; else None."""
    name, _, revision = text.removeprefix(PREFIX).partition("@")
    return (name, revision or None) if HUB_ID.fullmatch(name) else None


def download(name: str, filename: str, revision: str | None = None) -> Path:
    """Return a file of a model repository, fetched or from the cache, and whole.

    Raises:
        MissingAssetError: it cannot be had; says why.
        CorruptAssetError: the stored file is damaged.

    """
    from huggingface_hub import hf_hub_download

    what = f"{filename} of the hub's {name}" + (f" at {revision}" if revision else "")
    away = None if cached("model", name, filename, revision) else out_of_reach()
    if away is not None:
        raise MissingAssetError(f"{what}: {away}")
    try:
        with quiet():
            path = Path(hf_hub_download(name, filename, revision=revision))
    except client_errors() as error:
        raise MissingAssetError(f"{what}: {reason(error)}") from error
    check_whole(path, what)
    return path


def client_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which the hub's clients say that a file could not be had."""
    from huggingface_hub import errors

    transport: Any = errors.HfHubHTTPError.__mro__[1]  # HTTPError of the HTTP library in use
    return OSError, transport, errors.XetDownloadError


def reason(error: BaseException) -> str:
    """Say in one line why a client could not get a file, and what to do about it.

    Args:
        error: what the client raised; the errors that it was raised from are looked at too.

    """
    from huggingface_hub import errors

    chain = list(_chain(error))
    for kind, words in (
        (errors.GatedRepoError, "it is gated: ask for access on its page, then `hf auth login`"),
        (errors.RevisionNotFoundError, "the repository has no such revision"),
        (
            errors.RepositoryNotFoundError,
            "the hub knows no such repository, or it is private (then `hf auth login`)",
        ),
        (errors.RemoteEntryNotFoundError, "the repository lacks the file"),
        (
            errors.OfflineModeIsEnabled,
            "the hub's offline mode is set (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE) and it is not"
            " in the local cache",
        ),
    ):
        if any(isinstance(e, kind) for e in chain):
            return words
    for e in chain:
        status = getattr(getattr(e, "response", None), "status_code", None)
        if status is not None:
            later = "; the same command later may work" if status >= 500 or status == 429 else ""
            return f"the hub answered with status {status}{later}"
    text = " ".join(str(error).split()) or type(error).__name__
    if any(_broke_off(e) for e in chain):
        return (
            "the transfer broke off, and nothing of the file is kept; the same command tries again"
            f" ({text[:200]})"
        )
    return text[:400]


def _broke_off(error: BaseException) -> bool:
    kinds = {cls.__name__ for cls in type(error).__mro__}
    lost = {"RemoteProtocolError", "NetworkError", "TimeoutException", "XetDownloadError"}
    return bool(kinds & lost) or str(error).startswith("Consistency check failed")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def cached(kind: Kind, name: str, filename: str, revision: str | None = None) -> Path | None:
    """Return a file of the local cache, ``snapshots/<commit>/<filename>``, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, filename, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def cached_commit(kind: Kind, name: str, revision: str) -> str | None:
    """Return the commit that a branch or tag meant when it was last looked up, or None."""
    file = _stored(kind, name) / "refs" / revision
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def check_stored(kind: Kind, name: str, what: str) -> None:
    """Hold every stored file of a repository to its checksum; see :func:`check_whole`."""
    for path in sorted(_stored(kind, name).glob("snapshots/*/**/*")):
        if path.is_file():
            check_whole(path, what)


def whole(path: Path) -> bool:
    """Tell whether a file of the cache has the SHA-256 that it is stored under, if it has one."""
    stored = path.resolve()
    return not re.fullmatch(r"[0-9a-f]{64}", stored.name) or sha256_file(stored) == stored.name


def _stored(kind: Kind, name: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)


def check_whole(path: Path, what: str) -> None:
    """Hold a file of the hub's cache to the SHA-256 that it is stored under, where it has one.

    Raises:
        CorruptAssetError: the content is another one; names the file to remove.

    """
    if not whole(path):
        raise CorruptAssetError(
            f"{what} is damaged: {path.name} is not what the hub holds.\n"
            f"  to fetch it again, remove the stored file: rm {path.resolve()}"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the clients' progress bars to terminals."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
