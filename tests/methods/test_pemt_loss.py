"""The Task Sparsity Loss of PEMT, and the correlation of prompts, as formulas."""

import pemt_nets as nets
import pytest
import tiny
import torch
import torch.nn.functional as F

from peftbench.edits.mixture import Expert, Experts, correlated, sparsity

COSINES = torch.tensor([0.9, 0.2, 0.1, 0.0, -0.1, -0.3])


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        (torch.full((6,), 1 / 6), 0.86667),
        (torch.eye(6)[0], 0.1),
        (torch.eye(6)[5], 1.3),
    ],
)
def test_printed_numbers(weights, wanted):
    assert float(sparsity(weights[None], COSINES)) == pytest.approx(wanted, abs=1e-5)


def test_bounds_and_where_it_falls_to():
    g = torch.Generator().manual_seed(0)
    weights = torch.rand(50, 6, generator=g).softmax(-1)
    values = sparsity(weights, COSINES)
    assert bool((values >= 0.1).all()) and bool((values <= 1.3).all())
    assert float(sparsity(torch.tensor([[0.5, 0.5]]), torch.ones(2))) == 0.0
    scores = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=5.0)
    for _ in range(300):
        optimizer.zero_grad()
        sparsity(scores.softmax(-1)[None], COSINES).sum().backward()
        optimizer.step()
    assert float(scores.detach().softmax(-1)[0]) > 0.98


def experts(biased):
    g = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    return [
        Expert(draw(4, 6), draw(5, 4), *((draw(4), draw(5)) if biased else ())) for _ in range(3)
    ]


def outputs(given, x):
    found = []
    for e in given:
        if e.down_bias_R is None:
            found.append(x @ e.down_RI.T @ e.up_OR.T)
        else:
            h = F.gelu(x @ e.down_RI.T + e.down_bias_R, approximate="tanh")
            found.append(h @ e.up_OR.T + e.up_bias_O)
    return torch.stack(found, 2)


@pytest.mark.parametrize("biased", [False, True])
def test_cosines_and_mixtures_in_the_narrow_space(biased):
    given, x, z = experts(biased), torch.randn(2, 3, 6), torch.randn(2, 3, 5)
    group = Experts(given)
    each = outputs(given, x)
    hidden = group.hidden(x)
    wanted = F.cosine_similarity(z[:, :, None], each, dim=-1)
    assert torch.allclose(group.cosines(hidden, z), wanted, atol=1e-5)
    weights = torch.rand(2, 3).softmax(-1)
    assert torch.allclose(
        group.mixed(hidden, weights), torch.einsum("bk,btko->bto", weights, each), atol=1e-5
    )
    assert group.state_dict() == {}


def test_a_scaled_expert_has_the_same_cosine():
    given, x, z = experts(False), torch.randn(2, 3, 6), torch.randn(2, 3, 5)
    larger = [Expert(e.down_RI, 7 * e.up_OR) for e in given]
    one, two = Experts(given), Experts(larger)
    assert torch.allclose(one.cosines(one.hidden(x), z), two.cosines(two.hidden(x), z), atol=1e-5)
    weights = torch.full((2, 3), 1 / 3)
    assert not torch.allclose(one.mixed(one.hidden(x), weights), two.mixed(two.hidden(x), weights))


def test_an_expert_of_zeros_has_a_finite_gradient():
    group = Experts([Expert(torch.ones(2, 6), torch.zeros(5, 2))])
    x = torch.randn(1, 2, 6, requires_grad=True)
    group.cosines(group.hidden(x), torch.randn(1, 2, 5)).sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_folding_is_the_fixed_gate():
    given, x = experts(False), torch.randn(2, 3, 6)
    group, weights = Experts(given), torch.tensor([0.2, 0.5, 0.3])
    folded = x @ group.folded(weights).T
    assert torch.allclose(folded, group.mixed(group.hidden(x), weights.expand(2, -1)), atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_of_a_network_by_hand(masked):
    """Mean over blocks of sum mean(g) (1 - mean cos(z, E)), from watched tensors."""
    given = tiny.inputs("t5")
    given["decoder_attention_mask"] = torch.ones_like(given["decoder_input_ids"])
    given["decoder_attention_mask"][1, 3:] = 0
    with nets.attached(nets.made(mask_padding=masked, lambda_moe=0.7)) as model:
        seen, handles = {}, []
        for mixture in nets.mixtures(model):

            def keep(module, args, z, name=mixture.name):
                seen[name] = (args[0], z)

            handles.append(mixture.site.module.register_forward_hook(keep))
        output = model(given)
        terms = model.method.losses(output, lambda x: x.new_zeros(len(x)))
        gates = nets.gates(model)
        wanted = 0.0
        for mixture in nets.mixtures(model):
            x, z = seen[mixture.name]
            down = mixture.experts.down.unflatten(0, (2, -1))
            up = mixture.experts.up.unflatten(1, (2, -1))
            each = torch.einsum("okr,kri,bti->btko", up, down, x)
            cosine = F.cosine_similarity(z[:, :, None], each, dim=-1)
            if mixture.stack == "encoder":
                words = torch.ones(tiny.BATCH, len(tiny.DESCRIPTION))
                mask = torch.cat([words, given["attention_mask"]], 1)
            else:
                mask = given["decoder_attention_mask"].float()
            mean = cosine[mask.bool()].mean(0) if masked else cosine.mean((0, 1))
            wanted = wanted + (gates[f"gate/{mixture.name}"].mean(0) * (1 - mean)).sum() / 4
        for handle in handles:
            handle.remove()
    assert set(terms) == {"task", "sparsity"} and terms["sparsity"].shape == (tiny.BATCH,)
    assert float(terms["sparsity"].detach().mean()) == pytest.approx(
        0.7 * float(wanted.detach()), abs=1e-5
    )


def test_without_a_weight_there_is_no_term():
    with nets.attached(nets.made(lambda_moe=0.0)) as model:
        output = model(tiny.inputs("t5"))
        assert output.terms == {}
        assert list(model.method.losses(output, lambda x: x.new_zeros(len(x)))) == ["task"]
    with nets.attached(nets.made()) as model, torch.no_grad():
        assert model(tiny.inputs("t5")).terms == {}  # evaluation


def test_a_larger_weight_makes_gates_sharper():
    entropies = []
    for weight in (0.0, 20.0):
        with nets.attached(nets.made(lambda_moe=weight), moved=False) as model:
            tiny.train(model, "t5", steps=40)
            nets.logits(model.eval())
            gates = torch.cat(list(nets.gates(model).values()))
            entropies.append(float(-(gates * gates.clamp_min(1e-9).log()).sum(-1).mean()))
    assert entropies[1] < entropies[0] - 0.05


def test_prompts_correlate():
    g = torch.Generator().manual_seed(2)
    prompt = torch.randn(4, 8, generator=g)
    assert torch.equal(correlated(prompt, []), prompt)
    rows = []

    def keep(probabilities, i):
        rows.append(probabilities)
        return probabilities

    others = [torch.randn(n, 8, generator=g) for n in (3, 5)]
    found = correlated(prompt, others, keep)
    assert all(torch.allclose(r.sum(-1), torch.ones(4)) for r in rows)
    wanted = prompt + sum(r @ o for r, o in zip(rows, others, strict=True))
    assert torch.allclose(found, wanted, atol=1e-6)
    orthogonal = 100 * torch.linalg.qr(torch.randn(8, 8, generator=g))[0][:4]
    assert torch.allclose(correlated(orthogonal, [orthogonal]), 2 * orthogonal, atol=1e-3)
