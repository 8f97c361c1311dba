"""Learning-rate schedule and weight-decay groups; property 17 of GIST's specification."""

import math

import pytest
import torch
from torch import nn

from peftbench.errors import ConfigError
from peftbench.methods.base import ParamGroup
from peftbench.train.config import Trainer
from peftbench.train.optim import Schedule, make_optimizer

LR = 5e-3


def schedule(lr=LR, steps_per_epoch=15, groups=None, **options):
    groups = groups or [ParamGroup({"w": nn.Parameter(torch.zeros(2, 2))})]
    cfg = Trainer(lr=lr, **options)
    return Schedule(make_optimizer(groups, cfg), cfg, steps_per_epoch)


def paper(**options):
    recipe = {"epochs": 100, "warmup_epochs": 10, "warmup_lr": 1e-7, "min_lr": 1e-8}
    return schedule(**{**recipe, "schedule_per": "epoch", **options})


def test_the_recipe_of_the_release():
    made = paper()
    assert made.set(0) == pytest.approx(1e-7)
    assert made.set(9 * 15) == pytest.approx(1e-7 + 9 * (LR - 1e-7) / 10)
    assert made.set(9 * 15) == pytest.approx(0.9 * LR, rel=1e-4)
    assert made.set(10 * 15) == pytest.approx(0.97553 * LR, rel=1e-5)
    assert made.set(50 * 15) == pytest.approx(0.5 * LR, rel=1e-5)


@pytest.mark.parametrize("epoch", range(0, 100, 7))
def test_closed_form_at_every_epoch(epoch):
    if epoch < 10:
        wanted = 1e-7 + epoch * (LR - 1e-7) / 10
    else:
        wanted = 1e-8 + 0.5 * (LR - 1e-8) * (1 + math.cos(math.pi * epoch / 100))
    made = paper()
    for step in range(15):  # the rate stands still inside an epoch
        assert made.set(epoch * 15 + step) == pytest.approx(wanted, rel=1e-9)


def test_after_the_end_the_floor():
    assert paper().set(100 * 15) == pytest.approx(1e-8)


def test_by_step_is_the_same_curve_drawn_finer():
    fine, coarse = paper(schedule_per="step"), paper()
    for epoch in (0, 5, 10, 33, 99):
        assert fine.set(epoch * 15) == pytest.approx(coarse.set(epoch * 15), rel=1e-9)
    assert fine.set(33 * 15 + 7) < fine.set(33 * 15)


def test_a_resumed_schedule_is_a_pure_function_of_the_step():
    one = paper(schedule_per="step")
    walked = [one.set(step) for step in range(1200)]
    assert [paper(schedule_per="step").set(s) for s in (0, 400, 1199)] == [
        walked[0],
        walked[400],
        walked[1199],
    ]


def test_constant_stays_at_its_peak_after_the_warm_up():
    made = schedule(schedule="constant", epochs=4, warmup_epochs=1, schedule_per="step")
    assert made.set(0) == pytest.approx(1e-7)
    assert [made.set(s) for s in (15, 30, 59)] == [LR] * 3


def straight(**options):
    recipe = {"epochs": 4, "schedule": "linear", "warmup_lr": 0.0, "min_lr": 0.0}
    return schedule(**{**recipe, **options})


@pytest.mark.parametrize("rise", [{"warmup_steps": 9}, {"warmup_ratio": 0.15}])
def test_linear_falls_straight_to_its_floor(rise):
    made, floor = straight(**rise), straight(**rise, min_lr=1e-3)
    for step in range(60):
        rising = LR * step / 9
        assert made.set(step) == pytest.approx(
            rising if step < 9 else LR * (60 - step) / 51, rel=1e-12
        )
        fall = 1e-3 + (LR - 1e-3) * (60 - step) / 51
        assert floor.set(step) == pytest.approx(rising if step < 9 else fall, rel=1e-12)
    assert [made.set(s) for s in (60, 61, 900)] == [0.0] * 3
    assert [floor.set(s) for s in (60, 900)] == [1e-3] * 2


