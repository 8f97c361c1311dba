"""The tokenizer of the random tiny text networks: their special ids, and text that comes back."""

import pytest
import tiny
import torch

NAMES = ["bert_tiny_random", "roberta_tiny_random", "t5_tiny_random", "llama_tiny_random"]
TEXT = "is it so? 12,5% of (a/b): yes!\n### response:"


@pytest.mark.parametrize("name", NAMES)
def test_a_text_comes_back_in_lower_case_and_every_id_is_in_the_vocabulary(name):
    backbone = tiny.backbone(name)
    (ids,) = backbone.codec.ids([TEXT.upper()])
    assert backbone.codec.text(ids) == TEXT
    assert len(ids) == len(TEXT) and max(ids) < tiny.VOCABULARY
    assert len(backbone.codec.tokenizer) <= backbone.model.config.vocab_size == tiny.VOCABULARY
    (unknown,) = backbone.codec.ids(["~"])
    assert unknown == [backbone.codec.tokenizer.unk_token_id]


@pytest.mark.parametrize("name", NAMES)
def test_special_ids_are_those_of_the_networks_configuration(name):
    backbone = tiny.backbone(name)
    config, codec = backbone.model.config, backbone.codec
    if config.pad_token_id is None:
        assert codec.pad == codec.end == config.eos_token_id == 2
    else:
        assert codec.pad == config.pad_token_id
    if name != "bert_tiny_random":
        assert codec.end == config.eos_token_id
    if name == "llama_tiny_random":
        assert codec.ids(["a"], special=True)[0][0] == config.bos_token_id
        assert codec.tokenizer.padding_side == "left"
        asked = codec.chat([{"role": "user", "content": "why"}])
        assert asked == "user: why\nassistant: "


def test_pairs_have_segments_where_the_network_has_them():
    ids, segments = tiny.backbone("bert_tiny_random").codec.segments([("ab", "c")], 20)
    bert = tiny.backbone("bert_tiny_random").codec.tokenizer
    assert bert.convert_ids_to_tokens(ids[0]) == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert segments == [[0, 0, 0, 0, 1, 1]]
    roberta = tiny.backbone("roberta_tiny_random").codec
    ids, segments = roberta.segments([("ab", "c")], 20)
    shown = roberta.tokenizer.convert_ids_to_tokens(ids[0])
    assert shown == ["<s>", "a", "b", "</s>", "</s>", "c", "</s>"] and segments is None


@pytest.mark.parametrize(("name", "longest"), [(NAMES[0], 64), (NAMES[1], 62)])
def test_the_longest_sequence_is_the_networks(name, longest):
    backbone = tiny.backbone(name)
    ids, _ = backbone.codec.segments([("a" * 100,)], 90)
    assert len(ids[0]) == longest == backbone.codec.positions
    with torch.no_grad():
        backbone.model(input_ids=torch.tensor(ids))
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        backbone.model(input_ids=torch.tensor([[*ids[0], 5]]))
