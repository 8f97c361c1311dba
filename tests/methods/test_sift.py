"""SIFT, what is chosen (arXiv 2312.11875): counts, the largest gradients, options, agreement."""

import copy

import pytest
import tiny
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaModel

import peftbench
from peftbench.analysis.concentration import coverage
from peftbench.backbones.backbone import Backbone, find_anatomy
from peftbench.edits import Entries
from peftbench.errors import ConfigError, NoGradientError, NonFiniteError
from peftbench.methods import Passes
from peftbench.methods.combo import Combo
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.methods.sift import Sift, entries_of, groups, largest

USE = "roberta"


def model_of(method, seed=0):
    """Attach a method to a fresh network with a classifier head, nothing chosen yet."""
    return peftbench.attach(method, tiny.fresh(tiny.USES[USE][0]), tiny.CLASSES, seed)


def batch_loss(model, seed=0, rows=None):
    given = tiny.inputs(USE, seed=seed)
    target = tiny.labels(USE, given, seed=seed)
    if rows is not None:
        given, target = {k: v[rows] for k, v in given.items()}, target[rows]
    return tiny.loss(model, model(given), target) * (len(target) / tiny.BATCH)


def dense_gradients(method, seeds=(0,)):
    """Return gradients of the chosen tensors by edit, one for each batch, without any hook."""
    model = model_of(method).train()
    tensors = {e.name: e.tensor for e in model.delta if isinstance(e, Entries)}
    model.release()
    found = []
    for seed in seeds:
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        made = torch.autograd.grad(batch_loss(model, seed), list(tensors.values()))
        found.append({n: g.flatten() for n, g in zip(tensors, made, strict=True)})
    return found


def chosen(method, parts=1, scale=1.0, seeds=(0,)):
    model = model_of(method).train()

    def run(batch, part):
        rows = torch.arange(tiny.BATCH).tensor_split(parts)[part]
        (scale * batch_loss(model, seeds[batch], rows)).backward()

    model.prepare(Passes(run, parts))
    assert all(p.grad is None for p in [*model.parameters()])
    return {e.name: e.index.clone() for e in model.delta}


def brute(gradient, rate):
    k = entries_of(rate, len(gradient))
    return gradient.abs().argsort(descending=True)[:k].sort().values


def same(first, second):
    """Whether choices agree; a key bias has no gradient but rounding, which ranks by chance."""
    assert first.keys() == second.keys()
    names = [n for n in first if not n.endswith("/k/bias")]
    return all(torch.equal(first[n], second[n]) for n in names)


@pytest.mark.parametrize("n", [1, 9, 125, 1024, 1025])
@pytest.mark.parametrize("rate", [1e-6, 0.008, 0.05, 0.5, 1.0])
def test_the_count_is_the_floor_and_one_more(n, rate):
    k = min(int(rate * n) + 1, n)
    edit = nn.Linear(n, 1, bias=False)
    index = largest(edit.weight.detach().flatten().abs(), entries_of(rate, n), [(0, n)])
    assert len(index) == k == len(index.unique())
    assert int(index.min()) >= 0 and int(index.max()) < n
    assert n != 1 or k == 1
    assert rate != 1.0 or k == n


def test_every_tensor_of_attention_has_its_share():
    found = chosen(Sift(rate=0.1))
    assert len(found) == 2 * 4 * 2
    for name, index in found.items():
        n = 32 if name.endswith("bias") else 32 * 32
        assert len(index) == int(0.1 * n) + 1 == len(index.unique())
        assert int(index.min()) >= 0 and int(index.max()) < n


@pytest.mark.parametrize("rate", [0.008, 0.3, 1.0])
def test_it_chooses_the_largest_gradients(rate):
    (wanted,) = dense_gradients(Sift(rate=rate))
    assert same(chosen(Sift(rate=rate)), {n: brute(g, rate) for n, g in wanted.items()})


@pytest.mark.parametrize("scale", [0.25, 1024.0])
def test_a_factor_of_the_loss_says_nothing_and_another_task_does(scale):
    method = Sift(rate=0.05)
    assert same(chosen(method), chosen(method, scale=scale))
    assert not same(chosen(method), chosen(method, seeds=(7,)))


