"""Command lines that runs are traced back to."""

import shlex

import pytest
import yaml
from stored import write_run

from peftbench.reports.collect import collect, read
from peftbench.reports.commands import class_fields, command, written
from peftbench.runs.compose import compose_settings
from peftbench.runs.identity import lasting


def stored(folder, words):
    """Write the settings that some words lead to, as a run stores them."""
    settings = compose_settings(words)
    path = folder / "0123456789ab"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(dict(settings.plain), sort_keys=False))
    return settings, read(path)


WORDS = [
    "method=lora backbone=dinov2_small data=digits seed=3",
    "method=gist backbone=dinov2_small data=emoji method.mu_kl=0 inner=lora inner.rank=4",
    "method=adapter_shared backbone=vit_b16 data=vtab1k/dtd trainer=gist_vtab1k study=x",
    "method=u_tuning_tri backbone=vit_b16 data=digits trainer.augment.flip=0.5 protocol=paper",
    "method=combo backbone=vit_b16 data=digits parts=[lora,bitfit] parts.lora.rank=4",
    "method=pemt backbone=t5_base data=published/mnli trainer=pemt sources=mnli trainer.epochs=3",
    "method=sift backbone=llama_7b data=alpaca trainer=sift_alpaca method.roles=[q,v]",
    "method=lora backbone=flan_t5_small data=pocket_text/intents trainer.precision=bf16",
]


@pytest.mark.parametrize("words", WORDS)
def test_a_command_leads_back_to_the_same_settings(tmp_path, words):
    settings, run = stored(tmp_path, words.split())
    line = command(run)
    again = compose_settings(shlex.split(line)[2:])
    assert line.startswith("python train.py ")
    assert lasting(again.plain) == lasting(settings.plain)
    assert again.names == settings.names and again.study == settings.study


@pytest.mark.parametrize("words", [WORDS[0], WORDS[1], WORDS[2], WORDS[7]])
def test_a_command_is_as_short_as_what_was_typed(tmp_path, words):
    _, run = stored(tmp_path, words.split())
    typed = {*words.split(), "seed=0"} if "seed" not in words else {*words.split()}
    found = set(command(run).removeprefix("python train.py ").split())
    assert {w.replace("=0.0", "=0") for w in found} == {
        w.replace("inner.rank", "method.inner.rank") for w in typed
    }


def test_a_setting_that_is_gone_stands_behind_as_a_comment(tmp_path):
    _, run = stored(tmp_path, ["method=lora", "backbone=dinov2_small", "data=digits"])
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["backbone"]["old_setting"] = 3
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    line = command(read(run.path))
    assert line.endswith("seed=0  # no setting any more: backbone.old_setting=3")


def test_settings_of_no_file_are_said_to_have_no_command(tmp_path):
    write_run(tmp_path, "lora")  # its class is none of the project's
    [run] = collect([tmp_path]).runs
    assert command(run) == (
        "# no choice in configs/ leads to these settings (method=lora); see config.yaml"
    )


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"),
        (True, "true"),
        (1e-8, "1e-08"),
        ("null", "'null'"),
        ("a b", "'a b'"),
        ("it's", r"'it\'s'"),
        ("q", "q"),
        ("", "''"),
        ([1, "q", None], "[1,q,null]"),
        ({"a": {"b": 1}}, "{a:{b:1}}"),
    ],
)
def test_values_in_the_grammar_of_the_command_line(value, text):
    assert written(value) == text


def test_defaults_are_read_from_the_text_of_a_class():
    fields = class_fields("peftbench.methods.lora.Lora")
    from peftbench.methods.lora import Lora

    assert fields["rank"] == Lora().rank and "nothing" not in fields
    assert class_fields("elsewhere.Thing") == {}
