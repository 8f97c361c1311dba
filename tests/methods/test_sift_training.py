"""SIFT, what a step does: exact against dense AdamW under a mask, state, memory, restoration."""

import weakref

import pytest
import tiny
import torch
import torch.nn.functional as F

import peftbench
from peftbench.edits import Entries
from peftbench.interop.merge import merge
from peftbench.methods import Passes
from peftbench.methods.full import Full
from peftbench.methods.sift import Sift
from peftbench.train import Trainer
from peftbench.train.artefact import load_adapter, save_adapter
from peftbench.train.optim import make_optimizer

USE = "roberta"
STEPS = 6


def adapted(method, dtype=torch.float32):
    network = tiny.fresh(tiny.USES[USE][0])
    network.model.to(dtype)
    model = peftbench.attach(method, network, tiny.CLASSES).train()
    model.prepare(Passes(lambda *_: batch_loss(model, 0).backward()))
    return model


def batch_loss(model, seed, rows=slice(None), share=1.0):
    given = {k: v[rows] for k, v in tiny.inputs(USE, seed=seed).items()}
    target = tiny.labels(USE, tiny.inputs(USE, seed=seed), seed=seed)[rows]
    return share * F.cross_entropy(model(given).logits, target)


def optimizer_of(model, **settings):
    cfg = Trainer(lr=1e-2, **settings)
    return make_optimizer(model.method.param_groups(model.delta, model.heads), cfg)


def trained(model, optimizer, steps=STEPS, parts=1):
    for seed in range(steps):
        optimizer.zero_grad()
        for rows in torch.arange(tiny.BATCH).tensor_split(parts):
            batch_loss(model, seed, rows, 1 / parts).backward()
        optimizer.step()
        model.delta.sync()
    return model


def weights(model):
    return {n: p.detach().clone() for n, p in model.base.named_parameters()}


def masks(model):
    """Return the chosen entries of each tensor as booleans, by the tensor's name."""
    names = {id(p): n for n, p in model.base.named_parameters()}
    found = {}
    for edit in model.delta:
        mask = torch.zeros(edit.tensor.numel(), dtype=torch.bool)
        mask[edit.index] = True
        found[names[id(edit.tensor)]] = mask.view_as(edit.tensor)
    return found


def dense_adamw(mask, decays, target, dtype=torch.float32, steps=STEPS):
    """Train whole tensors with gradients under a mask, and decay under it alone.

    Decay pulls a matrix towards ``target``: zero, or its first values.
    """
    model = peftbench.attach(Full(), tiny.fresh(tiny.USES[USE][0]), tiny.CLASSES).train()
    model.release()
    model.base.to(dtype)
    named = dict(model.base.named_parameters())
    heads = list(model.heads.parameters())
    for name in mask:
        named[name].requires_grad_(True)
    first = {n: named[n].detach().clone() for n in mask}
    groups = [{"params": [named[n] for n in mask], "weight_decay": 0.0}]
    groups += [{"params": [p], "weight_decay": 0.1 * (p.dim() > 1)} for p in heads]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for seed in range(steps):
        optimizer.zero_grad()
        batch_loss(model, seed).backward()
        for name, m in mask.items():
            named[name].grad.mul_(m)
            if decays and named[name].dim() > 1:
                with torch.no_grad():
                    if target == "to_zero":
                        named[name].copy_(
                            torch.where(m, named[name] * (1 - 1e-2 * 0.1), named[name])
                        )
                    else:
                        pulled = named[name] - 1e-2 * 0.1 * (named[name] - first[name])
                        named[name].copy_(torch.where(m, pulled, named[name]))
        optimizer.step()
    return {n: p.detach() for n, p in named.items()}, [p.detach() for p in heads]


@pytest.mark.parametrize("decay", ["none", "to_zero"])
def test_it_is_dense_adamw_under_a_mask_bit_for_bit(decay):
    model = adapted(Sift(rate=0.05, decay=decay))
    trained(model, optimizer_of(model, weight_decay=0.1))
    wanted, heads = dense_adamw(masks(model), decay != "none", decay)
    assert all(torch.equal(wanted[n], p) for n, p in weights(model).items())
    assert all(torch.equal(a, b) for a, b in zip(heads, model.heads.parameters(), strict=True))


def test_decay_towards_the_pretrained_values():
    model = adapted(Sift(rate=0.05, decay="to_pretrained"), torch.float64)
    model.heads.double()
    assert all(not e.values.any() and e.values.dtype == torch.float64 for e in model.delta)
    pulled = optimizer_of(model, weight_decay=0.1)
    strengths = {g["weight_decay"] for g in pulled.param_groups}
    assert strengths == {0.0, 0.1}
    start = weights(model)
    optimizer = torch.optim.AdamW([e.values for e in model.delta], lr=1e-2, weight_decay=50.0)
    trained(model, optimizer, 3)
    with torch.no_grad():
        for p in model.heads.parameters():
            p.zero_()  # no gradient reaches the network: decay alone is left
    moments = optimizer.state
    for state in moments.values():
        state["exp_avg"].zero_()
    moved = sum(float((p - start[n]).abs().sum()) for n, p in weights(model).items())
    trained(model, optimizer, 1)
    left = sum(float((p - start[n]).abs().sum()) for n, p in weights(model).items())
    assert left == pytest.approx(0.5 * moved, rel=1e-9)


def test_a_rate_of_one_is_full_training_of_the_tensors():
    model = adapted(Sift(rate=1.0))
    mask = masks(model)
    assert all(m.all() for m in mask.values())
    trained(model, optimizer_of(model, weight_decay=0.1))
    wanted, _ = dense_adamw(mask, False, "none")
    assert all(torch.equal(wanted[n], p) for n, p in weights(model).items())


