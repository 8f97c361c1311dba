"""Text networks by settings alone: shapes by configuration, refusals, local folders."""

import json

import pytest
import torch
import yaml
from tiny import ROOT
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from peftbench.backbones.load_text import HubBert, HubLlama, HubT5
from peftbench.backbones.tiny_codec import tiny_codec
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.spec import build

# Counts that the networks' own model cards and papers give (BERT's and RoBERTa's less the pooler).
COUNTS = {
    "bert_base": 109_482_240 - 590_592,
    "roberta_base": 124_645_632 - 590_592,
    "roberta_large": 355_359_744 - 1_049_600,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "flan_t5_base": 247_577_856,
    "llama_7b": 6_738_415_616,
    "llama3_8b": 8_030_261_248,
    "llama3_1b": 1_235_814_400,
    "smollm2_360m": 361_821_120,
    "smollm2_1.7b": 1_711_376_384,
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_networks_shape_needs_no_download(name):
    text = (ROOT / "configs" / "backbone" / f"{name}.yaml").read_text()
    backbone = build({**yaml.safe_load(text), "init": "meta"}, "backbone").load()
    assert backbone.parameter_count() == COUNTS[name]
    assert all(p.is_meta for p in backbone.model.parameters())
    assert f"{COUNTS[name]:,} parameters" in text
    assert backbone.anatomy.family == build(yaml.safe_load(text), "backbone").family


def t5_folder(folder, tied):
    """Write a T5 1.0 (tied) or 1.1 as published ones are; return its tensors."""
    config = T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="relu" if tied else "gated-gelu", tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    state = {k: v.clone() for k, v in model.state_dict().items() if "embed_tokens" not in k}
    if tied:
        del state["lm_head.weight"]
    else:
        state["lm_head.weight"] = torch.randn(64, 16)
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(state, str(folder / "model.safetensors"), {"format": "pt"})
    stored = {**config.to_dict(), "tie_word_embeddings": tied}
    stored.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(stored))
    tiny_codec("t5", "seq2seq", 64, None).tokenizer.save_pretrained(folder)
    return state


@pytest.mark.parametrize("tied", [True, False])
def test_both_kinds_of_t5_head_are_loaded_right(tmp_path, tied):
    state = t5_folder(tmp_path / "t5", tied)
    spec = HubT5(str(tmp_path / "t5"))
    model = spec.load().model.train(False)
    head = state["shared.weight"] if tied else state["lm_head.weight"]
    assert torch.equal(model.lm_head.weight, head)
    assert torch.equal(model.shared.weight, state["shared.weight"])
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        out = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
        hidden = out.decoder_hidden_states[-1]
    wanted = (hidden * 16**-0.5 if tied else hidden) @ head.T
    torch.testing.assert_close(out.logits, wanted)
    count = sum(t.numel() for t in state.values())
    for init in ("random", "meta"):
        made = HubT5(str(tmp_path / "t5"), init=init).load()
        assert made.parameter_count() == count
        assert (made.codec is None) == (init == "meta")
        if init == "random":
            made.model.tie_weights()
            same = torch.equal(made.model.lm_head.weight, made.model.shared.weight)
            assert same == tied


@pytest.fixture
def bert(tmp_path):
    """A small BERT with a language-model head's tensors beside it, as many are published."""
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path / "bert")
    tiny_codec("bert", "encoder", 64, 16).tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_settings_reach_the_network(bert):
    backbone = HubBert(str(bert), dtype="bf16", attention="eager", dropout=0.0).load()
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert backbone.model.config._attn_implementation == "eager"
    assert {m.p for m in backbone.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    assert backbone.name == "bert" and backbone.source == str(bert)
    assert HubBert(str(bert), dtype="auto").load().model.dtype == torch.float32
    assert build(backbone.spec, "backbone").load().sha256 == backbone.sha256


def test_random_weights_repeat_and_leave_the_random_stream_alone(bert):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = HubBert(str(bert), init="random").load()
    assert torch.equal(torch.rand(3), expected)
    assert first.sha256 == HubBert(str(bert), init="random").load().sha256
    assert first.sha256 != HubBert(str(bert), init="random", seed=1).load().sha256


def test_a_folder_that_is_not_whole_is_refused(bert):
    from safetensors.torch import load_file, save_file

    weights = bert / "model.safetensors"
    tensors, content = load_file(weights), weights.read_bytes()
    lacking = {k: v for k, v in tensors.items() if k != "encoder.layer.1.output.dense.weight"}
    save_file(lacking, weights, {"format": "pt"})
    with pytest.raises(CorruptAssetError, match=r"bert lacks encoder\.layer\.1\.output\.dense"):
        HubBert(str(bert)).load()
    extra = {**tensors, "encoder.layer.2.output.dense.weight": torch.zeros(16, 32)}
    save_file(extra, weights, {"format": "pt"})
    with pytest.raises(CorruptAssetError, match=r"no place for: encoder\.layer\.2"):
        HubBert(str(bert)).load()
    other = {**tensors, "encoder.layer.1.output.dense.weight": torch.zeros(3, 3)}
    save_file(other, weights, {"format": "pt"})
    with pytest.raises(CorruptAssetError, match=r"do not fit its config\.json"):
        HubBert(str(bert)).load()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptAssetError, match=r"a file of bert is damaged"):
        HubBert(str(bert)).load()
    weights.unlink()
    with pytest.raises(MissingAssetError, match=r"wanted: config\.json, model\.safetensors"):
        HubBert(str(bert)).load()
    (bert / "config.json").write_text("{")
    with pytest.raises(CorruptAssetError, match=r"a file of bert is damaged"):
        HubBert(str(bert)).load()


def test_another_family_or_shape_is_refused(bert):
    with pytest.raises(ConfigError, match=r"'bert' network, and HubLlama.*backbone=hub_bert\?"):
        HubLlama(str(bert)).load()
    shape = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 3}
    with pytest.raises(ConfigError, match=r"bert has other numbers: num_hidden_layers: 2"):
        HubBert(str(bert), shape=shape).load()
    assert HubBert(str(bert), shape={**shape, "num_hidden_layers": 2}).load().name == "bert"
    stored = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps({**stored, "model_type": "tomorrow"}))
    with pytest.raises(ConfigError, match="transformers cannot load bert"):
        HubBert(str(bert)).load()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dropout": 1.0}, r"backbone\.dropout: 1\.0"),
        ({"quantise": "nf4", "init": "random"}, "needs backbone.init=pretrained"),
        ({"shape": {"hidden_size": 3}}, r"backbone\.shape\.model_type.*bert, roberta"),
        ({"shape": {"model_type": "t5"}}, r"backbone\.shape\.model_type"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        HubBert("owner/name", **settings)


def test_names_that_mean_nothing_are_refused(bert):
    with pytest.raises(ConfigError, match="'roberta' is no folder here and no repository"):
        HubBert("roberta").load()
    with pytest.raises(ConfigError, match=r"backbone\.revision"):
        HubBert(str(bert), revision="v1").load()


def test_few_bits_need_a_library_and_a_gpu(bert, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs bitsandbytes: pip install 'peftbench\[quant\]'"):
        HubBert(str(bert), quantise="int8").load()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=r"nf4 needs a GPU.*backbone\.quantise=null"):
        HubBert(str(bert), quantise="nf4").load()
