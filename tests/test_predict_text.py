"""The prediction command on texts: the template of training, heads and answers, every mistake."""

import json

import pytest
import tiny
import torch

import peftbench
from peftbench import predict
from peftbench.tasks.alpaca import instructions
from peftbench.tasks.text import Passages, TextTask
from peftbench.tasks.wording import INSTRUCTION, TextUse, Wording
from peftbench.train.artefact import save_adapter
from peftbench.train.reader import Reader, Writing

PAIRS = Wording(
    ("premise", "hypothesis"),
    source=(("premise", "premise"), ("hypothesis", "hypothesis")),
    prefix="nli",
    segments=("premise", "hypothesis"),
)
ONE = Wording(("sentence",), source=(("sentence", "sentence"),), segments=("sentence",))
LABELS = ("entailment", "neutral", "contradiction")
PREMISE, HYPOTHESIS = "a dog runs", "it moves"


def part(wording, first=0):
    """Return one sample as a data set makes it."""
    pair = (PREMISE, HYPOTHESIS)[: len(wording.fields)]
    source = " ".join(f"{n}: {t}" for n, t in zip(wording.fields, pair, strict=True))
    text = f"{wording.prefix} {source}".strip()
    return Passages(torch.tensor([first]), [pair], [text], ["neutral"], torch.tensor([1]))


def task(wording=PAIRS, **changes):
    splits = {n: part(wording, i) for i, n in enumerate(("train", "val", "test"))}
    counts = {name: {"count": 1} for name in splits}
    given = {
        "name": "nli",
        "kind": "classification",
        "splits": splits,
        "labels": LABELS,
        "words": LABELS,
        "metrics": ("accuracy",),
        "description": "does it follow?",
        "longest_source": 100,
        "longest_target": 6,
        "manifest": {"splits": counts},
        "wording": wording,
    }
    return TextTask(**{**given, **changes})


def instruct(style):
    """Return a task of instructions; its only sample has an input."""
    splits = {
        n: instructions([i], [("say {it}", "hello")], [["hello"]], style)
        for i, n in enumerate(("train", "val", "test"))
    }
    made = {"splits": splits, "kind": "answers", "labels": (), "words": (), "style": style}
    return task(INSTRUCTION, metrics=("loss",), longest_source=110, **made)


def store(folder, use, made, method="lora"):
    """Store an adapter of a task with every tensor moved; return it and the bound task."""
    base = tiny.fresh(tiny.USES[use][0])
    digest, bound = base.sha256, made.bind(base)
    model = peftbench.attach(tiny.method(method), base, classes=bound.head)
    tiny.perturb(model, 0.1)
    labels = bound.labels if bound.head else None
    text = TextUse.of(made, base.codec)
    save_adapter(folder / "adapter", model, digest, labels, made.name, text)
    return model.eval(), bound


