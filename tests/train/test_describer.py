"""A captioner asked again: what it writes is what the run writes, and how likely it is."""

import pytest
import tiny
import torch

import peftbench
from peftbench.errors import ArtefactError, ConfigError
from peftbench.tasks.captioned import one_line
from peftbench.tasks.captions import CaptionUse
from peftbench.train.describer import Describer
from peftbench.train.reader import Writing


@pytest.fixture(scope="module")
def model():
    made = tiny.method("context")
    made = peftbench.attach(made, tiny.fresh("captioner_tiny_random"), classes=None)
    tiny.perturb(made, 0.2)
    return made.eval()


def pictures(count, seed=0):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def by_hand(model, image, longest):
    """Return greedy ids and the log-probability of each, one whole pass per token."""
    codec = model.backbone.codec
    ids, found = [codec.begin, *[-1] * tiny.PLACES], []
    while len(found) < longest:
        with torch.no_grad():
            logits = model({"input_ids": torch.tensor([ids]), "image": image}).logits[0, -1]
        best = int(logits.argmax())
        found.append(logits.log_softmax(-1)[best].item())
        ids.append(best)
        if best == codec.end:
            break
    return ids[1 + tiny.PLACES :], found


def test_a_caption_and_its_probability_are_those_of_single_passes(model):
    images = pictures(3)
    describer = Describer(model, Writing(9))
    told = describer.write(describer.see(images))
    for i, answer in enumerate(told):
        ids, chances = by_hand(model, images[i : i + 1], 9)
        assert answer.caption == one_line(model.backbone.codec.answer(ids))
        assert answer.log_probability == pytest.approx(sum(chances) / len(chances), abs=1e-4)


def test_beams_are_those_of_the_network(model):
    images, codec = pictures(3), model.backbone.codec
    prompts = torch.tensor([[codec.begin, *[-1] * tiny.PLACES]]).expand(3, -1)
    given = {"input_ids": prompts, "image": images}
    found = {}
    for beams in (1, 4):
        describer = Describer(model, Writing(10, beams=beams))
        found[beams] = [answer.caption for answer in describer.write(describer.see(images))]
        ids = model.write(given, codec.end, codec.pad, 10, num_beams=beams).tolist()
        assert found[beams] == [one_line(codec.answer(row)) for row in ids]
    assert found[1] != found[4]


def test_a_draw_is_its_seeds(model):
    seen = Describer(model, Writing(1)).see(pictures(2))
    state = torch.random.get_rng_state()

    def drawn(seed):
        how = Writing(12, sample=True, temperature=2.0, seed=seed)
        return [answer.caption for answer in Describer(model, how).write(seen)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_captions_are_scored_alone_as_together(model):
    describer = Describer(model, Writing(5))
    ids = describer.codec.ids(["a cat", "a red car on a road", "x"])
    seen = describer.see(pictures(3))
    together = describer.log_probabilities(seen, ids)
    for i, own in enumerate(ids):
        alone = describer.log_probabilities({"seen": seen["seen"][i : i + 1]}, [own])
        assert alone.item() == pytest.approx(together[i].item(), abs=1e-5)


def test_only_captioners_describe():
    text = peftbench.attach(tiny.method("lora"), tiny.fresh("llama_tiny_random"), classes=None)
    with pytest.raises(ArtefactError, match="does not see pictures and write"):
        Describer(text, Writing(5))


def test_what_an_adapter_knows_is_checked():
    assert CaptionUse.read({"longest_target": 5, "written": 4, "beams": 2}).longest == 4
    assert CaptionUse.read({"longest_target": 5}).longest == 5
    for stored, said in (
        ({"longest_target": 0}, r"captions\.longest_target: at least 1"),
        ({"longest": 5}, "longest_target"),
        ({"longest_target": "many"}, "expected int"),
    ):
        with pytest.raises(ConfigError, match=said):
            CaptionUse.read(stored)
