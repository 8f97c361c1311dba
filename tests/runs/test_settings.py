"""Settings are checked and completed before anything is read."""

import yaml
from pytest import mark, raises

from peftbench.errors import ConfigError
from peftbench.runs.identity import run_id
from peftbench.runs.settings import Files, Protocol, Settings


def test_objects_are_built_and_the_plain_form_is_complete(plain):
    settings = Settings.of(plain)
    assert settings.method.rank == 4 and settings.protocol == Protocol()
    assert settings.tracker == Files() and settings.seed == 0
    assert settings.plain["method"]["alpha"] == 16.0  # a default that the configuration left out
    assert settings.plain["trainer"]["lr"] == 1e-3
    assert settings.names["method"] == "lora"
    assert settings.names["protocol"] == "honest"  # not chosen by name: its own


def test_config_yaml_gives_the_same_settings_back(plain):
    settings = Settings.of(plain)
    again = Settings.of(yaml.safe_load(yaml.safe_dump(dict(settings.plain))))
    assert again == settings and again.plain == settings.plain


def test_spelling_out_a_default_or_an_integer_for_a_float_is_the_same_run(plain):
    before = run_id(Settings.of(plain).plain, "m")
    plain["method"] |= {"alpha": 16, "roles": ["q", "v"]}
    assert run_id(Settings.of(plain).plain, "m") == before
    plain["method"]["alpha"] = 17
    assert run_id(Settings.of(plain).plain, "m") != before


def test_references_are_resolved(plain):
    plain["method"]["alpha"] = "${method.rank}"
    assert Settings.of(plain).method.alpha == 4.0


def test_one_task_of_a_suite_is_the_run_of_that_task_alone(plain, fakes):
    alone = Settings.of(plain)
    suite = plain | {
        "data": {
            "_target_": "peftbench.fakes.Suite",
            "name": "s",
            "members": {"digits": plain["data"]},
        }
    }
    member = Settings.of(suite).for_task("digits", fakes.Pocket())
    assert run_id(member.plain, "m") == run_id(alone.plain, "m")


@mark.parametrize(
    ("change", "texts"),
    [
        ({"sed": 1}, ["'sed'", "Did you mean 'seed'", "choices:"]),
        ({"seed": "x"}, ["seed: expected int, got 'x'"]),
        ({"seed": True}, ["seed: expected int"]),
        ({"seed": -1}, ["seed: expected 0 or more"]),
        ({"study": "a/b"}, ["study: 'a/b' is not a folder name"]),
        ({"study": ".."}, ["study: '..'"]),
        ({"output": 3}, ["output: expected str"]),
        ({"method": None}, ["method=NAME"]),
        ({"seed": "${nothing}"}, ["seed: ", "nothing"]),
        ({"seed": "???"}, ["seed: a value is needed", "seed=VALUE"]),
        ({"tracker": {"_target_": "peftbench.runs.settings.Protocol"}}, ["tracker._target_"]),
        ({"protocol": {"_target_": "os.system"}}, ["'os.system' is not a class of peftbench"]),
    ],
)
def test_a_slip_at_the_top_is_named(plain, change, texts):
    with raises(ConfigError) as info:
        Settings.of(plain | change)
    for text in texts:
        assert text in str(info.value)


@mark.parametrize(
    ("group", "values", "texts"),
    [
        ("method", {"rnk": 4}, ["'rnk'", "method.rnk", "Did you mean 'rank'", "alpha"]),
        ("trainer", {"lr": "fast"}, ["trainer.lr: expected float, got 'fast'"]),
        ("trainer", {"optimizer": "adam"}, ["trainer.optimizer", "Did you mean 'adamw'", "sgd"]),
        ("protocol", {"name": "papr"}, ["protocol.name", "Did you mean 'paper'"]),
        ("protocol", {"select": "best_test"}, ["protocol.select", "protocol=paper"]),
        ("protocol", {"name": "paper", "select": "best_test"}, ["protocol.final_fit"]),
        ("protocol", {"name": "paper", "final_fit": False}, ["protocol.select"]),
    ],
)
def test_a_slip_in_a_group_is_named(plain, group, values, texts):
    plain[group] |= values
    with raises(ConfigError) as info:
        Settings.of(plain)
    for text in texts:
        assert text in str(info.value)


def test_a_missing_key_is_named(plain):
    del plain["trainer"]
    with raises(ConfigError, match="trainer: a value is needed"):
        Settings.of(plain)
