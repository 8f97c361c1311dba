"""Banks of contexts: every scheme of computing them agrees, and a router tells who acts where.

Shape legend: B batch, T tokens, I input width, O output width, K copies.
"""

import pytest
import torch
from torch import nn

from peftbench.edits import (
    AddedBias,
    ContextBank,
    Delta,
    Dora,
    InputScale,
    LinearSite,
    LowRank,
    OutputScale,
    Route,
    Router,
    SequenceSite,
    TensorRef,
    Tokens,
    fused,
)
from peftbench.edits.context import low_rank, one_by_one
from peftbench.edits.router import _runs
from peftbench.errors import IncompatibleError

B, T, I, O, K = 3, 7, 12, 18, 3  # noqa: E741
NAMES = ("text", "image", "sound")
ROLES = {
    "whole": {"o": (0, O)},
    "two": {"v": (12, 18), "q": (0, 6)},
    "touching": {"q": (0, 6), "k": (6, 12), "v": (12, 18)},
}
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def seeded(number):
    return torch.Generator().manual_seed(number)


def random_(module, seed=3):
    g = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype))


def make(kind, roles="whole", bias=True, names=NAMES, serves=None, **options):
    """Return a network of one layer, its bank and the delta of both, all in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(I, O, bias=bias)).double().requires_grad_(False)
    sites = [LinearSite(f"x/{n}", n, net[0], "0", rows) for n, rows in ROLES[roles].items()]
    site = SequenceSite("x", I, 0, TensorRef(net, "input", 0), TensorRef(net, "output"), (), ())
    site = SequenceSite(**{**vars(site), "block_inputs": (TensorRef(net, "input", 0),)})
    serves = serves or {n: (i,) for i, n in enumerate(names)}
    router = Router("ids", site, names, serves)
    copies = {}
    for k, n in enumerate(serves):
        more = {"generator": seeded(k)} if kind in (LowRank, Dora) else {}
        copies[n] = kind("layer", sites, **options, **more).double()
    bank = ContextBank("layer", copies, router)
    random_(bank)
    return net, bank, Delta([router, bank]).attach()


def inputs(batch=B, seed=1):
    return torch.randn(batch, T, I, generator=seeded(seed), dtype=torch.float64)


def numbers(low=-1, batch=B):
    found = torch.randint(low, K, (batch, T), generator=seeded(4))
    assert set(found.unique().tolist()) == set(range(low, K))
    return found


def each(bank, net, x):
    """Return the layer under one copy everywhere, for every copy, by the copy's own formula."""
    plain = nn.functional.linear(x, net[0].weight, net[0].bias)
    found = []
    for copy in bank.each:
        scaled = x * copy.vector() if isinstance(copy, InputScale) else None
        if scaled is not None:
            found.append(nn.functional.linear(scaled, net[0].weight, net[0].bias))
        else:
            found.append(copy.change(x, plain))
    return plain, torch.stack(found)


