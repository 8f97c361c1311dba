"""The training loop: a step means the same however it is computed; nothing goes on wrongly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from peftbench.backbones.load_timm import TimmViT
from peftbench.edits import Edit
from peftbench.edits.linear import AddedBias
from peftbench.errors import ConfigError, NoGradientError, NonFiniteError
from peftbench.methods.base import Method
from peftbench.methods.gist import Gist
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.tasks.base import Classification
from peftbench.tasks.batch import Split
from peftbench.train import Adapted, Fitter, Hooks, Interrupted, Trainer
from peftbench.train import state as states
from peftbench.train.augment import Augment
from peftbench.train.engine import make_accelerator
from peftbench.train.flops import count_sample

ARCH = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
CFG = Trainer(epochs=2, batch_size=8, eval_batch_size=16, lr=1e-2, save_every_s=1e9, log_every=1)


def task(count: int = 20) -> Classification:
    """Images whose class shows in their brightness, so that something can be learned."""
    g = torch.Generator().manual_seed(3)
    splits, at = {}, 0
    for name in ("train", "val", "test"):
        labels = torch.randint(0, 3, (count,), generator=g)
        noise = torch.randint(0, 60, (count, 3, 32, 32), generator=g)
        images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
        ids = torch.arange(at, at + count)
        splits[name] = Split(name, {"image": images}, labels, ids)
        at += count
    return Classification("brightness", ("dark", "middle", "light"), splits, {"task": "brightness"})


def fitter(
    method: Method | None = None, cfg: Trainer = CFG, folder: Path | None = None, **hooks: object
) -> Fitter:
    """A fitter over a fresh tiny network."""
    backbone = TimmViT("vit_tiny_patch16_224", 32, init="random", arch=ARCH).load()
    model = Adapted(backbone, method or Gist(), 3)
    data = task()
    made = make_accelerator(cfg)
    return Fitter(
        model,
        data,
        data.split("train"),
        backbone.preprocess,
        cfg,
        0,
        made,
        Hooks(**hooks),  # type: ignore[arg-type]
        folder,
    )


def trained(f: Fitter) -> dict[str, torch.Tensor]:
    f.run()
    return {name: tensor.clone() for name, tensor in f.model.tensors().items()}


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[k] - b[k]).abs().max().item() for k in a)


def test_training_learns() -> None:
    losses: list[float] = []
    cfg = dataclasses.replace(CFG, epochs=30)
    f = fitter(Lora(roles=("all",)), cfg, log=lambda *a: losses.append(a[3]["loss"]))
    f.run()
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert f.evaluate(f.task.split("train")).metrics["accuracy"] > 0.9


def test_every_loss_term_is_logged_and_they_sum() -> None:
    logged: list[dict] = []
    fitter(log=lambda *a: logged.append(dict(a[3]))).run()
    for terms in logged:
        parts = [terms[n] for n in ("task", "gist_ce", "kl_cls_gist", "kl_gist_cls")]
        assert terms["loss"] == pytest.approx(sum(parts))


def test_same_seed_repeats_bit_for_bit() -> None:
    assert furthest(trained(fitter()), trained(fitter())) == 0.0


def test_accumulation_does_not_change_the_step() -> None:
    """Masks of the Gist token's dropout included: they belong to samples, not to parts."""
    whole = trained(fitter())
    parts = trained(fitter(cfg=dataclasses.replace(CFG, accumulate=3)))
    assert furthest(whole, parts) < 1e-6


@pytest.mark.parametrize("method", [Gist(), Lora(dropout=0.2), Linear()])
@pytest.mark.parametrize("stop_after", [1, 3, 4, 5])
def test_resume_is_bit_identical(method: Method, stop_after: int, tmp_path: Path) -> None:
    reference = trained(fitter(method))
    steps = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == stop_after

    first = fitter(method, folder=tmp_path, should_stop=stop)
    with pytest.raises(Interrupted) as stopped:
        first.run()
    assert stopped.value.code == 143
    state, problems = states.load(tmp_path)
    assert state is not None and state.step == stop_after and not problems
    second = fitter(method)
    second.resume(state)
    assert furthest(trained(second), reference) == 0.0
    assert second.report.steps == 6