def test_nothing_but_the_entries_changes():
    model = adapted(Sift(rate=0.05))
    before, mask = weights(model), masks(model)
    trained(model, optimizer_of(model))
    for name, after in weights(model).items():
        changed = after != before[name]
        if name not in mask:
            assert not changed.any()
            continue
        assert not (changed & ~mask[name]).any()
        if not name.endswith("key.bias"):  # whose gradient is rounding
            assert torch.equal(changed, mask[name])
    model.release()
    assert all(torch.equal(p, before[n]) for n, p in weights(model).items())
    assert tiny.traces(model.base) == []


def test_the_optimizer_keeps_two_numbers_for_an_entry():
    model = adapted(Sift(rate=0.05))
    optimizer = optimizer_of(model)
    trained(model, optimizer, 2)
    moments = sum(s[k].numel() for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    k = sum(len(e.index) for e in model.delta)
    head = sum(p.numel() for p in model.heads.parameters())
    assert moments == 2 * k + 2 * head
    assert k == 2 * 4 * (52 + 2)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_is_one_batch(parts):
    found = []
    for cut in (1, parts):
        model = adapted(Sift(rate=0.05), torch.float64)
        model.heads.double()
        trained(model, torch.optim.SGD([e.values for e in model.delta], lr=0.5), parts=cut)
        found.append(weights(model))
    start = {n: p.double() for n, p in tiny.fresh(tiny.USES[USE][0]).model.named_parameters()}
    assert max(float((found[0][n] - p).abs().max()) for n, p in start.items()) > 1e-4
    assert max(float((found[0][n] - found[1][n]).abs().max()) for n in found[0]) < 1e-12


@pytest.mark.parametrize("preparing", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_dense_gradient_is_alive_at_a_time(monkeypatch, preparing, checkpointing):
    alive, seen = [], []
    gather = Entries._gather

    def watched(self, tensor):
        seen.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(tensor.grad))
        gather(self, tensor)

    model = peftbench.attach(Sift(), tiny.fresh(tiny.USES[USE][0]), tiny.CLASSES).train()
    model.checkpointing(checkpointing)
    if preparing:
        monkeypatch.setattr(Entries, "_gather", watched)
        model.release()
        model.delta.attach()
        model.checkpointing(checkpointing)
    model.prepare(Passes(lambda *_: batch_loss(model, 0).backward()))
    if not preparing:
        monkeypatch.setattr(Entries, "_gather", watched)
        model.release()
        model.delta.attach()
        model.checkpointing(checkpointing)
        batch_loss(model, 0).backward()
        assert all(e.values.grad is not None for e in model.delta)
    assert seen == [0] * 16  # the gradient before was gone when the next one came
    assert all(ref() is None for ref in alive)
    assert all(e.tensor.grad is None for e in model.delta)


def test_checkpointing_chooses_and_trains_the_same():
    found = []
    for on in (False, True):
        network = tiny.fresh(tiny.USES[USE][0])
        model = peftbench.attach(Sift(rate=0.05), network, tiny.CLASSES).train()
        model.checkpointing(on)
        model.prepare(Passes(lambda *_, m=model: batch_loss(m, 0).backward()))
        trained(model, optimizer_of(model))
        found.append(model.tensors())
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


@pytest.mark.parametrize("decay", ["none", "to_pretrained"])
def test_stored_loaded_merged_and_taken_out(tmp_path, decay):
    given = tiny.inputs(USE, seed=9)
    sha = tiny.backbone(tiny.USES[USE][0]).sha256
    model = adapted(Sift(decay=decay))
    trained(model, optimizer_of(model)).eval()
    with torch.no_grad():
        wanted = model(given).logits
    size = save_adapter(tmp_path / "adapter", model, sha, ["a", "b", "c"], "random")
    k = sum(len(e.index) for e in model.delta)
    head = 33 * 3
    assert size < 12 * k + 4 * head + 8_000  # values and indices, and words about them
    network = tiny.fresh(tiny.USES[USE][0])
    loaded = load_adapter(tmp_path, network)
    with torch.no_grad():
        assert torch.equal(loaded(given).logits, wanted)
        loaded.load_tensors(model.tensors())  # once more, over itself
        assert torch.equal(loaded(given).logits, wanted)
    plain = merge(loaded)
    assert plain.difference.max_abs == 0.0
    assert tiny.weights_hash(network.model) == sha == tiny.weights_hash(model.release().model)


def test_loaded_over_another_choice_the_base_is_still_restored():
    first, second = adapted(Sift(rate=0.05)), adapted(Sift(rate=0.05, selection="random"))
    before = tiny.weights_hash(tiny.backbone(tiny.USES[USE][0]).model)
    trained(first, optimizer_of(first))
    trained(second, optimizer_of(second))
    second.load_tensors(first.tensors())
    assert all(torch.equal(p, weights(second)[n]) for n, p in weights(first).items())
    assert tiny.weights_hash(second.release().model) == before


@pytest.mark.parametrize("value_dtype", ["fp32", "base"])
def test_small_updates_of_a_16_bit_base_are_kept_in_full_values(value_dtype):
    model = adapted(Sift(value_dtype=value_dtype), torch.bfloat16)
    before = weights(model)
    assert {e.values.dtype for e in model.delta} == {
        torch.float32 if value_dtype == "fp32" else torch.bfloat16
    }
    edit = next(iter(model.delta))
    start = edit.values.detach().clone()
    for _ in range(64):
        with torch.no_grad():
            edit.values.add_(start * 2**-11)  # a quarter of the distance to the next number
        model.delta.sync()
    kept = bool((edit.values.detach().float() != start.float()).all())
    assert kept == (value_dtype == "fp32")
    model.release()
    assert all(torch.equal(p, before[n]) for n, p in weights(model).items())