KINDS = {
    "low_rank": (LowRank, {"rank": 3, "alpha": 5.0}),
    "dora": (Dora, {"rank": 2, "alpha": 5.0}),
    "bias": (AddedBias, {}),
    "output_scale": (OutputScale, {"relative": True}),
    "input_scale": (InputScale, {"relative": True}),
    "plain_scale": (OutputScale, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("bias", [True, False])
def test_a_token_has_the_output_of_its_own_copy(kind, bias):
    cls, options = KINDS[kind]
    net, bank, delta = make(cls, bias=bias, **options)
    x, ids = inputs(), numbers()
    plain, copies = each(bank, net, x)
    delta.context["context"] = ids
    found = net(x)
    for b in range(B):
        for t in range(T):
            wanted = plain[b, t] if ids[b, t] < 0 else copies[ids[b, t], b, t]
            torch.testing.assert_close(found[b, t], wanted, **EXACT)
    sets = nn.functional.one_hot(ids + 1, K + 1)[..., 1:].bool()
    delta.context["context"] = sets
    torch.testing.assert_close(net(x), found, **EXACT)


@pytest.mark.parametrize("roles", ROLES)
def test_roles_of_one_layer(roles):
    for cls, options in (KINDS["low_rank"], KINDS["output_scale"]):
        net, bank, delta = make(cls, roles, **options)
        x, ids = inputs(), numbers(0)
        _, copies = each(bank, net, x)
        delta.context["context"] = ids
        wanted = torch.gather(copies, 0, ids[None, ..., None].expand(1, B, T, O))[0]
        torch.testing.assert_close(net(x), wanted, **EXACT)


def paper(bank, x, y, ids):
    """Algorithm 1: one product of the input, A, B and the one-hot contexts of every token."""
    (site,) = bank.each[0].sites
    a = torch.stack([c.a[site.role].t() for c in bank.each])
    b = torch.stack([c.b[site.role].t() for c in bank.each])
    hot = nn.functional.one_hot(ids + 1, K + 1)[..., 1:].to(x)
    return y + bank.each[0].scale * torch.einsum("...d,cdr,crD,...c->...D", x, a, b, hot)


def schemes(bank, net, x, ids):
    """Return the output by every scheme."""
    layer, sites = net[0], bank.each[0].sites
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    route = bank.router.route(x, bank.names)
    assert isinstance(route, Route)
    rows = tuple(s.rows for s in sites)
    factors = [*(c.a[s.role] for s in sites for c in bank.each)]
    factors += [c.b[s.role] for s in sites for c in bank.each]
    shared = (x, layer.weight, layer.bias)
    runs = _runs(route.member_KN)
    scale = bank.each[0].scale
    found = {
        "one_by_one": one_by_one(bank.each, x, plain, route),
        "mask": low_rank(bank.each, x, plain, route),
        "fused": fused.FusedLowRank.apply(*shared, route.mask(x.dtype), scale, rows, *factors),
        "runs": fused.FusedRuns.apply(*shared, runs, scale, rows, *factors),
    }
    if len(sites) == 1:
        found["paper"] = paper(bank, x, plain, ids)
    return found


@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize("missing", [None, 1])
def test_all_schemes_agree_in_outputs_and_gradients(roles, missing):
    net, bank, delta = make(LowRank, roles, rank=3, alpha=5.0)
    ids = numbers()
    if missing is not None:
        ids = ids.masked_fill(ids == missing, 0)
    delta.context["context"] = ids
    results = {}
    for name in ("one_by_one", "mask", "fused", "runs", *(["paper"] if roles == "whole" else [])):
        x = inputs().requires_grad_(True)
        y = schemes(bank, net, x, ids)[name]
        upstream = torch.randn(y.shape, generator=seeded(8), dtype=y.dtype)
        grads = torch.autograd.grad((y * upstream).sum(), [x, *bank.parameters()])
        results[name] = [y.detach(), *grads]
    assert len(results) >= 4
    for name, found in results.items():
        for a, b in zip(found, results["one_by_one"], strict=True):
            torch.testing.assert_close(a, b, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


def test_contexts_overlap_by_adding_or_multiplying():
    sets = torch.rand(B, T, K, generator=seeded(5)) < 0.5
    assert set(sets.sum(2).unique().tolist()) == {0, 1, 2, 3}
    for kind in ("low_rank", "bias", "output_scale"):
        cls, options = KINDS[kind]
        net, bank, delta = make(cls, **options)
        x = inputs()
        plain, copies = each(bank, net, x)
        m = sets.permute(2, 0, 1)[..., None]
        if kind == "output_scale":
            wanted = plain * torch.where(m, copies / plain, 1.0).prod(0)
        else:
            wanted = plain + torch.where(m, copies - plain, 0.0).sum(0)
        delta.context["context"] = sets
        torch.testing.assert_close(net(x), wanted, rtol=1e-10, atol=1e-10)
    net, bank, delta = make(InputScale, relative=True)
    factor = torch.where(m, torch.stack([c.vector() for c in bank.each])[:, None, None], 1.0)
    delta.context["context"] = sets
    wanted = nn.functional.linear(inputs() * factor.prod(0), net[0].weight, net[0].bias)
    torch.testing.assert_close(net(inputs()), wanted, **EXACT)


@every_kind
def test_no_context_leaves_every_bit(kind):
    cls, options = KINDS[kind]
    net, _, delta = make(cls, **options)
    x = inputs()
    delta.context["context"] = torch.full((B, T), -1)
    found = net(x)
    delta.detach()
    assert torch.equal(found, net(x))


@every_kind
def test_numbers_of_a_context_see_its_own_tokens_alone(kind):
    """Changing inputs and upstream gradients elsewhere leaves a copy's gradients as they are."""
    cls, options = KINDS[kind]
    net, bank, delta = make(cls, **options)
    ids = numbers()
    delta.context["context"] = ids
    for k, copy in enumerate(bank.each):
        found = []
        for seed in (10, 11):
            elsewhere = (ids != k)[..., None]
            noise = torch.randn(B, T, I, generator=seeded(seed), dtype=torch.float64)
            x = torch.where(elsewhere, inputs() + noise, inputs())
            upstream = torch.randn(B, T, O, generator=seeded(8), dtype=torch.float64)
            upstream = torch.where(elsewhere, upstream * seed, upstream)
            found.append(torch.autograd.grad((net(x) * upstream).sum(), list(copy.parameters())))
        for a, b in zip(*found, strict=True):
            assert a.abs().max() > 0
            torch.testing.assert_close(a, b, **EXACT)


@every_kind
def test_a_context_that_occurs_nowhere_has_no_gradient(kind):
    cls, options = KINDS[kind]
    net, bank, delta = make(cls, **options)
    delta.context["context"] = numbers(0).masked_fill(numbers(0) == 1, 2)
    net(inputs()).square().sum().backward()
    sizes = [max(float(p.grad.abs().max()) for p in c.parameters()) for c in bank.each]
    assert sizes[0] > 0 and sizes[1] == 0.0 and sizes[2] > 0


@every_kind
def test_relabelled_contexts_with_numbers_that_follow_change_nothing(kind):
    cls, options = KINDS[kind]
    net, bank, delta = make(cls, **options)
    ids, order = numbers(0), [2, 0, 1]
    delta.context["context"] = ids
    before = net(inputs())
    delta.detach()
    sites = {n: (i,) for i, n in enumerate(NAMES)}
    router = Router("ids", bank.router.site, NAMES, sites)
    moved = ContextBank("layer", {NAMES[i]: bank.each[order[i]] for i in range(K)}, router)
    other = Delta([router, moved]).attach()
    other.context["context"] = torch.tensor([order.index(k) for k in range(K)])[ids]
    assert not torch.equal(net(inputs()), net(inputs().flip(1)))
    torch.testing.assert_close(net(inputs()), before, **EXACT)
    if kind != "low_rank":  # of which a product adds the zeros of other contexts in another order
        assert torch.equal(net(inputs()), before)


def test_one_set_may_serve_all_contexts_and_contexts_may_pass():
    x, ids = inputs(), numbers()
    net, bank, delta = make(AddedBias, serves={"shared": None})
    delta.context["context"] = ids
    (bias,) = (c.bias for c in bank.each)
    plain = nn.functional.linear(x, net[0].weight, net[0].bias)
    assert torch.equal(net(x), torch.where((ids >= 0)[..., None], plain + bias, plain))
    net, bank, delta = make(AddedBias, serves={"image": (1,)})
    delta.context["context"] = ids
    (bias,) = (c.bias for c in bank.each)
    assert torch.equal(net(x), torch.where((ids == 1)[..., None], plain + bias, plain))
    delta.context.clear()
    assert torch.equal(net(x), plain)  # all is text, which no set serves


def test_without_numbers_all_is_written():
    net, bank, delta = make(LowRank, rank=3, alpha=5.0)
    plain, copies = each(bank, net, inputs())
    torch.testing.assert_close(net(inputs()), copies[0], **EXACT)
    delta.detach()
    assert torch.equal(net(inputs()), plain)


def test_tokens_behind_the_given_ones_and_rows_of_beams():
    _, bank, delta = make(AddedBias)
    router, (x, ids) = bank.router, (inputs(2 * B), numbers())
    delta.context["context"] = ids[:, :4]
    full = torch.cat([ids[:, :4], torch.zeros(B, 3, dtype=torch.long)], 1)
    wanted = full.repeat_interleave(2, 0)
    hot = torch.stack([(wanted == k).flatten() for k in range(K)])
    assert torch.equal(router.route(x, NAMES).member_KN, hot)
    router.held = 2  # a cache holds two tokens, three come
    found = router.route(x[:, :3], NAMES).member_KN
    assert torch.equal(found, hot.view(K, 2 * B, T)[:, :, 2:5].flatten(1))
    router.held = 4
    assert router.route(x[:, :1], NAMES) == "text"
    sets = nn.functional.one_hot(ids[:, :4] + 1, K + 1)[..., 1:].bool()
    delta.context["context"], router.held = sets, 2
    assert torch.equal(router.route(x[:, :3], NAMES).member_KN, found)


def test_masks_are_found_once_in_a_forward_pass_and_anew_in_the_next(monkeypatch):
    net, bank, delta = make(AddedBias)
    calls, real = [], Router._route
    monkeypatch.setattr(Router, "_route", lambda *a: calls.append(1) or real(*a))
    ids = numbers()
    delta.context["context"] = ids
    first = net(inputs())
    bank.router.route(inputs(), NAMES)
    assert len(calls) == 1
    ids.fill_(1)  # the same tensor with other numbers
    assert not torch.equal(net(inputs()), first)
    assert len(calls) == 2


def test_the_rule_takes_runs_where_they_are_long_and_ranks_are_many(monkeypatch):
    taken = []
    for node in (fused.FusedLowRank, fused.FusedRuns):
        real = node.apply
        monkeypatch.setattr(
            node, "apply", lambda *a, real=real, node=node: taken.append(node) or real(*a)
        )

    def node(rank, ids):
        net, bank, delta = make(LowRank, rank=rank, alpha=5.0)
        for module in (net, bank):
            module.float()
        delta.context["context"] = ids
        x = torch.randn(2, ids.shape[1], I)
        found = net(x)
        monkeypatch.setattr(fused, "fits", lambda *_: False)
        torch.testing.assert_close(net(x), found, rtol=1e-4, atol=1e-4)
        return taken.pop()

    fits = fused.fits
    long_runs = (torch.arange(96) // 48).expand(2, 96)
    short_runs = (torch.arange(96) % 2).expand(2, 96)
    wanted = {(32, 0): fused.FusedRuns, (4, 0): fused.FusedLowRank, (32, 1): fused.FusedLowRank}
    for (rank, short), kind in wanted.items():
        monkeypatch.setattr(fused, "fits", fits)
        assert node(rank, short_runs if short else long_runs) is kind


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (torch.zeros(B, T), "whole numbers"),
        (torch.zeros(B, T, K, dtype=torch.long), "whole numbers"),
        (torch.zeros(B, T, 2, dtype=torch.bool), "bool"),
        (torch.full((B, T), 3), "number 3 is given; allowed: -1 none, 0 text, 1 image, 2 sound"),
        (torch.full((B, T), -2), "number -2"),
        (torch.zeros(2, T, dtype=torch.long), "one row is needed"),
    ],
)
def test_wrong_numbers_are_named(wrong, words):
    net, _, delta = make(AddedBias)
    delta.context["context"] = wrong
    with pytest.raises(IncompatibleError, match=words):
        net(inputs())


def test_learned_tokens_in_the_sequence_are_refused_where_numbers_are_given():
    _, bank, delta = make(AddedBias)
    delta.detach()
    site = bank.router.site
    both = Delta([bank.router, bank, Tokens("soft", site, 2, start=0.5)]).attach()
    both.context["context"] = numbers()
    with pytest.raises(IncompatibleError, match="learned tokens"):
        bank.router.route(inputs(), NAMES)
    both.detach()


@every_kind
def test_behind_another_edit_of_the_layer_it_acts_second(kind):
    cls, options = KINDS[kind]
    net, bank, delta = make(cls, **options)
    delta.detach()
    scale = OutputScale("scale", bank.each[0].sites).double()
    random_(scale)
    ids = numbers()
    both = Delta([scale, bank.router, bank]).attach()
    both.context["context"] = ids
    found = net(inputs())
    plain = nn.functional.linear(inputs(), net[0].weight, net[0].bias)
    route = bank.router.route(inputs(), NAMES)
    if isinstance(bank.each[0], InputScale):
        inner = bank.before(bank.each, inputs(), route)
        wanted = scale.change(inner, nn.functional.linear(inner, net[0].weight, net[0].bias))
    else:
        wanted = one_by_one(bank.each, inputs(), scale.change(inputs(), plain), route)
    torch.testing.assert_close(found, wanted, **EXACT)
