"""Adapters in the lm-evaluation-harness: what fits, and its figures against our own arithmetic."""

import importlib.util
import json
import sys

import pytest
import test_predict_text as texts
import tiny
import torch

import peftbench
from peftbench.errors import ConfigError, IncompatibleError, MissingAssetError
from peftbench.interop import harness
from peftbench.train.artefact import load_adapter

ROWS = [
    {"q": "the sky is", "a": "blue", "b": "green", "gold": 0},
    {"q": "two and two", "a": "five", "b": "four", "gold": 1},
    {"q": "a dog", "a": "runs", "b": "is a stone", "gold": 0},
    {"q": "no", "a": "yes", "b": "no", "gold": 1},
]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{[a, b]}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
"""


@pytest.fixture
def script(monkeypatch, capsys):
    """The script's main function in this process."""
    path = tiny.ROOT / "scripts" / "harness.py"
    spec = importlib.util.spec_from_file_location("harness_script", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "harness_script", module)
    spec.loader.exec_module(module)

    def call(*words):
        code = module.main([str(w) for w in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def moved(name, use, method="lora"):
    base = tiny.fresh(tiny.USES[use][0])
    model = peftbench.attach(tiny.method(method), base, classes=tiny.USES[use][1])
    tiny.perturb(model, 0.3)
    return model.eval()


def test_without_the_package_the_command_says_how_to_get_it(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    texts.store(tmp_path, "llama", texts.instruct("alpaca"))
    code, out, err = script(f"adapter={tmp_path}", "tasks=[mmlu]")
    assert (code, out) == (2, "")
    assert "pip install 'peftbench[lm_eval]'" in err
    with pytest.raises(ConfigError, match="lm_eval"):
        harness.language_model(moved("a", "llama"))


@pytest.mark.parametrize("use", ["bert", "llama_classifier"])
def test_what_does_not_write_is_refused(use):
    with pytest.raises(IncompatibleError, match="the harness asks language models"):
        harness.language_model(moved("a", use))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tasks=[]"], "tasks: name at least one"),
        (["tasks=[a]", "limit=0"], "limit: 0 is too small"),
        (["task=[a]"], "Did you mean 'tasks'?"),
    ],
)
def test_mistakes_are_told(words, text, script):
    code, out, err = script("adapter=nowhere", *words)
    assert (code, out) == (2, "")
    assert text in err


def test_padding_that_would_change_a_text_is_found(monkeypatch):
    model = moved("a", "llama", "prompt_tuning")
    assert harness.padding_is_harmless(model)
    inner = model.base.model.layers[0].register_forward_hook(
        lambda module, given, out: out + out.mean(1, keepdim=True)
    )
    assert not harness.padding_is_harmless(model)
    with pytest.raises(ConfigError, match="batch=1"):
        harness.language_model(model, batch=2)
    inner.remove()


def local_task(folder):
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "tiny.yaml").write_text(TASK.format(rows=rows))
    return folder / "tasks"


def by_hand(model):
    """Return the share of rows whose right choice is more probable, by plain forward passes."""
    codec, right = model.backbone.codec, 0
    for row in ROWS:
        sums = []
        for choice in (row["a"], row["b"]):
            if codec.layout == "seq2seq":
                (read,), (said,) = codec.ids([row["q"]], special=True), codec.ids([f" {choice}"])
                inputs = {
                    "input_ids": torch.tensor([read]),
                    "attention_mask": torch.ones(1, len(read), dtype=torch.int64),
                    "decoder_input_ids": torch.tensor([[0, *said[:-1]]]),
                }
                logits = model(inputs).logits[0]
            else:
                (read,) = codec.ids([row["q"]], special=True)
                (whole,) = codec.ids([f"{row['q']} {choice}"], special=True)
                said = whole[len(read) :]
                ids = torch.tensor([whole[:-1]])
                logits = model({"input_ids": ids}).logits[0, -len(said) :]
            chances = logits.log_softmax(-1)
            sums.append(sum(chances[i, t].item() for i, t in enumerate(said)))
        right += int(sums[row["gold"]] == max(sums))
    return right / len(ROWS)


@pytest.mark.harness
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix", "full", "sift"])
def test_its_accuracy_is_what_forward_passes_give(method, script, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    stored, _ = texts.store(tmp_path / "run", "llama", texts.instruct("alpaca"), method)
    folder = local_task(tmp_path)
    words = (f"adapter={tmp_path / 'run'}", "tasks=tiny_choice", f"include={folder}")
    code, out, err = script(*words, "batch=2")
    assert code == 0, err
    stored.release()
    with torch.no_grad():
        wanted = by_hand(load_adapter(tmp_path / "run"))
    found = json.loads((tmp_path / "run" / "lm_eval" / "tiny_choice.json").read_text())
    assert found["results"]["tiny_choice"]["acc,none"] == wanted
    assert f"acc {wanted:.4f}" in out
    assert {"lm_eval", "torch", "transformers"} <= set(found["packages"])
    code, _, err = script(*words[:1], "tasks=[tiny_choise]", *words[2:])
    assert code == 2 and "Did you mean 'tiny_choice'?" in err


@pytest.mark.harness
def test_each_choice_has_the_likelihood_of_a_forward_pass(tmp_path):
    from lm_eval.api.instance import Instance

    for use in ("llama", "t5"):
        model = moved("a", use, "prompt_tuning")
        codec, lm = model.backbone.codec, None
        before = {n: t.clone() for n, t in model.tensors().items()}
        lm = harness.language_model(model, batch=2)
        asked = [Instance("loglikelihood", {}, (r["q"], f" {r['b']}"), 0) for r in ROWS]
        found = [value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)]
        for row, value in zip(ROWS, found, strict=True):
            read = lm.tok_encode(row["q"])
            said = lm.tok_encode(row["q"] + " " + row["b"])[len(read) :]
            inputs = {"input_ids": torch.tensor([[*read, *said][:-1]])}
            if codec.layout == "seq2seq":
                said = codec.ids([" " + row["b"]])[0]
                read = codec.ids([row["q"]], special=True)[0]
                inputs = {
                    "input_ids": torch.tensor([read]),
                    "attention_mask": torch.ones(1, len(read), dtype=torch.int64),
                    "decoder_input_ids": torch.tensor([[0, *said[:-1]]]),
                }
            with torch.no_grad():
                chances = model(inputs).logits[0, -len(said) :].log_softmax(-1)
            wanted = sum(chances[i, t].item() for i, t in enumerate(said))
            assert value == pytest.approx(wanted, rel=1e-4), (use, row)
        assert all(torch.equal(t, before[n]) for n, t in model.tensors().items())


@pytest.mark.harness
def test_data_that_is_not_there_is_told(tmp_path, monkeypatch):
    folder = local_task(tmp_path)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(MissingAssetError, match=r"include=FOLDER"):
        harness.evaluate(moved("a", "llama"), ["tiny_choice"], str(folder))
