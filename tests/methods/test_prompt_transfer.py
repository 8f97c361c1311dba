"""SPoT and ATTEMPT: prompts of source tasks, as a start and as a mixture."""

import pemt_nets as nets
import pytest
import tiny
import torch
import torch.nn.functional as F

import peftbench
from peftbench.errors import ConfigError, MissingAssetError
from peftbench.methods.attempt import Attempt
from peftbench.methods.prompt_tuning import PromptTuning
from peftbench.methods.sources import Source, Sources
from peftbench.methods.spot import Spot

SMALL = PromptTuning(5, "vocabulary")


def sources(*names):
    return Sources(dict.fromkeys(names))


def trained(made):
    """Return the prompts (M, D) of the library."""
    folders = [s.folder for s in made.library.values()]
    return [nets.prompt(peftbench.load(f)).tokens[0].detach() for f in folders]


def test_spot_starts_from_its_source_and_is_prompt_tuning():
    made = tiny.staged(Spot(sources("second"), prompt=SMALL), "t5")
    assert [s.method for s in made.stages()] == [SMALL]
    wanted = nets.logits(peftbench.load(made.library["second"].folder))
    with tiny.adapted(made, "t5") as model:
        (start,) = trained(made)
        assert torch.equal(nets.prompt(model).tokens[0], start)
        assert torch.equal(nets.logits(model.eval()), wanted)
        tiny.train(model, "t5")
        assert not torch.equal(nets.prompt(model).tokens[0], start)
    with pytest.raises(ConfigError, match="one source"):
        Spot(sources("a", "b"))
    with (
        pytest.raises(MissingAssetError, match="trained first"),
        tiny.adapted(Spot(library={}), "t5"),
    ):
        pass


def test_attempt_by_hand():
    made = tiny.staged(Attempt(sources("first", "second"), prompt=SMALL, hidden=6), "t5")
    others, given = trained(made), tiny.inputs("t5")
    with tiny.adapted(made, "t5") as model, torch.no_grad():
        tiny.perturb(model, size=1.0)
        edit = nets.prompt(model)
        net, own = edit.attention, edit.tokens[0]
        assert net.temperature == pytest.approx(32 * 2.718281828)
        words = model.base.shared(given["input_ids"])
        mask = given["attention_mask"].bool()
        prompts = torch.stack([*others, own])
        wanted = []
        for row in range(tiny.BATCH):
            text = words[row][mask[row]].max(0).values
            query = net.up @ F.silu(net.down @ text)
            query = (query - query.mean()) / (query.var(unbiased=False) + 1e-5).sqrt()
            query = query * net.gain + net.shift
            scores = torch.stack([query @ p.max(0).values for p in prompts]) / net.temperature
            weights = scores.softmax(0)
            wanted.append(own + sum(w * p for w, p in zip(weights, prompts, strict=True)))
        seen = []
        place = model.backbone.anatomy.stacks[0].sequence.block_inputs[0]
        handle = place.watch(lambda x: seen.append(x[:, :5]))
        model.eval()(given)
        handle.remove()
        assert torch.allclose(seen[0], torch.stack(wanted), atol=1e-5)
        assert float((seen[0][0] - seen[0][1]).abs().max()) > 1e-3


def test_attempt_refuses_what_has_no_meaning():
    with pytest.raises(ConfigError, match="differ in length"):
        Attempt(prompt=PromptTuning(init="description"))
    with pytest.raises(ConfigError, match="unknown source"):
        Attempt(sources("a"), subset=("b",))
    with pytest.raises(ConfigError, match="temperature"):
        Attempt(temperature=0.0)
    library = {"a": Source("somewhere", "")}
    assert Attempt(library=library).stages() == ()


@pytest.mark.parametrize("name", ["spot", "attempt"])
def test_generation_with_beams(name):
    given = {k: v for k, v in tiny.inputs("t5").items() if k != "decoder_input_ids"}
    manner = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 3, "pad_token_id": 0}
    with tiny.adapted(tiny.method(name), "t5") as model, torch.no_grad():
        tiny.perturb(model, size=0.3)
        model.eval()
        ids = model.base.generate(**given, use_cache=True, **manner)
        assert torch.equal(ids, model.base.generate(**given, use_cache=False, **manner))
