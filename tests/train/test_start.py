"""Methods that look at data before the first step: the same choice however it is computed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_loop import CFG, fitter, furthest, trained

from peftbench.edits import Delta
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.methods.sift import Sift
from peftbench.train import Interrupted
from peftbench.train import state as states
from peftbench.train.augment import Augment

SIFT = Sift(rate=0.05)


def indices(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {n: t for n, t in tensors.items() if n.endswith(".index")}
    assert found and all((t >= 0).all() for t in found.values())
    return found


def test_it_learns_and_counts_what_it_looked_at() -> None:
    losses: list[float] = []
    cfg = dataclasses.replace(CFG, epochs=20)
    f = fitter(Sift(rate=0.2), cfg, log=lambda *a: losses.append(a[3]["loss"]))
    f.run()
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert f.report.samples == 20 * 20 + 8 and f.report.steps == 60
    plain = fitter(Lora())
    plain.run()
    assert plain.report.samples == 2 * 20


def test_accumulation_chooses_and_trains_the_same() -> None:
    whole = trained(fitter(SIFT))
    parts = trained(fitter(SIFT, dataclasses.replace(CFG, accumulate=3)))
    a, b = indices(whole), indices(parts)
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert furthest(whole, parts) < 1e-5


@pytest.mark.parametrize("method", [SIFT, Gist(inner=SIFT), Sift(batches=2, rate=0.05)])
def test_one_seed_repeats(method: Sift) -> None:
    assert furthest(trained(fitter(method)), trained(fitter(method))) == 0.0


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_run_keeps_its_choice(
    stop_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = trained(fitter(SIFT))
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == stop_after

    with pytest.raises(Interrupted):
        fitter(SIFT, folder=tmp_path, should_stop=stop).run()
    state, _ = states.load(tmp_path)
    assert state is not None
    second = fitter(SIFT)
    second.resume(state)
    monkeypatch.setattr(Sift, "prepare", lambda *_: pytest.fail("it chose again"))
    assert furthest(trained(second), reference) == 0.0


def test_a_state_from_before_the_first_step_chooses_then(tmp_path: Path) -> None:
    reference = trained(fitter(SIFT))
    fitter(SIFT, folder=tmp_path).save()
    state, _ = states.load(tmp_path)
    assert state is not None and state.step == 0
    second = fitter(SIFT)
    second.resume(state)
    assert furthest(trained(second), reference) == 0.0


def test_an_average_starts_at_the_chosen_entries_and_is_what_is_scored() -> None:
    f = fitter(SIFT, dataclasses.replace(CFG, ema=0.5))
    f.run()
    for edit in f.model.delta:
        written = edit.tensor.detach().view(-1)[edit.index]
        assert torch.equal(written, edit.values.detach())
    still = fitter(SIFT, dataclasses.replace(CFG, ema=0.999999999, lr=1e-2))
    base = {n: p.clone() for n, p in still.model.base.named_parameters()}
    still.run()
    for name, p in still.model.base.named_parameters():
        assert torch.allclose(p, base[name], atol=1e-5)


def test_augmented_and_mixed_batches_are_looked_at_as_trained_on() -> None:
    augment = Augment(crop="random_resized", flip=0.5, mixup=0.4, mix_prob=1.0)
    cfg = dataclasses.replace(CFG, augment=augment)
    assert furthest(trained(fitter(SIFT, cfg)), trained(fitter(SIFT, cfg))) == 0.0


def test_other_methods_are_not_asked_for_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    f = fitter(Lora())
    monkeypatch.setattr(f, "part", lambda *_: pytest.fail("a pass was made"))
    from peftbench.train.start import prepare

    prepare(f)
    assert isinstance(f.model.delta, Delta) and f.report.samples == 0
