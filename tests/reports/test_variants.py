"""Which runs count as the same thing, what it is called, and what is missing."""

import json

import pytest
from stored import write_run

from peftbench.errors import ConfigError, CorruptAssetError
from peftbench.reports.collect import collect, suite_of
from peftbench.reports.variants import pick, variants


def labels(study, **renamed):
    return [v.label for v in variants(collect([study]).runs, renamed)]


def test_one_method_is_one_thing_over_tasks_and_seeds(tmp_path):
    for task in ("digits", "emoji"):
        for seed in (0, 1):
            write_run(tmp_path, "lora", task, seed)
    (only,) = variants(collect([tmp_path]).runs)
    assert (only.label, len(only.runs), only.seeds) == ("lora", 4, [0, 1])
    assert list(only.scores("emoji")) == [0, 1]


def test_settings_that_differ_make_the_label(tmp_path):
    inner = {"inner": {"_target_": "peftbench.methods.lora.Lora", "rank": 8}}
    write_run(tmp_path, "gist", settings={"mu_kl": 0.75, "lambda_ce": 0.5, "tau": 3.0, **inner})
    write_run(tmp_path, "gist", settings={"mu_kl": 0.0, "lambda_ce": 0.5, "tau": 3.0, **inner})
    write_run(tmp_path, "gist", settings={"mu_kl": 0.0, "lambda_ce": 0.0, "tau": 3.0, **inner})
    write_run(tmp_path, "lora", settings={"rank": 8})
    assert labels(tmp_path) == [
        "gist[lambda_ce=0,mu_kl=0]",
        "gist[lambda_ce=0.5,mu_kl=0]",
        "gist[lambda_ce=0.5,mu_kl=0.75]",
        "lora",
    ]


def test_nested_methods_are_named_by_class_and_own_settings_stay_out(tmp_path):
    lora = {"inner": {"_target_": "peftbench.methods.lora.Lora", "rank": 8}}
    ssf = {"inner": {"_target_": "peftbench.methods.ssf.SSF"}}
    write_run(tmp_path, "gist", settings=lora)
    write_run(tmp_path, "gist", settings=ssf)
    assert labels(tmp_path) == ["gist[inner=Lora]", "gist[inner=SSF]"]


def test_trainer_settings_tell_apart_too(tmp_path):
    write_run(tmp_path, trainer={"lr": 1e-3})
    write_run(tmp_path, trainer={"lr": 1e-2})
    assert labels(tmp_path) == ["lora[trainer.lr=0.001]", "lora[trainer.lr=0.01]"]


def test_what_cannot_change_a_result_tells_nothing_apart(tmp_path):
    write_run(tmp_path, seed=0, trainer={"log_every": 10})
    write_run(tmp_path, seed=1, trainer={"log_every": 50})
    assert labels(tmp_path) == ["lora"]


def test_a_setting_per_task_is_noted_and_does_not_split(tmp_path):
    write_run(tmp_path, task="digits", settings={"scale": 0.1})
    write_run(tmp_path, task="emoji", settings={"scale": 1.0})
    (only,) = variants(collect([tmp_path]).runs)
    assert (only.label, only.per_task) == ("lora", ("scale",))


@pytest.mark.parametrize("other", [{"protocol": "paper"}, {"backbone": "dinov2_small"}])
def test_protocols_and_backbones_are_never_mixed_even_on_other_tasks(tmp_path, other):
    write_run(tmp_path, task="digits")
    write_run(tmp_path, task="emoji", **other)
    assert len(labels(tmp_path)) == 2


def test_other_weights_under_one_name_are_told_apart(tmp_path):
    write_run(tmp_path, weights="ab" * 32)
    write_run(tmp_path, weights="cd" * 32)
    assert labels(tmp_path) == [
        "lora[backbone.sha256=abababab]",
        "lora[backbone.sha256=cdcdcdcd]",
    ]


