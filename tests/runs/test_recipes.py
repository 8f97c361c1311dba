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


def fall(trainer, steps, rise):
    """Hold a recipe to a straight rise from 0 and a straight fall to 0."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = make_optimizer([ParamGroup({"w": parameter})], trainer)
    made = Schedule(optimizer, trainer, steps // trainer.epochs)
    for t in {0, rise // 2, rise, (rise + steps) // 2, steps - 1}:
        wanted = t / rise if t < rise else (steps - t) / (steps - rise)
        assert made.set(t) == pytest.approx(trainer.lr * wanted, rel=1e-9)
    assert made.set(steps) == 0


GLUE = {  # task: learning rate, epochs, steps of the scripts
    "mnli": (7e-5, 10, 122_720), "sst2": (7e-5, 15, 31_575), "mrpc": (7e-5, 20, 2300),
    "cola": (7e-5, 20, 5360), "qnli": (5e-5, 10, 32_740), "qqp": (7e-5, 20, 227_420),
    "rte": (7e-5, 20, 1560), "stsb": (8e-5, 30, 5400),
}  # fmt: skip


@pytest.mark.parametrize("task", GLUE)
def test_the_recipe_of_sift_on_glue(task):
    lr, epochs, steps = GLUE[task]
    made = recipe("sift_glue").for_task(task)
    assert (made.lr, made.epochs, made.batch_size, made.weight_decay) == (lr, epochs, 32, 0.1)
    fall(made, steps, math.ceil(0.06 * steps))


def test_the_recipe_of_sift_on_alpaca():
    made = recipe("sift_alpaca")
    assert (made.batch_size, made.accumulate, made.epochs, made.lr) == (128, 32, 3, 2e-4)
    assert (made.precision, made.weight_decay, made.grad_clip) == ("bf16", 0.01, 1.0)
    fall(made, 1218, 37)


def test_the_recipes_of_pemt():
    source, target = recipe("pemt_source"), recipe("pemt")
    assert (source.epochs, source.batch_size, source.lr) == (5, 128, 5e-4)
    fall(source, 5000, 500)
    for made in (source, target):
        assert (made.weight_decay, made.grad_clip, made.optimizer) == (0.0, 1.0, "adamw")
        assert made.betas == (0.9, 0.999)
    rows = {t: target.for_task(t) for t in ("cb", "scitail", "searchqa")}
    found = [(r.batch_size, r.epochs, r.lr) for r in rows.values()]
    assert found == [(32, 20, 3e-4), (32, 10, 3e-4), (128, 5, 3e-4)]
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    cb = Schedule(make_optimizer([ParamGroup({"w": parameter})], rows["cb"]), rows["cb"], 8)
    assert (cb.set(0), cb.set(80), cb.set(160)) == (3e-4, 1.5e-4, 0.0)


def test_the_table_of_pemt_goes_by_the_sizes_of_the_sets():
    from peftbench.tasks.text_tables import PEMT_17, TABLE

    for group in PEMT_17.values():
        for task in group:
            row, made = TABLE[task], recipe("pemt").for_task(task)
            size = min(row.counts["train"], row.cap or row.counts["train"])
            wanted = (20, 32) if size < 10_000 else (10, 32) if size <= 100_000 else (5, 128)
            assert (made.epochs, made.batch_size) == wanted, task


def test_the_recipe_of_prompt_tuning_rises_within_every_set():
    from peftbench.tasks.text_tables import PEMT_17, TABLE

    trainer = recipe("prompt_tuning")
    assert (trainer.lr, trainer.batch_size, trainer.weight_decay) == (0.3, 128, 1e-5)
    for task in [t for group in PEMT_17.values() for t in group] + ["mnli", "qnli", "qqp", "sst2"]:
        row, made = TABLE[task], trainer.for_task(task)
        size = min(row.counts["train"], row.cap or row.counts["train"])
        size -= 1000 * (row.rule == "large")
        steps = math.ceil(size / made.batch_size) * made.epochs
        rise = 500 if made.warmup_steps else math.ceil(0.1 * steps)
        fall(made, steps, rise)
        assert made.warmup_steps is not None or task in ("cb", "wsc")


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
