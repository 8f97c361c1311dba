"""The published recipes: their numbers, and settings that hold on one task alone."""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir

from peftbench.errors import ConfigError
from peftbench.methods.base import ParamGroup
from peftbench.runs.settings import Settings, build_group, resolve
from peftbench.tasks.base import Classification, DataSpec
from peftbench.tasks.batch import Split
from peftbench.train.config import Trainer
from peftbench.train.optim import Schedule, make_optimizer

from .conftest import ROOT


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def recipe(name):
    plain = resolve(composed(f"trainer={name}"))["trainer"]
    return build_group("trainer", plain)


class Named(DataSpec):
    """A data spec that is nothing but a name."""

    takes = "image"

    def __init__(self, name):
        self._name = name

    @property
    def name(self):
        return self._name

    @property
    def manifest_sha256(self):
        return "0" * 64

    def load(self):
        zero = torch.zeros(1, dtype=torch.long)
        parts = {n: Split(n, {}, zero, zero + i) for i, n in enumerate(("train", "val", "test"))}
        return Classification(self._name, ("a",), parts, {})


def rates(trainer, steps_per_epoch, epochs):
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    schedule = Schedule(make_optimizer([ParamGroup({"w": parameter})], trainer), trainer,
                        steps_per_epoch)  # fmt: skip
    return [schedule.set(e * steps_per_epoch) for e in range(epochs)]


def test_the_schedule_of_gist_to_the_digit():
    """Section 10 of the paper's code: 1e-7, a straight rise, a cosine that is not restarted."""
    trainer = recipe("gist_vtab1k").for_task("vtab1k/dtd")
    lr, rate = trainer.lr, rates(trainer, 15, 100)
    assert (lr, trainer.weight_decay, trainer.drop_path) == (5e-3, 5e-5, 0.0)
    assert rate[0] == 1e-7 and rate[10] == pytest.approx(0.97553 * lr, rel=1e-5)
    assert rate[9] == pytest.approx(0.9 * lr, rel=1e-4) and rate[50] == pytest.approx(
        0.5 * lr, rel=1e-5
    )
    for t, found in enumerate(rate):
        rise = 1e-7 + t * (lr - 1e-7) / 10
        fall = 1e-8 + 0.5 * (lr - 1e-8) * (1 + math.cos(math.pi * t / 100))
        assert found == pytest.approx(rise if t < 10 else fall, rel=1e-12)


def test_an_epoch_of_gist_has_fifteen_steps():
    trainer = recipe("gist_vtab1k")
    assert trainer.drop_last and 1000 // trainer.batch_size == 15
    assert trainer.optimizer == "adamw" and trainer.betas == (0.9, 0.999)
    assert not trainer.augment.active and trainer.label_smoothing == 0 and trainer.ema is None


def test_the_table_of_gist():
    table = recipe("gist_vtab1k").per_task
    assert len(table) == 19
    assert table["vtab1k/clevr_dist"] == {"lr": 5e-2, "weight_decay": 5e-2, "drop_path": 0.1}
    assert sum(entry["lr"] for entry in table.values()) == pytest.approx(0.158)
    assert sorted({entry["drop_path"] for entry in table.values()}) == [0.0, 0.1, 0.2]
    decays = [entry["weight_decay"] for entry in table.values()]
    assert decays.count(5e-2) == 5 and decays.count(5e-5) == 14


TABLE = {"one": {"lr": 0.5, "drop_path": 0.25}, "two": {"lr": 0.125}}


def suite_settings(*overrides, chosen=()):
    plain = resolve(composed("backbone=vit_tiny_random", "data=pocket_vision", *overrides))
    plain["trainer"]["per_task"] = TABLE
    return Settings.of(plain, chosen=chosen)


def test_a_task_takes_its_own_settings():
    made = suite_settings()
    one, two, three = (made.for_task(n, Named(n)).trainer for n in ("one", "two", "three"))
    assert (one.lr, one.drop_path, one.per_task) == (0.5, 0.25, {})
    assert (two.lr, two.drop_path) == (0.125, 0.0)
    assert (three.lr, three.drop_path) == (5e-3, 0.0)


def test_what_the_command_names_wins():
    made = suite_settings("trainer.lr=0.75", chosen=["trainer.lr", "seed"])
    one = made.for_task("one", Named("one")).trainer
    assert (one.lr, one.drop_path) == (0.75, 0.25)


def test_alone_and_in_a_suite_a_task_is_the_same_run():
    from peftbench.runs.launch import run_dir_of

    table = ["+trainer.per_task.digits.lr=0.25", "+trainer.per_task.mnist5k.batch_size=8"]
    alone = Settings.of(composed("data=digits", *table))
    suite = Settings.of(composed("data=pocket_vision", *table))
    member = suite.for_task("digits", suite.data.selected()["digits"])
    assert alone.trainer.lr == 0.25 and run_dir_of(alone).run_id == run_dir_of(member).run_id
    by_hand = Settings.of(composed("data=digits", "trainer.lr=0.25"))
    assert run_dir_of(by_hand).run_id == run_dir_of(alone).run_id


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"one": {"lrr": 1.0}}, r"trainer\.per_task\.one\.lrr"),
        ({"one": {"lr": "fast"}}, r"trainer\.per_task\.one\.lr"),
        ({"one": {"lr": -1.0}}, r"trainer\.lr"),
        ({"one": {"per_task": {}}}, "a table within a table"),
    ],
)
def test_a_slip_in_the_table_is_found_before_anything_runs(table, words):
    with pytest.raises(ConfigError, match=words):
        Trainer(per_task=table)
