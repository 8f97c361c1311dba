"""Every shipped choice composes, builds, and survives the way through its own ``config.yaml``."""

import itertools

import pytest
import yaml
from hydra import compose, initialize_config_dir

from peftbench.runs.settings import GROUPS, Settings

from .conftest import ROOT

CONFIGS = ROOT / "configs"
CHOICES = [
    (group, path.stem)
    for group in sorted(GROUPS)
    for path in sorted((CONFIGS / group).glob("*.yaml"))
]
NEEDS = {  # what has no default
    "backbone=hub_vit": ["backbone.model=hf-hub:owner/name"],
    "data=hub_images": ["data.path=owner/name"],
}


def composed_of(*overrides):
    overrides = [*overrides, *(more for o in overrides for more in NEEDS.get(o, ()))]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=overrides)


def settings_of(*overrides):
    return Settings.of(composed_of(*overrides))


def test_there_are_choices_of_every_group():
    found = {group: [n for g, n in CHOICES if g == group] for group in GROUPS}
    assert {"gist", "linear", "lora"} <= set(found["method"])
    assert {"dinov2_small", "vit_b16"} <= set(found["backbone"])
    assert found["protocol"] == ["honest", "paper"] and "digits" in found["data"]
    assert found["tracker"] == ["files", "tensorboard", "wandb"] and {
        "default",
        "gist_vtab1k",
        "short",
    } <= set(found["trainer"])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_composes_and_comes_back_from_its_file(group, name):
    settings = settings_of(f"{group}={name}")
    again = Settings.of(yaml.safe_load(yaml.safe_dump(dict(settings.plain))))
    assert again.plain == settings.plain and getattr(again, group) == getattr(settings, group)


METHODS = [name for group, name in CHOICES if group == "method" and name != "gist"]


@pytest.mark.parametrize("inner", METHODS)
def test_gist_composes_over_every_method(inner):
    alone = settings_of(f"method={inner}").method
    assert settings_of("method=gist", f"method@method.inner={inner}").method.inner == alone


OPEN = [(g, n) for g, n in CHOICES if g != "backbone"]  # a backbone's file pins what it is


@pytest.mark.parametrize(("group", "name"), OPEN)
def test_a_file_lists_every_setting_so_that_each_can_be_changed_by_name(group, name):
    composed = composed_of(f"{group}={name}")
    assert set(Settings.of(composed).plain[group]) - set(composed[group]) == set()


AUGMENTS = [path.stem for path in sorted((CONFIGS / "trainer" / "augment").glob("*.yaml"))]


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentation_composes_with_any_trainer(name):
    made = settings_of("trainer=gist_vtab1k", f"trainer/augment={name}").trainer
    assert made.augment == settings_of(f"trainer/augment={name}").trainer.augment
    assert made.augment.active == (name != "none")
    assert settings_of("trainer.augment.flip=0.25").trainer.augment.flip == 0.25


def test_every_run_has_an_identity_of_its_own():
    from peftbench.runs.launch import run_dir_of

    tasks = [n for g, n in CHOICES if g == "data" and n not in ("pocket_vision", "hub_images")]
    ids = {
        run_dir_of(settings_of(f"method={m}", f"data={d}")).run_id
        for m, d in itertools.product(METHODS[:3], tasks)
    }
    assert len(ids) == len(METHODS[:3]) * len(tasks)


@pytest.mark.parametrize("method", ["u_tuning", "u_tuning_tri", "u_tuning_first"])
@pytest.mark.parametrize("tuner", ["p_adapter", "p_prefix", "p_prompt"])
def test_a_tuner_can_be_exchanged_by_name(method, tuner):
    made = settings_of(f"method={method}", f"tuner@method.tuners.attn={tuner}").method
    assert made.tuners["attn"].kind == tuner.removeprefix("p_")
    assert made.tuners["mlp"].hidden == 13