@pytest.mark.parametrize(("warmup", "ratio", "steps"), [(500, None, 4000), (None, 0.06, 2300)])
def test_linear_is_the_schedule_that_the_scripts_use(warmup, ratio, steps):
    """transformers.get_linear_schedule_with_warmup, which trainers of that library take."""
    from transformers import get_linear_schedule_with_warmup

    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    rise = warmup or math.ceil(ratio * steps)
    theirs = get_linear_schedule_with_warmup(plain, rise, steps)
    ours = straight(epochs=1, warmup_steps=warmup, warmup_ratio=ratio, steps_per_epoch=steps)
    for step in range(steps):
        assert ours.set(step) == pytest.approx(plain.param_groups[0]["lr"], rel=1e-9, abs=1e-18)
        plain.step()
        theirs.step()


def test_linear_without_a_rise_and_by_epochs():
    made = straight(warmup_epochs=0)
    assert (made.set(0), made.set(30)) == (LR, LR / 2)
    coarse = straight(warmup_epochs=1, schedule_per="epoch")
    assert [coarse.set(15 * e) for e in range(5)] == pytest.approx([0, LR, LR * 2 / 3, LR / 3, 0])
    assert straight(warmup_epochs=9).set(59) == pytest.approx(LR * 59 / 60)  # nothing but a rise


def test_a_rise_in_steps_goes_with_every_schedule():
    cosine = schedule(epochs=4, warmup_steps=6, warmup_lr=0.0, min_lr=0.0)
    assert cosine.set(3) == pytest.approx(LR / 2) and cosine.set(30) == pytest.approx(LR / 2)
    constant = schedule(epochs=4, schedule="constant", warmup_steps=6, warmup_lr=0.0)
    assert (constant.set(3), constant.set(6), constant.set(59)) == (LR / 2, LR, LR)
    assert schedule(epochs=4, schedule="constant", warmup_steps=0).set(0) == LR


def test_a_rise_that_is_no_shorter_than_the_fit_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps: 60 of 60 steps .*warmup_ratio=0\.1"):
        straight(warmup_steps=60)
    assert straight(warmup_steps=59).set(59) == LR


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"warmup_steps": -1}, "warmup_steps: -1"),
        ({"warmup_ratio": 1.0}, "warmup_ratio: 1.0 not in"),
        ({"warmup_ratio": -0.1}, "warmup_ratio: -0.1 not in"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "one of them"),
        ({"warmup_steps": 3, "schedule_per": "epoch"}, "warmup_steps: it counts steps"),
        ({"warmup_ratio": 0.1, "schedule_per": "epoch"}, "warmup_ratio: it counts steps"),
    ],
)
def test_rises_without_meaning_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        Trainer(**options)


def test_multipliers_of_groups_follow_the_curve():
    slow = ParamGroup({"a": nn.Parameter(torch.zeros(2, 2))}, lr=0.1)
    fast = ParamGroup({"b": nn.Parameter(torch.zeros(2, 2))})
    made = paper(groups=[fast, slow])
    made.set(50 * 15)
    rates = [g["lr"] for g in made.optimizer.param_groups]
    assert rates[0] == pytest.approx(0.5 * LR, rel=1e-5)
    assert rates[1] == pytest.approx(0.05 * LR, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_only_on_tensors_with_more_than_one_axis(optimizer):
    params = {
        "matrix": nn.Parameter(torch.zeros(2, 2)),
        "token": nn.Parameter(torch.zeros(1, 1, 4)),
        "bias": nn.Parameter(torch.zeros(3)),
    }
    half = ParamGroup({"other": nn.Parameter(torch.zeros(2, 2))}, weight_decay=0.5)
    made = make_optimizer(
        [ParamGroup(params), half], Trainer(weight_decay=0.2, optimizer=optimizer)
    )
    decay = {id(p): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    assert [decay[id(params[n])] for n in params] == [0.2, 0.2, 0.0]
    assert decay[id(half.params["other"])] == pytest.approx(0.1)
    everything = make_optimizer(
        [ParamGroup(params)], Trainer(weight_decay=0.2, decay="all", optimizer=optimizer)
    )
    assert {g["weight_decay"] for g in everything.param_groups} == {0.2}


def test_adamw_and_sgd_take_their_settings():
    group = [ParamGroup({"w": nn.Parameter(torch.zeros(2, 2))})]
    adam = make_optimizer(group, Trainer(betas=(0.8, 0.9), lr=0.3))
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.param_groups[0]["betas"] == (0.8, 0.9) and adam.param_groups[0]["eps"] == 1e-8
    sgd = make_optimizer(group, Trainer(optimizer="sgd", momentum=0.7))
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize("name", ["warmup_epochs", "lr", "min_lr"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.{name}: -1"):
        Trainer(**{name: -1})
