"""Every method on every family it claims: start, gradients, counts, restoration, storage, seeds."""

import re

import pytest
import tiny
import torch
from pairs import IDS, REFUSED, REFUSED_IDS, WORKS, probing, refusal

import peftbench
from peftbench.errors import IncompatibleError
from peftbench.train.artefact import load_adapter, save_adapter

HEADS = {"captioner": {"heads.connector.linear.weight", "heads.connector.linear.bias"}}
every_pair = pytest.mark.parametrize(("name", "use"), WORKS, ids=IDS)


def reference(use, given):
    """Return what the untouched network and the head of seed 0 compute."""
    with tiny.adapted(tiny.method("linear" if tiny.USES[use][1] else "lora"), use) as model:
        model.delta.detach()
        with torch.no_grad():
            return model.eval()(given).logits


@pytest.mark.parametrize(("name", "use"), REFUSED, ids=REFUSED_IDS)
def test_refused_pairs_say_why(name, use):
    made = tiny.method(name)
    reason = refusal(made, use)
    with pytest.raises(IncompatibleError) as caught, tiny.adapted(made, use):
        pass
    other = "would not train" if use == "captioner" else "trains nothing but a classifier head"
    assert (reason or other) in str(caught.value)
    assert reason is None or len(reason.split()) >= 4


def test_every_method_works_somewhere():
    assert {m for m, _ in WORKS} == set(tiny.METHODS)
    assert {u for _, u in WORKS} == set(tiny.USES)
    assert len(tiny.METHODS) >= 15


@every_pair
def test_start_is_the_frozen_network_where_promised(name, use):
    made, given = tiny.method(name), tiny.inputs(use)
    before = reference(use, given)
    with tiny.adapted(made, use) as model:
        with torch.no_grad():
            after = model.eval()(given).logits
        if model.delta.identity:
            assert torch.equal(before, after)
        else:
            assert not torch.equal(before, after)  # Compacter starts within 1e-7 of the network
        assert after.shape == before.shape


# a shift of all keys adds one number to all scores of a query, which the softmax cancels
CANCELLED = re.compile(r"/(cross_)?k(ey)?(/bias\.(values?|bias)|\.beta)$")


# at its own temperature, a tiny network's prompts are mixed almost evenly whatever the text
SHARP = {"attempt": {"temperature": 1.0}}


@every_pair
def test_every_tensor_has_an_effect(name, use):
    given = tiny.inputs(use)
    silent = []
    with tiny.adapted(tiny.method(name, **SHARP.get(name, {})), use) as model, torch.no_grad():
        tiny.perturb(model)
        before = model.eval()(given).logits
        for tensor_name, p in model.trainable().items():
            kept = p.clone()
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
            model.delta.sync()
            if torch.allclose(before, model(given).logits, atol=1e-6):
                silent.append(tensor_name)
            p.copy_(kept)
            model.delta.sync()
        assert torch.equal(before, model(given).logits)
    assert [n for n in silent if not CANCELLED.search(n)] == []


@every_pair
def test_gradients_reach_its_own_tensors_and_the_head_only(name, use):
    given = tiny.inputs(use)
    with tiny.adapted(tiny.method(name), use) as model:
        model.train()
        tiny.loss(model, model(given), tiny.labels(use, given)).backward()
        own = model.trainable()
        missing = [n for n, p in own.items() if p.grad is None]
        assert not missing
        assert all(torch.isfinite(p.grad).all() for p in own.values())
        mine = {id(p) for p in own.values()}
        read = {id(dense) for edit in model.delta for _, dense in edit.gathered()}
        strangers = {n: p for n, p in model.base.named_parameters() if id(p) not in mine}
        touched = [
            n
            for n, p in strangers.items()
            if p.grad is not None or (p.requires_grad and id(p) not in read)
        ]
        assert not touched
        if not probing(model.method):
            assert any(p.grad.abs().max() > 0 for n, p in own.items() if n.startswith("delta"))
        assert {n for n in own if n.startswith("heads.")} == HEADS.get(
            use, {"heads.main.weight", "heads.main.bias"} if tiny.USES[use][1] else set()
        )


@every_pair
def test_base_is_bit_identical_after_training_and_detach(name, use):
    network = tiny.fresh(tiny.USES[use][0])
    before, keys = tiny.weights_hash(network.model), list(network.model.state_dict())
    with tiny.adapted(tiny.method(name), use, base=network) as model:
        start = {n: p.detach().clone() for n, p in model.trainable().items()}
        tiny.train(model, use)
        moved = [n for n, p in model.trainable().items() if not torch.equal(p, start[n])]
        assert moved == list(start)
        frozen = {n for n, p in network.model.named_parameters() if not p.requires_grad}
        assert list(network.model.state_dict()) == keys
        given_back = model.release()
        assert given_back is network
    assert frozen or name == "full"
    assert tiny.weights_hash(network.model) == before
    assert list(network.model.state_dict()) == keys
    assert tiny.traces(network.model) == []


@every_pair
def test_stored_and_loaded_into_a_fresh_base(name, use, tmp_path):
    made, given = tiny.staged(tiny.method(name), use), tiny.inputs(use)
    backbone_name, classes = tiny.USES[use]
    sha = tiny.backbone(backbone_name).sha256
    names = [f"class {i}" for i in range(classes)] if classes else None
    with tiny.adapted(made, use, seed=3) as model:
        tiny.train(model, use, steps=2)
        with torch.no_grad():
            before = model.eval()(given)
            before_scores = made.scores(before)
        size = save_adapter(tmp_path / "adapter", model, sha, names, "random")
        stored = sum(t.numel() for t in model.tensors().values())
    assert size == sum(p.stat().st_size for p in (tmp_path / "adapter").iterdir())
    assert 4 * stored <= size < 4 * stored + 64_000
    loaded = load_adapter(tmp_path, tiny.fresh(backbone_name))
    assert loaded.method == made
    with torch.no_grad():
        after = loaded(given)
        assert torch.equal(before.logits, after.logits)
        assert torch.equal(before_scores, loaded.method.scores(after))
    again = peftbench.load(tmp_path / "adapter")  # the base from the settings that are stored
    with torch.no_grad():
        assert torch.equal(before.logits, again(given).logits)


@every_pair
def test_one_seed_repeats_and_two_differ(name, use):
    made = tiny.staged(tiny.method(name), use)
    stream = torch.Generator().manual_seed(0)
    state = stream.get_state()
    anatomy = tiny.backbone(tiny.USES[use][0]).anatomy
    made.edits(anatomy if tiny.USES[use][1] is None else anatomy.for_features(), stream)
    draws = not torch.equal(state, stream.get_state())
    found = []
    for seed in (0, 0, 1):
        with tiny.adapted(made, use, seed=seed, prepared=False) as model:
            found.append({n: t.clone() for n, t in model.tensors().items()})
    first, repeated, other = found
    assert first.keys() == repeated.keys() == other.keys()
    assert all(torch.equal(first[n], repeated[n]) for n in first)
    for part, random in (
        ("delta.", draws),
        ("heads.", use in HEADS or tiny.USES[use][1] is not None),
    ):
        names = [n for n in first if n.startswith(part)]
        assert any(not torch.equal(first[n], other[n]) for n in names) == random