@pytest.mark.parametrize("stop_after", [2, 3, 6])
def test_an_epoch_that_ends_at_a_stop_is_dealt_with_once(stop_after: int, tmp_path: Path) -> None:
    ends: list[tuple[int, int]] = []
    steps: list[int] = []

    def epoch_end(f: Fitter, epoch: int, step: int) -> None:
        ends.append((epoch, step))

    def stop() -> bool:
        steps.append(1)
        return len(steps) == stop_after

    with pytest.raises(Interrupted):
        fitter(folder=tmp_path, should_stop=stop, epoch_end=epoch_end).run()
    again = fitter(folder=tmp_path, epoch_end=epoch_end)
    saved, _ = states.load(tmp_path)
    assert saved is not None and saved.step == stop_after
    again.resume(saved)
    again.run()
    assert ends == [(0, 3), (1, 6)]


def test_a_torn_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    f = fitter(folder=tmp_path)
    f.save()
    f.step = 1
    f.save()
    last = tmp_path / states.LAST
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    state, problems = states.load(tmp_path)
    assert state is not None and state.step == 0
    assert len(problems) == 1 and str(last) in problems[0]


def test_a_state_with_nan_never_replaces_a_good_one(tmp_path: Path) -> None:
    f = fitter(folder=tmp_path)
    f.save()
    good = (tmp_path / states.LAST).read_bytes()
    with torch.no_grad():
        next(iter(f.params.values())).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="not finite"):
        f.save()
    assert (tmp_path / states.LAST).read_bytes() == good


class _Explodes(Gist):
    """GIST whose loss is not a number from the third step on."""

    calls: list[int] = []  # noqa: RUF012

    def losses(self, output, criterion):  # type: ignore[no-untyped-def]
        terms = super().losses(output, criterion)
        self.calls.append(1)
        if len(self.calls) > 3:  # the first call counts FLOPs
            terms["task"] = terms["task"] * float("nan")
        return terms


def test_a_non_finite_loss_stops_before_the_update(tmp_path: Path) -> None:
    _Explodes.calls.clear()
    f = fitter(_Explodes(), dataclasses.replace(CFG, save_every_s=0.0), tmp_path)
    with pytest.raises(NonFiniteError) as error:
        f.run()
    ids = sorted(f.split.ids[f.batch_index(0, 2)].tolist())
    text = str(error.value)
    assert "step 2" in text and str(ids[0]) in text
    assert all(torch.isfinite(p).all() for p in f.params.values())
    state, _ = states.load(tmp_path)
    assert state is not None and state.step == 2


@dataclasses.dataclass(frozen=True)
class _Unreachable(Method):
    """Trains a tensor at a layer that the forward pass never calls."""

    def edits(self, anatomy, generator) -> list[Edit]:  # type: ignore[no-untyped-def]
        from peftbench.edits import LinearSite

        spare = nn.Linear(4, 4)
        return [AddedBias("spare", [LinearSite("spare", "linear", spare, "spare", (0, 4))])]


def test_a_tensor_without_gradient_stops_the_run_by_name() -> None:
    with pytest.raises(NoGradientError, match=r"delta\.edits\.spare\.bias"):
        fitter(_Unreachable()).run()


def test_max_steps_and_drop_last() -> None:
    assert fitter().total_steps == 6
    assert fitter(cfg=dataclasses.replace(CFG, drop_last=True)).total_steps == 4
    f = fitter(cfg=dataclasses.replace(CFG, max_steps=3))
    assert f.run().steps == 3
    with pytest.raises(ConfigError, match="batch_size"):
        fitter(cfg=dataclasses.replace(CFG, batch_size=64, drop_last=True))


def test_order_is_a_pure_function_of_seed_and_epoch() -> None:
    f, g = fitter(), fitter()
    g.step = 17
    assert torch.equal(f.batch_index(1, 2), g.batch_index(1, 2))
    epoch = torch.cat([f.batch_index(0, i) for i in range(f.steps_per_epoch)])
    assert sorted(epoch.tolist()) == list(range(20))
    assert not torch.equal(f.batch_index(0, 0), f.batch_index(1, 0))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_evaluation_does_not_depend_on_the_batch_size(size: int) -> None:
    one = fitter()
    other = fitter(cfg=dataclasses.replace(CFG, eval_batch_size=size))
    a, b = (f.evaluate(f.task.split("val")) for f in (one, other))
    assert torch.equal(a.scores_NC.argmax(1), b.scores_NC.argmax(1))
    assert (a.scores_NC - b.scores_NC).abs().max() < 1e-5


