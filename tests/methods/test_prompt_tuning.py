"""Prompt tuning: where prompts stand, who sees them, where they start."""

import pytest
import tiny
import torch

from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.prompt_tuning import PromptTuning

DESCRIPTION = (9, 4, 30, 1)


def prompt(model):
    (edit,) = model.delta
    return edit


@pytest.mark.parametrize("use", ["t5", "llama", "bert", "vit", "t5_classifier"])
def test_the_prompt_is_part_of_the_input(use):
    """Cut from the input of every block, and, in an encoder-decoder, from the decoder's memory."""
    with tiny.adapted(PromptTuning(3), use) as model, torch.no_grad():
        anatomy = model.backbone.anatomy
        lengths = {}
        handles = []
        for stack in anatomy.stacks:
            place = stack.sequence.block_inputs[-1]
            handles.append(place.watch(lambda x, n=stack.name: lengths.update({n: x.shape[1]})))
        given = tiny.inputs(use)
        plain = 17 if use == "vit" else tiny.LENGTH
        model.eval()(given)
        for handle in handles:
            handle.remove()
        first = anatomy.stacks[0].name
        assert lengths[first] == plain + 3
        assert prompt(model).stay == (use == "t5")


def test_cross_attention_sees_the_prompt_as_words_in_front():
    """The prompt of some words' embeddings is these words in front of the text, pads included."""
    given = tiny.inputs("t5")
    ids = torch.tensor(DESCRIPTION)
    made = PromptTuning(init="description").on_task(DESCRIPTION)
    longer = {
        "input_ids": torch.cat([ids.expand(tiny.BATCH, -1), given["input_ids"]], 1),
        "attention_mask": torch.cat(
            [torch.ones(tiny.BATCH, len(ids), dtype=torch.long), given["attention_mask"]], 1
        ),
    }
    decoder = given["decoder_input_ids"]
    network = tiny.backbone("t5_tiny_random").model
    with torch.no_grad():
        wanted = network(**longer, decoder_input_ids=decoder).logits
        beams = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2}
        wanted_ids = network.generate(**longer, **beams)
        with tiny.adapted(made, "t5") as model:
            assert torch.allclose(model.eval()(given).logits, wanted, atol=1e-5)
            plain = {k: given[k] for k in ("input_ids", "attention_mask")}
            found_ids = model.base.generate(**plain, **beams)
    assert torch.equal(found_ids, wanted_ids)


def test_in_front_of_a_decoder_it_is_words_in_front():
    given, ids = tiny.inputs("llama"), torch.tensor(DESCRIPTION)
    made = PromptTuning(init="description").on_task(DESCRIPTION)
    network = tiny.backbone("llama_tiny_random").model
    longer = torch.cat([ids.expand(tiny.BATCH, -1), given["input_ids"]], 1)
    with torch.no_grad():
        wanted = network(input_ids=longer).logits[:, len(ids) :]
        with tiny.adapted(made, "llama") as model:
            found = model.eval()({"input_ids": given["input_ids"]}).logits
    assert torch.allclose(found, wanted, atol=1e-5)


def test_starts():
    table = tiny.backbone("t5_tiny_random").model.shared.weight.detach()
    with tiny.adapted(PromptTuning(5, "vocabulary"), "t5") as model:
        rows = prompt(model).tokens.detach()[0]
        hits = (rows[:, None] == table[None]).all(-1)
        assert bool(hits.any(1).all())
        assert len(hits.int().argmax(1).unique()) == 5
    with tiny.adapted(PromptTuning(init="description").on_task(DESCRIPTION), "t5") as model:
        assert torch.equal(prompt(model).tokens.detach()[0], table[list(DESCRIPTION)])
        assert not model.delta.identity
    with tiny.adapted(PromptTuning(50), "t5") as model:
        drawn = prompt(model).tokens.detach()
        assert 0.45 < float(drawn.abs().max()) <= 0.5


def test_mistakes_are_named():
    with (
        pytest.raises(IncompatibleError, match="has no words"),
        tiny.adapted(PromptTuning(2, "vocabulary"), "vit"),
    ):
        pass
    for made, told in (
        (PromptTuning(init="description"), "knows of none"),
        (PromptTuning(init="description").on_task((3, 64)), "the network has 64 words"),
    ):
        with pytest.raises(ConfigError, match=told), tiny.adapted(made, "t5"):
            pass
    assert PromptTuning(2).on_task(DESCRIPTION) == PromptTuning(2)
