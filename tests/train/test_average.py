"""The moving average: the formula, kept apart from what trains, and stored with the state."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_loop import CFG, fitter, furthest, trained
from torch import nn

from peftbench.errors import ConfigError
from peftbench.train import Interrupted, Trainer
from peftbench.train import state as states
from peftbench.train.average import Average

AVERAGED = dataclasses.replace(CFG, ema=0.5)


def test_it_is_the_formula() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    average, expected = Average({"w": parameter}, 0.9), torch.zeros(3)
    for step in range(5):
        with torch.no_grad():
            parameter.add_(step + 1.0)
        average.update()
        expected = 0.9 * expected + 0.1 * parameter.detach()
    torch.testing.assert_close(average.tensors["w"], expected)
    current = parameter.detach().clone()
    with average.shown():
        torch.testing.assert_close(parameter.detach(), expected)
    assert torch.equal(parameter.detach(), current)
    average.settle()
    torch.testing.assert_close(parameter.detach(), expected)


def test_training_is_unchanged_and_its_average_is_what_is_left() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def keep(f, *_):
        seen.append({n: p.detach().clone() for n, p in f.params.items()})

    every = dataclasses.replace(CFG, batch_size=20, epochs=4)
    plain = fitter(cfg=every, epoch_end=keep)
    start = {n: p.detach().clone() for n, p in plain.params.items()}
    plain.run()
    averaged = fitter(cfg=dataclasses.replace(every, ema=0.5))
    averaged.run()
    for name, value in start.items():
        for step in seen:
            value = 0.5 * value + 0.5 * step[name]
        torch.testing.assert_close(averaged.params[name].detach(), value)


def test_scores_are_those_of_the_average() -> None:
    def score(f, *_):
        f.found = f.evaluate(f.task.split("val")).scores_NC

    f = fitter(cfg=dataclasses.replace(AVERAGED, max_steps=3), epoch_end=score)
    f.run()
    again = f.evaluate(f.task.split("val")).scores_NC
    assert torch.equal(f.found, again)


def test_a_killed_run_keeps_its_average(tmp_path: Path) -> None:
    whole = trained(fitter(cfg=AVERAGED))
    first = fitter(cfg=AVERAGED, folder=tmp_path, should_stop=lambda: first.step == 3)
    with pytest.raises(Interrupted):
        first.run()
    second = fitter(cfg=AVERAGED, folder=tmp_path)
    state, _ = states.load(tmp_path)
    assert state is not None
    second.resume(state)
    assert furthest(trained(second), whole) == 0


def test_what_is_no_decay() -> None:
    for value in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match=r"trainer\.ema"):
            Trainer(ema=value)
