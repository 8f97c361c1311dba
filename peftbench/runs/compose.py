"""Settings from words as ``train.py`` takes them, for other commands; without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf, open_dict

from ..errors import ConfigError
from .cli import PluginConfigs, config_folder, explain, plugin_configs, with_aliases
from .settings import GROUPS, Settings


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
    plugin_configs()
    Plugins.instance().register(PluginConfigs)
    GlobalHydra.instance().clear()
    overrides = with_aliases(list(words))
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            config = compose("config", overrides=overrides, return_hydra_config=True)
    except Exception as error:
        told = explain(error, words)
        if told is error:
            raise
        raise told from error
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    names = {group: str(choices[group]) for group in GROUPS if choices.get(group)}
    with open_dict(config):
        del config["hydra"]
    chosen = [word.partition("=")[0].lstrip("+~") for word in overrides]
    return Settings.of(config, names, chosen)