@pytest.mark.parametrize("score", ["abs_sum", "sum_abs", "fisher"])
@pytest.mark.parametrize("parts", [1, 3])
def test_several_batches_are_scored_as_written(score, parts):
    seeds = (0, 3, 4)
    method = Sift(rate=0.05, batches=3, score=score)
    found = dense_gradients(method, seeds)
    how = {
        "abs_sum": lambda g: sum(g).abs(),
        "sum_abs": lambda g: sum(x.abs() for x in g),
        "fisher": lambda g: sum(x.square() for x in g),
    }[score]
    wanted = {n: brute(how([f[n] for f in found]), 0.05) for n in found[0]}
    assert same(chosen(method, parts, seeds=seeds), wanted)


def test_parts_of_a_batch_choose_as_the_batch_does():
    assert same(chosen(Sift(rate=0.05)), chosen(Sift(rate=0.05), parts=4))


def test_sums_over_passes_take_no_more_room_than_training_does():
    edits = list(model_of(Sift(rate=0.1)).delta)
    found = list(groups(edits))
    assert [e for group in found for e in group] == edits
    room = 3 * sum(len(e.index) for e in edits)
    assert 1 < len(found) < len(edits)
    assert all(sum(e.tensor.numel() for e in g) <= room or len(g) == 1 for g in found)


def test_a_second_process_takes_over_what_the_first_has_chosen():
    model = model_of(Sift()).train()
    others = []

    def agree(index):
        others.append(index)
        return torch.arange(len(index))

    model.prepare(Passes(lambda *_: batch_loss(model).backward(), agree=agree))
    assert len(others) == 16
    assert all(torch.equal(e.index, torch.arange(len(e.index))) for e in model.delta)


