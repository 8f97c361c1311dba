"""Learned tokens of a stack that goes on with a key-value cache, and tokens that stay."""

import pytest
import tiny
import torch

from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import Delta, Tokens
from peftbench.errors import ConfigError, IncompatibleError


def decoder(use):
    network = tiny.fresh(tiny.USES[use][0]).model.double()
    return network, find_anatomy(network).stacks[-1].sequence


def tokens(name, site, count, seed=0, **options):
    made = Tokens(name, site, count, 1.0, generator=torch.Generator().manual_seed(seed), **options)
    return made.double().eval()


def llama_steps(network, ids, mask, cuts):
    """Return the logits of a prompt read in parts, with a cache."""
    past, parts = None, []
    for first, last in cuts:
        out = network(
            input_ids=ids[:, first:last],
            attention_mask=mask[:, :last],
            past_key_values=past,
            use_cache=True,
        )
        past = out.past_key_values
        parts.append(out.logits)
    return torch.cat(parts, 1), past


@pytest.mark.parametrize("deep", [False, True])
def test_a_prompt_in_parts_is_the_whole_prompt(deep):
    network, site = decoder("llama")
    ids = torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    edits = [tokens("a", site, 2, deep=deep), tokens("b", site, 3, seed=1, deep=deep)]
    delta = Delta(edits).attach()
    with torch.no_grad():
        whole = network(input_ids=ids, attention_mask=mask).logits
        parts, past = llama_steps(network, ids, mask, [(0, 4), (4, 5), (5, 7)])
        assert float((whole - parts).abs().max()) < 1e-12
        assert past.get_seq_length() == 7 + 5
        without_mask = network(input_ids=ids, use_cache=True)
        last = network(input_ids=ids[:, -1:], past_key_values=without_mask.past_key_values)
        longer = network(input_ids=torch.cat([ids, ids[:, -1:]], 1)).logits[:, -1:]
        assert float((last.logits - longer).abs().max()) < 1e-12
    delta.detach()


def test_tokens_in_the_decoder_of_an_encoder_decoder():
    network, site = decoder("t5")
    given = tiny.inputs("t5")
    source = {k: given[k] for k in ("input_ids", "attention_mask")}
    target = given["decoder_input_ids"]
    delta = Delta([tokens("a", site, 3, deep=True)]).attach()
    with torch.no_grad():
        whole = network(**source, decoder_input_ids=target).logits
        first = network(**source, decoder_input_ids=target[:, :2], use_cache=True)
        rest = network(
            **source, decoder_input_ids=target[:, 2:], past_key_values=first.past_key_values
        )
        parts = torch.cat([first.logits, rest.logits], 1)
        assert float((whole - parts).abs().max()) < 1e-12
    delta.detach()


def test_a_cache_that_lacks_the_tokens_or_was_cut_is_refused():
    network, site = decoder("llama")
    ids = torch.randint(3, 64, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    past = network(input_ids=ids[:, :4], use_cache=True).past_key_values
    delta = Delta([tokens("a", site, 2)]).attach()
    with pytest.raises(IncompatibleError, match="start from an empty cache"):
        network(input_ids=ids[:, 4:], attention_mask=mask, past_key_values=past)
    _, past = llama_steps(network, ids, mask, [(0, 6)])
    past.crop(-3)
    with pytest.raises(IncompatibleError, match="holds 5 tokens"):
        network(input_ids=ids[:, 5:], attention_mask=mask, past_key_values=past)
    delta.detach()


def test_tokens_at_the_end_have_no_place_in_a_cache():
    network, site = decoder("llama")
    ids = torch.randint(3, 64, (1, 6))
    delta = Delta([tokens("a", site, 2, place="end")]).attach()
    past = network(input_ids=ids, use_cache=True).past_key_values
    with pytest.raises(IncompatibleError, match="use_cache=False"):
        network(input_ids=ids[:, -1:], past_key_values=past)
    delta.detach()


def encoder_and(network):
    return find_anatomy(network).stacks[0].sequence


@pytest.mark.parametrize("order", [(True, False), (False, True), (True, True), (False, False)])
def test_tokens_that_stay_are_read_by_the_decoder(order):
    """What stays is seen by cross-attention; what leaves is not, whichever is attached first."""
    network, _ = decoder("t5")
    site = encoder_and(network)
    given = tiny.inputs("t5")
    ids, mask = given["input_ids"], given["attention_mask"]
    edits = [tokens(n, site, 2 + i, seed=i, stay=order[i]) for i, n in enumerate("ab")]
    seen = {}
    network.decoder.register_forward_pre_hook(
        lambda m, a, k: seen.update(
            memory=k["encoder_hidden_states"], mask=k["encoder_attention_mask"]
        ),
        with_kwargs=True,
    )
    delta = Delta(edits).attach()
    inside = {}
    network.encoder.final_layer_norm.register_forward_hook(
        lambda m, a, y: inside.update(hidden=y), prepend=True
    )
    with torch.no_grad():
        network(**given)
    handle = network.decoder.register_forward_pre_hook(
        lambda m, a, k: seen.update(widened=k["encoder_attention_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        network(**given)
    handle.remove()
    delta.detach()
    hidden = inside["hidden"]  # b (3), a (2), text
    keep = [hidden[:, 0:3]] if order[1] else []
    keep += [hidden[:, 3:5]] if order[0] else []
    wanted = torch.cat([*keep, hidden[:, 5:]], 1)
    assert torch.equal(seen["memory"], wanted)
    more = wanted.shape[1] - ids.shape[1]
    assert torch.equal(seen["widened"][:, more:], mask)
    assert bool((seen["widened"][:, :more] == 1).all())
    starts = [e.kept for e in edits]
    assert starts == [3 if order[1] else 0, 0]


def test_where_nothing_reads_on_tokens_leave():
    for use in ("llama", "bert", "vit"):
        site = tiny.backbone(tiny.USES[use][0]).anatomy.stacks[0].sequence
        assert not Tokens("a", site, 2, 1.0, stay=True).stay
    anatomy = tiny.backbone("t5_tiny_random").anatomy
    assert Tokens("a", anatomy.stacks[0].sequence, 2, 1.0, stay=True).stay
    read_by_none = anatomy.for_features().stacks[0].sequence
    assert not Tokens("a", read_by_none, 2, 1.0, stay=True).stay


def test_given_numbers_to_start_from():
    site = tiny.backbone("bert_tiny_random").anatomy.stacks[0].sequence
    numbers = torch.randn(1, 2, site.width)
    assert torch.equal(Tokens("a", site, 2, numbers).tokens, numbers)
    with pytest.raises(ConfigError, match="starts at"):
        Tokens("a", site, 3, numbers)
