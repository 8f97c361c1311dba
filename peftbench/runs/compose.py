"""From words as ``train.py`` takes them to composed configurations; without torch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import ConfigError
from .cli import PluginConfigs, apart, config_folder, explain, plugin_configs, with_aliases
from .settings import GROUPS, Settings, resolve


@dataclass(frozen=True)
class Combination:
    """One composed job of a command.

    Attributes:
        words: its overrides.
        config: the composed configuration, resolved, with the keys of ``settings.ORDERS``.
        names: the choice made in each group.
        chosen: settings that its words name one by one.

    """

    words: tuple[str, ...]
    config: dict[str, Any]
    names: dict[str, str]
    chosen: tuple[str, ...]

    def settings(self) -> Settings:
        """Check the configuration and build its objects."""
        return Settings.of(self.config, self.names, self.chosen)


def compose_settings(words: Sequence[str]) -> Settings:
    """Compose and check the settings that ``train.py`` would have with the same words.

    Args:
        words: ``KEY=VALUE``, in the command line's grammar.

    Raises:
        ConfigError: a slip in the words; says how to mend it.

    """
    for word in words:
        if not re.match(r"~|[^-=][^=]*=", word):
            raise ConfigError(f"'{word}' is not KEY=VALUE\n  --help says more")
    overrides, study = apart(with_aliases(list(words)))
    with _composing(config_folder(), words):
        return _one(overrides, study).settings()


def combinations(words: Sequence[str], folder: Path, multirun: bool) -> list[Combination]:
    """Compose every combination of a command.

    Args:
        words: the command's overrides, aliases written out.
        folder: of the configurations.
        multirun: whether lists separated by commas, and the lists of a study, are swept over.

    Raises:
        ConfigError: a slip in the words; says how to mend it.

    """
    overrides, study = apart(words)
    with _composing(folder, words):
        jobs = _split(overrides) if multirun else [overrides]
        bases: dict[tuple[str, ...], Combination] = {}
        return [_seeded(job, study, bases) for job in jobs]


@contextmanager
def _composing(folder: Path, words: Sequence[str]) -> Iterator[None]:
    """Let Hydra compose from a folder and explain its errors."""
    plugin_configs()
    Plugins.instance().register(PluginConfigs)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            yield
    except Exception as error:
        told = explain(error, words)
        if told is error:
            raise
        raise told from error


def _split(words: Sequence[str]) -> list[list[str]]:
    """Return the words of every combination, those of a study's own sweep before the command's."""
    about = [w for w in words if re.match(r"\+study=|\+{0,2}hydra[./]", w)]
    params = compose("config", about, return_hydra_config=True).hydra.sweeper.params or {}
    own = with_aliases([f"{key}={value}" for key, value in params.items()])
    parsed = OverridesParser.create().parse_overrides([*own, *words])
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return jobs


def _seeded(words: list[str], study: str | None, bases: dict[Any, Any]) -> Combination:
    """Compose a job; jobs that differ in their seeds alone are composed once."""
    seed = next((w for w in words if re.fullmatch(r"seed=\d+", w)), None)
    if seed is None:
        return _one(words, study)
    others = tuple(w for w in words if w != seed)
    if others not in bases:
        bases[others] = _composed(others, study)
    base, names = bases[others]
    config = copy.deepcopy(base)
    config.seed = int(seed.removeprefix("seed="))
    return _combination(words, config, names)


def _one(words: Sequence[str], study: str | None) -> Combination:
    return _combination(words, *_composed(words, study))


def _composed(words: Sequence[str], study: str | None) -> tuple[DictConfig, dict[str, str]]:
    """Return a configuration and the choice made in each group."""
    config = compose("config", overrides=list(words), return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    with open_dict(config):
        del config["hydra"]
    put_study(config, study)
    return config, {group: str(choices[group]) for group in GROUPS if choices.get(group)}


def _combination(words: Sequence[str], config: DictConfig, names: dict[str, str]) -> Combination:
    chosen = tuple(word.partition("=")[0].lstrip("+~") for word in words)
    return Combination(tuple(words), resolve(config), names, chosen)


def put_study(config: DictConfig, study: str | None) -> None:
    """Set the key ``study``, which Hydra would take for the group of that name."""
    if study is not None:
        config.study = study