def test_magnitude_and_chance_need_no_data():
    by_size = model_of(Sift(selection="magnitude", rate=0.1))
    for edit in by_size.delta:
        flat = edit.tensor.detach().flatten()
        assert torch.equal(edit.index, brute(flat, 0.1))
        assert torch.equal(edit.values.detach(), flat[edit.index])
    first, again, other = (
        {e.name: e.index for e in model_of(Sift(selection="random", rate=0.1), seed).delta}
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(len(i.unique()) == len(i) for i in first.values())
    weights = [n for n in first if n.endswith("weight")]
    assert not any(torch.equal(first[n], other[n]) for n in weights)
    by_size.prepare(Passes(lambda *_: pytest.fail("no data is looked at")))


def test_the_chosen_share_of_the_norm_is_its_coverage():
    """Of random entries the squared share is k / n in the mean."""
    rate = 0.05
    (gradients,) = dense_gradients(Sift(rate=rate))
    found = chosen(Sift(rate=rate))
    chance = [
        {e.name: e.index for e in model_of(Sift(selection="random", rate=rate), s).delta}
        for s in range(60)
    ]
    squares = []
    for name, g in gradients.items():
        if name.endswith("weight"):
            share = g[found[name]].norm() / g.norm()
            exact = coverage(g, [len(found[name]) / len(g)])[0]
            assert float(share) == pytest.approx(float(exact), abs=1e-5)
            squares += [float(g[c[name]].square().sum() / g.square().sum()) for c in chance]
            assert float(exact) ** 2 > 2 * rate
    assert sum(squares) / len(squares) == pytest.approx(52 / 1024, rel=0.1)


def test_roles_of_a_fused_layer_choose_inside_their_rows():
    for selection in ("gradient", "magnitude", "random"):
        method = Sift(roles=("q", "v"), rate=0.2, selection=selection)
        with tiny.adapted(method, "vit") as model:
            for edit in model.delta:
                width = 32 if edit.name.endswith("weight") else 1
                k = int(0.2 * 64 * width) + 1
                assert len(edit.index) == k == len(edit.index.unique())
                flat = edit.tensor.detach().flatten().abs().clone()
                flat[32 * width : 64 * width] = -1.0  # the keys' rows
                assert (flat[edit.index] >= 0).all()
                if selection == "magnitude" and width > 1:  # the biases are all zero
                    assert torch.equal(edit.index, flat.topk(k).indices.sort().values)
                    assert (edit.index < 32 * width).any() and (edit.index >= 64 * width).any()


def test_biases_can_be_left_out():
    names = [e.name for e in model_of(Sift(biases=False)).delta]
    assert len(names) == 8 and all(n.endswith("/weight") for n in names)


@pytest.mark.parametrize(
    ("use", "groups_of", "wanted"),
    [
        ("roberta", ("norms",), 5 * 64),
        ("roberta", ("embeddings",), (64 + 64 + 2) * 32),
        ("vit", ("embeddings",), 32 + 17 * 32 + 193 * 32),
        ("llama", ("head", "norms"), 64 * 32 + 5 * 32),
    ],
)
def test_exceptions_train_whole(use, groups_of, wanted):
    with tiny.adapted(Sift(dense=groups_of), use) as model:
        whole = [e for e in model.delta if not isinstance(e, Entries)]
        assert sum(e.value.numel() for e in whole) == wanted
        tiny.train(model, use)


def roberta_large():
    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    return RobertaModel(config, add_pooling_layer=False)


def llama(width, depth, heads, mlp):
    config = LlamaConfig(
        vocab_size=32001,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("selection", ["gradient", "magnitude"])
@pytest.mark.parametrize(
    ("make", "method", "wanted"),
    [
        (roberta_large, Sift(), 806_208),
        (lambda: llama(4096, 32, 32, 11008), Sift(("all",), 0.05), 323_800_352),
        (lambda: llama(5120, 40, 40, 13824), Sift(("all",), 0.04), 507_511_040),
        (lambda: llama(6656, 60, 52, 17920), Sift(("all",), 0.03), 963_064_920),
    ],
    ids=["roberta-large", "llama-7b", "llama-13b", "llama-33b"],
)
def test_published_counts(make, method, wanted, selection):
    """On the meta device, which also holds the method to the network's own device."""
    with torch.device("meta"):
        network = make()
    made = copy.copy(method)
    object.__setattr__(made, "selection", selection)
    delta = made.plan(find_anatomy(network), torch.Generator())
    assert delta.parameter_count() == wanted


def test_a_tensor_without_a_gradient_is_named():
    model = model_of(Sift()).train()
    with pytest.raises(NoGradientError, match=r"encoder/0/q/weight.*method\.roles"):
        model.prepare(Passes(lambda *_: None))
    assert all(e.watcher is None and not e.preparing for e in model.delta)


def test_a_gradient_that_is_not_finite_is_refused():
    model = model_of(Sift()).train()
    with pytest.raises(NonFiniteError, match="is not finite, so its entries cannot be chosen"):
        model.prepare(Passes(lambda *_: (batch_loss(model) * float("nan")).backward()))


def test_training_without_a_choice_is_refused():
    model = model_of(Sift()).train()
    with pytest.raises(NoGradientError, match=r"not chosen yet; call model\.prepare"):
        batch_loss(model).backward()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": 0.0}, "method.rate: 0.0"),
        ({"rate": 1.5}, "method.rate: 1.5"),
        ({"batches": 0}, "method.batches: 0"),
        ({"dense": ("norm",)}, "Did you mean 'norms'"),
        ({"roles": ("query",)}, "method.roles"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        model_of(Sift(**settings))


def test_wrapped_and_combined_it_chooses_too():
    gist = model_of(Gist(inner=Sift())).train()
    parts = {"a": Sift(("q",)), "b": Sift(("v",), 0.05), "lora": Lora(("q",))}
    combo = model_of(Combo(parts)).train()
    for model in (gist, combo):
        model.prepare(Passes(lambda *_, m=model: batch_loss(m).backward()))
        own = [e for e in model.delta if isinstance(e, Entries)]
        assert own and all(e.chosen for e in own)
        batch_loss(model).backward()
        assert all(p.grad is not None for p in model.trainable().values())


def test_a_tensor_that_two_layers_share_trains_once():
    network = tiny.fresh("roberta_tiny_random").model
    first, second = (layer.attention.self for layer in network.encoder.layer)
    second.query.weight = first.query.weight
    delta = Sift(("q",)).plan(Backbone("tied", network, "x").anatomy, torch.Generator())
    assert [e.name for e in delta] == ["encoder/0/q/weight", "encoder/0/q/bias", "encoder/1/q/bias"]
