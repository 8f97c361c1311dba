"""Weight edits: whole tensors and chosen entries; restored bit for bit."""

import weakref

import pytest
import torch
from torch import nn

from peftbench.edits import Delta, Entries, Weight

INDEX = torch.tensor([0, 5, 7, 13])


def net(seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3))
    return made.requires_grad_(False)


def data(seed=1):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def dense_gradient(network, x):
    weight = network[0].weight
    weight.requires_grad_(True)
    (grad,) = torch.autograd.grad(network(x).square().sum(), weight)
    weight.requires_grad_(False)
    return grad


def entries(network, at=0):
    return Entries(f"e{at}", (network[at], "weight"), INDEX)


def test_the_gradient_is_the_exact_gather():
    network, x = net(), data()
    wanted = dense_gradient(network, x).reshape(-1)[INDEX]
    edit = entries(network)
    delta = Delta([edit]).attach()
    network(x).square().sum().backward()
    assert torch.equal(edit.values.grad, wanted)
    assert network[0].weight.grad is None
    delta.detach()


def test_gradients_accumulate_over_several_passes():
    network = net()
    parts = [dense_gradient(network, data(s)).reshape(-1)[INDEX] for s in (1, 2, 3)]
    edit = entries(network)
    delta = Delta([edit]).attach()
    for s in (1, 2, 3):
        network(data(s)).square().sum().backward()
    assert torch.equal(edit.values.grad, parts[0] + parts[1] + parts[2])
    delta.detach()


def test_a_step_changes_the_entries_alone_and_detach_restores_all_bits():
    network, x = net(), data()
    before = [p.clone() for p in network.parameters()]
    edit = entries(network)
    delta = Delta([edit]).attach()
    assert edit.identity
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    optimizer = torch.optim.AdamW(edit.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
        delta.sync()
    now = network[0].weight.detach().reshape(-1)
    changed = (now != before[0].reshape(-1)).nonzero().flatten()
    assert torch.equal(changed, INDEX)
    assert torch.equal(now[INDEX], edit.values.detach())
    delta.detach()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))
    weight = network[0].weight
    assert not weight.requires_grad and weight.grad is None
    assert not weight._post_accumulate_grad_hooks


def test_attached_again_the_trained_entries_are_back():
    network, x = net(), data()
    edit = entries(network)
    delta = Delta([edit]).attach()
    with torch.no_grad():
        edit.values.add_(1.0)
    delta.sync()
    trained = network(x)
    delta.detach()
    assert not torch.allclose(network(x), trained)
    delta.attach()
    assert torch.equal(network(x), trained)
    delta.detach()


def test_half_precision_tensors_are_restored_and_masters_are_full():
    network = net().to(torch.bfloat16)
    before = network[0].weight.clone()
    edit = entries(network)
    assert edit.values.dtype == torch.float32
    delta = Delta([edit]).attach()
    network(data().to(torch.bfloat16)).float().square().sum().backward()
    assert edit.values.grad.dtype == torch.float32
    with torch.no_grad():
        edit.values.add_(0.37)
    delta.sync()
    wanted = edit.values.detach().to(torch.bfloat16)
    assert torch.equal(network[0].weight.reshape(-1)[INDEX], wanted)
    delta.detach()
    assert torch.equal(network[0].weight, before)


def test_only_one_dense_gradient_is_alive_at_a_time(monkeypatch):
    network = net()
    edits = [entries(network, 0), entries(network, 2)]
    alive, seen = [], []
    gather = Entries._gather

    def watched(self, tensor):
        seen.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(tensor.grad))
        gather(self, tensor)

    monkeypatch.setattr(Entries, "_gather", watched)
    delta = Delta(edits).attach()
    network(data()).square().sum().backward()
    assert seen == [0, 0]  # the dense gradient before was gone when the next one came
    assert all(ref() is None for ref in alive)
    assert all(e.values.grad is not None for e in edits)
    delta.detach()


@pytest.mark.parametrize("k", [1, 24])
def test_any_number_of_entries(k):
    network, x = net(), data()
    index = torch.randperm(24, generator=torch.Generator().manual_seed(0))[:k]
    wanted = dense_gradient(network, x).reshape(-1)[index]
    delta = Delta([Entries("e", (network[0], "weight"), index)]).attach()
    network(x).square().sum().backward()
    (edit,) = delta
    assert torch.equal(edit.values.grad, wanted)
    assert delta.parameter_count() == k
    assert set(delta.tensors()) == {"e.values", "e.index"}
    delta.detach()


def test_a_whole_tensor_trains_in_a_copy():
    network, x = net(), data()
    frozen = network[0].weight
    before, wanted = frozen.clone(), dense_gradient(network, x)
    edit = Weight("w", [(network[0], "weight")])
    plain = network(x)
    delta = Delta([edit]).attach()
    assert torch.equal(network(x), plain) and network[0].weight is edit.value
    network(x).square().sum().backward()
    assert torch.equal(edit.value.grad, wanted) and frozen.grad is None
    with torch.no_grad():
        edit.value.add_(1.0)
    assert not torch.allclose(network(x), plain)
    assert list(network.state_dict()) == list(net().state_dict())
    delta.detach()
    assert network[0].weight is frozen and torch.equal(frozen, before)


def test_a_tied_tensor_is_swapped_everywhere():
    table, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = table.weight
    edit = Weight("w", [(table, "weight"), (head, "weight")])
    delta = Delta([edit]).attach()
    assert table.weight is head.weight is edit.value
    delta.detach()
    assert table.weight is head.weight and table.weight is not edit.value