def call(capsys, *words):
    code = predict.main([str(w) for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FIELDS = (f"fields.premise={PREMISE}", f"fields.hypothesis={HYPOTHESIS}")


@pytest.mark.parametrize("use", ["bert", "roberta", "llama_classifier", "t5_classifier"])
def test_a_head_says_what_it_says_in_training(use, tmp_path, capsys):
    form = "classification" if "_" in use else "auto"
    model, bound = store(tmp_path, use, task(form=form))
    inputs = bound.split("train").take(torch.tensor([0])).inputs
    with torch.no_grad():
        chances = model.method.scores(model(inputs)).softmax(-1)[0]
    code, out, err = call(capsys, f"adapter={tmp_path}", *FIELDS, "format=json", "top=2")
    assert (code, err) == (0, "")
    (answer,) = json.loads(out)
    assert answer["sample"] == {"premise": PREMISE, "hypothesis": HYPOTHESIS}
    order = chances.argsort(descending=True).tolist()[:2]
    found = [(p["label"], p["probability"]) for p in answer["predictions"]]
    assert found == [(LABELS[i], pytest.approx(chances[i].item(), abs=1e-6)) for i in order]
    _, out, _ = call(capsys, f"adapter={tmp_path}", *FIELDS, "top=1")
    assert out == f"{LABELS[order[0]]} {chances[order[0]].item():.1%}\n"


def wanted_answer(model, bound, longest=6, **how):
    prompts = bound.split("train").encoded.prompts(torch.tensor([0]))
    codec = bound.codec
    return codec.answer(model.write(prompts, codec.end, codec.pad, longest, **how)[0].tolist())


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
@pytest.mark.parametrize("use", ["t5", "llama"])
def test_an_answer_is_what_training_would_score(use, method, tmp_path, capsys):
    model, bound = store(tmp_path, use, task(), method)
    words = (f"adapter={tmp_path}", *FIELDS, "format=json")
    (answer,) = json.loads(call(capsys, *words)[1])
    assert answer["answer"] == wanted_answer(model, bound)
    assert answer["label"] == (answer["answer"] if answer["answer"] in LABELS else None)
    (answer,) = json.loads(call(capsys, *words, "longest=9", "beams=3")[1])
    assert answer["answer"] == wanted_answer(model, bound, 9, num_beams=3)


def test_a_written_word_is_the_class_it_stands_for(tmp_path, capsys, monkeypatch):
    store(tmp_path, "t5", task(words=("yes", "maybe", "no")))
    monkeypatch.setattr(Reader, "write", lambda self, samples, how: ["maybe"] * len(samples))
    _, out, _ = call(capsys, f"adapter={tmp_path}", *FIELDS, "format=json")
    assert json.loads(out)[0]["label"] == "neutral"


def test_draws_repeat_with_their_seed_and_touch_no_other_stream(tmp_path):
    store(tmp_path, "llama", task())
    reader = Reader.load(tmp_path)
    sample = [{"premise": PREMISE, "hypothesis": HYPOTHESIS}] * 2
    before = torch.get_rng_state()
    first, again, other = (
        reader.write(sample, Writing(longest=12, sample=True, temperature=2.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("style", ["alpaca", "chat"])
def test_instructions_are_put_into_the_template_of_training(style, tmp_path, capsys):
    model, bound = store(tmp_path, "llama", instruct(style))
    words = ("instruction=say {it}", "context=hello", "longest=6")
    code, out, err = call(capsys, f"adapter={tmp_path}", *words)
    assert (code, err) == (0, "")
    assert out == wanted_answer(model, bound) + "\n"
    use = Reader.load(tmp_path).use
    texts = [use.passages([s]).sources[0] for s in ({"instruction": "a", "input": ""},)]
    assert ("Input" in texts[0]) is False  # no input, no place for one
    code, out, _ = call(capsys, f"adapter={tmp_path}", "text=say {it}", "format=json")
    assert code == 0 and json.loads(out)[0]["sample"] == {"instruction": "say {it}"}


def test_files_of_texts_and_of_samples(tmp_path, capsys):
    store(tmp_path, "bert", task(ONE))
    (tmp_path / "a.txt").write_text("good film\n\nbad film\n")
    code, out, _ = call(capsys, f"adapter={tmp_path}", f"input={tmp_path / 'a.txt'}", "format=json")
    found = json.loads(out)
    assert code == 0 and [a["sample"]["sentence"] for a in found] == ["good film", "bad film"]
    rows = [{"sentence": s["sample"]["sentence"], "label": 1, "idx": 0} for s in found]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = call(capsys, f"adapter={tmp_path}", f"input={tmp_path / 'b.jsonl'}")
    assert code == 0 and [line[:3] for line in out.splitlines()] == ["1: ", "2: "]
    best = found[0]["predictions"][0]
    assert out.startswith(f"1: {best['label']} {best['probability']:.1%}  ")


def test_a_value(tmp_path, capsys):
    made = task(kind="regression", labels=(), words=(), metrics=("pearson",))
    model, bound = store(tmp_path, "bert", made)
    inputs = bound.split("train").take(torch.tensor([0])).inputs
    with torch.no_grad():
        value = model(inputs).logits[0, 0].item()
    (answer,) = json.loads(call(capsys, f"adapter={tmp_path}", *FIELDS, "format=json")[1])
    assert answer["value"] == pytest.approx(value, abs=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    store(folder / "PAIR", "bert", task())
    store(folder / "T5", "t5", task(ONE))
    store(folder / "TOLD", "llama", instruct("alpaca"))
    old = task()
    old.wording = None
    store(folder / "OLD", "bert", old)
    (folder / "bad.jsonl").write_text('{"premise": "a", "hypotheses": "b"}\n')
    (folder / "no.jsonl").write_text("premise\n")
    (folder / "list.jsonl").write_text("[1]\n")
    (folder / "none.jsonl").write_text('{"premise": null, "hypothesis": "b"}\n')
    (folder / "empty.txt").write_text("\n")
    (folder / "a.txt").write_text("a\n")
    (folder / "a.png").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["PAIR", "text=a"], "text: task 'nli' needs several fields: fields.premise=\"...\""),
        (["PAIR", "fields.premise=a"], "there is no field 'hypothesis'"),
        (["PAIR", "fields.premise=a", "fields.hypotesis=b"], "Did you mean 'hypothesis'?"),
        (["PAIR", "fields.premise=a", "fields.premise=b"], "fields.premise: given twice"),
        (["PAIR", "fields=a"], "fields: expected a mapping"),
        (["PAIR", "instruction=a"], "unknown field of task 'nli' 'instruction'"),
        (
            ["PAIR", "input=bad.jsonl"],
            "bad.jsonl, line 1: there is no field 'hypothesis'. Is it 'hypo",
        ),
        (["PAIR", "input=no.jsonl"], "line 1: this is not JSON"),
        (["PAIR", "input=list.jsonl"], "line 1: expected an object with the fields premise"),
        (["PAIR", "input=none.jsonl"], "field 'premise': expected a text, got None"),
        (["PAIR", "input=empty.txt"], "holds no text"),
        (["PAIR", "input=a.txt"], "needs several fields"),
        (["PAIR", "input=a.png"], "this adapter reads text"),
        (["PAIR", "input=b.txt"], "there is no file"),
        (["PAIR", *FIELDS, "longest=3"], "longest: this adapter chooses by a head"),
        (["T5", "text=a", "temperature=2.0"], "temperature: tokens are drawn with sample=true"),
        (["T5", "text=a", "sample=true", "beams=2"], "beams: not together with sample=true"),
        (["T5", "text=a", "longest=0"], "longest: 0 is too small"),
        (["T5", "text=a", "top_p=2.0", "sample=true"], "top_p: expected above 0"),
        (["TOLD", "context=a"], "there is no field 'instruction'"),
        (["OLD", "text=a"], "there is no part 'text'"),
    ],
)
def test_mistakes_are_told(words, text, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    code, out, err = call(capsys, f"adapter={words[0]}", *words[1:])
    assert (code, out) == (2, "")
    assert text in err
    assert "Traceback" not in err


def test_an_old_adapter_still_loads_in_a_program(runs):
    model = peftbench.load(runs / "OLD")
    assert model({"input_ids": torch.tensor([[2, 7, 3]])}).logits.shape == (1, 3)
    assert "text" not in json.loads((runs / "OLD" / "adapter" / "adapter.json").read_text())


def test_what_is_stored_reads_back():
    use = TextUse.of(task(), tiny.backbone("t5_tiny_random").codec)
    assert use.form == "text_to_text"
    assert TextUse.read(json.loads(json.dumps(use.stored()))) == use