def test_cached_features_give_the_same_training() -> None:
    cached = fitter(Linear())
    plain = fitter(Linear(), dataclasses.replace(CFG, cache_features=False))
    assert cached.cache is not None and plain.cache is None
    assert furthest(trained(cached), trained(plain)) < 1e-6


def test_features_are_not_cached_under_edits_or_randomness() -> None:
    assert fitter(Linear()).cache is not None
    assert fitter(Gist()).cache is None
    dropping = fitter(Linear(), dataclasses.replace(CFG, drop_path=0.1))
    assert dropping.cache is None and dropping.model.stochastic()
    flipping = dataclasses.replace(CFG, augment=Augment(flip=0.5))
    assert fitter(Linear(), flipping).cache is None


def test_checkpointing_and_bf16_train() -> None:
    reference = trained(fitter())
    again = trained(fitter(cfg=dataclasses.replace(CFG, checkpointing=True)))
    assert furthest(reference, again) < 1e-6
    half = fitter(cfg=dataclasses.replace(CFG, precision="bf16"))
    half.run()
    assert all(p.dtype == torch.float32 for p in half.params.values())
    fitter()  # back to fp32 in the same process


def test_many_compiled_fits_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sweep: torch refuses more than a few graphs of one piece of code."""
    cfg = dataclasses.replace(CFG, compile=True, max_steps=1)
    whole = nn.Module.compile
    monkeypatch.setattr(Adapted, "compile", lambda m, **o: whole(m, backend="eager", **o))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for rank in range(1, 6):
        fitter(Lora(rank=rank), cfg).run()


def test_fp16_and_a_missing_device_are_refused_with_the_reason() -> None:
    if torch.cuda.is_available():
        return
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        fitter(cfg=dataclasses.replace(CFG, precision="fp16"))
    with pytest.raises(ConfigError, match="no CUDA device"):
        fitter(cfg=dataclasses.replace(CFG, device="cuda"))
    with pytest.raises(ConfigError, match="device"):
        fitter(cfg=dataclasses.replace(CFG, device="tpu"))


def test_flops_of_a_sample_are_counted_without_a_trace() -> None:
    f = fitter()
    before = {n: p.detach().clone() for n, p in f.params.items()}
    flops, once = count_sample(f)
    tokens, width = 18, 32
    block = 12 * width * width * tokens * 2
    assert 2 * block * 2 < flops < 4 * block * 2 and once == 0
    assert all(torch.equal(before[n], p) and p.grad is None for n, p in f.params.items())


def test_flops_of_a_fit_follow_its_samples() -> None:
    """Two epochs of 20 samples in batches of 8, 8 and 4; features count once for each sample."""
    report = fitter().run()
    assert report.flops(20) == 40 * report.sample_flops > 0
    cached = fitter(Linear()).run()
    plain = fitter(Linear(), dataclasses.replace(CFG, cache_features=False)).run()
    assert cached.flops(20) == 40 * cached.sample_flops + 20 * cached.feature_flops
    assert cached.sample_flops + cached.feature_flops == plain.sample_flops
    assert cached.flops(20) < 0.6 * plain.flops(20)


def test_peak_memory_belongs_to_the_run_and_not_to_the_process() -> None:
    from peftbench.train.engine import RESET, peak_memory, reset_peak_memory

    cpu = torch.device("cpu")
    large = torch.ones(100_000_000)
    high = peak_memory(cpu)
    del large
    reset_peak_memory(cpu)
    if RESET.exists():
        assert peak_memory(cpu) < high - 200_000_000
    assert peak_memory(cpu) > 50_000_000


def test_numbers_that_are_none_and_a_warm_up_without_end_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.lr: nan"):
        Trainer(lr=float("nan"))
    with pytest.raises(ConfigError, match=r"trainer\.warmup_epochs: 1 of 1"):
        Trainer(epochs=1, schedule_per="epoch")
