"""Generation with a key-value cache writes what generation without one writes, to the last bit.

The network's own ``generate`` runs while the edits are attached, in float64.
"""

from functools import cache

import pytest
import tiny
import torch
from pairs import WORKS

from peftbench.errors import IncompatibleError

PAIRS = [(m, u) for m, u in WORKS if u in ("t5", "llama")]
STEPS, TOLERANCE = 4, 1e-10


@cache
def doubled(use):
    network = tiny.fresh(tiny.USES[use][0])
    network.model.double()
    return network


def prompts(use, lengths=(6, 3, 5), seed=0):
    """Return ids of several lengths, padded in front (T5's source: behind, next to no prompt)."""
    g = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, n in enumerate(lengths):
        place = slice(longest - n, None) if use == "llama" else slice(n)
        ids[row, place] = torch.randint(3, tiny.VOCABULARY, (n,), generator=g)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def written(model, given, use_cache, **options):
    """Return ids (B, T) and the logits of every step, (B, T, V)."""
    torch.manual_seed(7)
    with torch.no_grad():
        found = model.base.generate(
            **given,
            use_cache=use_cache,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            **{"do_sample": False, **options},
        )
    return found.sequences[:, -STEPS:], torch.stack(found.logits, 1)


def adapted(name, use, **changes):
    return tiny.adapted(tiny.method(name, **changes), use, base=doubled(use))


def ready(model):
    tiny.perturb(model, size=0.3)
    return model.eval()


@pytest.mark.parametrize(("name", "use"), PAIRS, ids=[f"{m}-{u}" for m, u in PAIRS])
def test_greedy_with_a_cache_is_greedy_without(name, use):
    with adapted(name, use) as model:
        ready(model)
        if any(edit.alone for edit in model.delta):
            with pytest.raises(IncompatibleError, match="use_cache=False"):
                written(model, prompts(use), True)
            assert written(model, prompts(use), False)[0].shape == (3, STEPS)
            return
        ids, logits = written(model, prompts(use), True)
        slow_ids, slow_logits = written(model, prompts(use), False)
        assert torch.equal(ids, slow_ids)
        assert float((logits - slow_logits).abs().max()) < TOLERANCE
        real = slice(-3, None) if use == "llama" else slice(3)
        single = {k: v[1:2, real] for k, v in prompts(use).items()}
        alone_ids, alone_logits = written(model, single, True)
        assert torch.equal(alone_ids[0], ids[1])
        assert float((alone_logits[0] - logits[1]).abs().max()) < TOLERANCE


MANNERS = {
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "sampled_beams": {"num_beams": 2, "do_sample": True},
    "returned": {"num_beams": 3, "num_return_sequences": 2},
    "chunks": {"prefill_chunk_size": 2},  # transformers reads in chunks for decoders only
}


@pytest.mark.parametrize(
    ("use", "manner"),
    [(u, m) for u in ("llama", "t5") for m in MANNERS if (u, m) != ("t5", "chunks")],
)
@pytest.mark.parametrize("name", ["lora", "vpt_shallow", "vpt_deep", "prefix"])
def test_every_manner_of_generation(name, use, manner):
    options = MANNERS[manner]
    without = {k: v for k, v in options.items() if k != "prefill_chunk_size"}
    with adapted(name, use) as model:
        ready(model)
        ids, _ = written(model, prompts(use), True, **options)
        slow_ids, _ = written(model, prompts(use), False, **without)
        assert torch.equal(ids, slow_ids)


def both(first, second):
    parts = {n: tiny.config("method", n) for n in (first, second)}
    return {"parts": parts}


@pytest.mark.parametrize("use", ["llama", "t5"])
@pytest.mark.parametrize(
    "pair",
    [("vpt_shallow", "vpt_deep"), ("vpt_deep", "prefix"), ("vpt_deep", "lora")],
    ids="+".join,
)
def test_several_edits_of_tokens_and_keys(pair, use):
    with adapted("combo", use, **both(*pair)) as model:
        ready(model)
        ids, logits = written(model, prompts(use), True)
        slow_ids, slow_logits = written(model, prompts(use), False)
        assert torch.equal(ids, slow_ids)
        assert float((logits - slow_logits).abs().max()) < TOLERANCE


@pytest.mark.parametrize("use", ["llama", "t5"])
def test_beams_of_a_side_network(use):
    """A decoder's side network reads what the encoder's made once, for every beam of a sample."""
    with adapted("lst", use) as model:
        ready(model)
        ids, _ = written(model, prompts(use), False, num_beams=2)
        real = slice(-3, None) if use == "llama" else slice(3)
        single = {k: v[1:2, real] for k, v in prompts(use).items()}
        alone, _ = written(model, single, False, num_beams=2)
        assert torch.equal(alone[0], ids[1])


@pytest.mark.parametrize("name", ["prompt_tuning", "spot", "attempt", "pemt_source", "pemt"])
def test_beams_under_prompts_that_a_decoder_attends_to(name):
    with adapted(name, "t5") as model:
        ready(model)
        ids, _ = written(model, prompts("t5"), True, num_beams=3)
        slow_ids, _ = written(model, prompts("t5"), False, num_beams=3)
        assert torch.equal(ids, slow_ids)