def test_two_results_for_one_place_are_refused_with_both_paths(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", weights="cd" * 32)
    result = json.loads((second / "result.json").read_text())
    result["backbone_sha256"] = "ab" * 32  # the same in every setting, and yet two runs
    (second / "result.json").write_text(json.dumps(result))
    runs = collect([tmp_path / "a", tmp_path / "b"]).runs
    with pytest.raises(ConfigError, match=f"(?s){first.name}.*{second.name}"):
        variants(runs)


def test_the_same_run_in_two_places_counts_once(tmp_path):
    folder = write_run(tmp_path)
    assert len(collect([tmp_path, folder]).runs) == 1


def test_renaming(tmp_path):
    write_run(tmp_path, "lora")
    write_run(tmp_path, "ssf")
    assert labels(tmp_path, lora="LoRA, rank 8") == ["LoRA, rank 8", "ssf"]
    with pytest.raises(ConfigError, match="Did you mean 'lora'"):
        labels(tmp_path, lra="x")
    with pytest.raises(ConfigError, match="two methods would be called 'ssf'"):
        labels(tmp_path, lora="ssf")


def test_picking_a_base(tmp_path):
    write_run(tmp_path, "gist", settings={"mu_kl": 0.0})
    write_run(tmp_path, "gist", settings={"mu_kl": 1.0})
    write_run(tmp_path, "lora")
    found = variants(collect([tmp_path]).runs)
    assert pick(found, "lora", "base").label == "lora"
    assert pick(found, "gist[mu_kl=0]", "base").label == "gist[mu_kl=0]"
    with pytest.raises(ConfigError, match=r"several settings(?s:.*)gist\[mu_kl=1\]"):
        pick(found, "gist", "base")
    with pytest.raises(ConfigError, match="Did you mean 'lora'"):
        pick(found, "lor", "base")


def test_unfinished_and_failed_runs_are_missing_with_the_reason(tmp_path):
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, finished=False)
    write_run(tmp_path, seed=2, finished=False, error="NonFiniteError: loss\nmore")
    spoilt = write_run(tmp_path, seed=3)
    (spoilt / "result.json").write_text("{")
    found = collect([tmp_path])
    reasons = {m.seed: m.reason for m in found.missing()}
    assert reasons == {1: "not finished", 2: "failed: NonFiniteError: loss", 3: "not finished"}
    assert len(found.finished) == 1


def test_members_that_never_began_are_read_from_the_suite(tmp_path):
    write_run(tmp_path, task="digits")
    lines = {"digits": {"run_id": "x"}, "emoji": {"run_id": None, "error": "no data"}}
    summary = {"suite": "pocket_vision", "method": "lora", "seed": 0, "tasks": lines}
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "suite.json").write_text(json.dumps(summary))
    (lost,) = collect([tmp_path]).missing()
    assert (lost.task, lost.reason) == ("emoji", "failed: no data")
    assert collect([tmp_path]).of_suite("pocket_vision").missing() == [lost]
    assert collect([tmp_path]).of_suite("fgvc").missing() == []
    write_run(tmp_path, task="emoji")  # run on its own since
    assert collect([tmp_path]).missing() == []


def test_tasks_of_one_name_in_two_suites_stay_two(tmp_path):
    write_run(tmp_path, task="cifar100", suite="vtab1k")
    write_run(tmp_path, task="cifar100", suite="cifar100")
    assert {r.task for r in collect([tmp_path]).runs} == {"vtab1k/cifar100", "cifar100/cifar100"}
    assert labels(tmp_path) == ["lora"]
    assert len(collect([tmp_path]).of_suite("vtab1k").runs) == 1


def test_suites_are_known_by_the_data_spec():
    assert suite_of("peftbench.tasks.pocket.PocketVision") == "pocket_vision"
    assert suite_of("peftbench.tasks.other.Thing") is None


def test_wrong_places_are_said(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        collect([tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="holds no run"):
        collect([tmp_path])
    folder = write_run(tmp_path)
    (folder / "config.yaml").write_text("a: 1\n")
    with pytest.raises(CorruptAssetError, match=r"config\.yaml"):
        collect([tmp_path])
