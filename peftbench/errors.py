"""Errors that say what was wrong, what is allowed, the nearest match and the configuration key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PeftbenchError(Exception):
    """Base of every error this package raises on purpose; its text is meant for a person."""


class ConfigError(PeftbenchError):
    """A setting has a wrong name, type or value."""


class IncompatibleError(PeftbenchError):
    """A method has no meaning on a backbone (or needs a part that the backbone lacks)."""


class MissingAssetError(PeftbenchError):
    """Weights or data are not on this machine; the text names the command that gets them."""


class CorruptAssetError(PeftbenchError):
    """A file's checksum, count or content is not what its manifest says."""


class ArtefactError(PeftbenchError):
    """An adapter does not fit the network it is loaded into."""


class ExportError(PeftbenchError):
    """An adapter has no form in the wanted format, or its exported form computes something else."""


class NonFiniteError(PeftbenchError):
    """A loss or gradient is not finite."""


class NoGradientError(PeftbenchError):
    """A tensor that should train received no gradient."""


class ClosedSplitError(PeftbenchError):
    """The test split was asked for before the protocol opened it."""


class RunLockedError(PeftbenchError):
    """Another process is working on this run."""


class PublishError(PeftbenchError):
    """A hub did not take an adapter."""


class TrackerError(PeftbenchError):
    """A tracker did not take a run."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice closest in spelling to ``name``, or None when none is close."""
    found = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(what: str, name: str, choices: Iterable[str], key: str | None = None) -> ConfigError:
    """Build the error for a wrong name: nearest match first, then all choices.

    Args:
        what: the kind of thing, for example ``"method"``.
        name: what was given.
        choices: what is allowed.
        key: the configuration key to mend, if there is one.

    """
    listed = sorted({str(c) for c in choices})
    close = nearest(name, listed)
    hint = f" Did you mean '{close}'?" if close else ""
    where = f" (key: {key})" if key else ""
    return ConfigError(f"unknown {what} '{name}'{where}.{hint}\n  choices: {', '.join(listed)}")
