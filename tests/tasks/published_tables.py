"""Small tables in the real schemas of published text tasks: columns, class names, hidden labels."""

import datasets as ds

S, I32, F32, BOOL = ds.Value("string"), ds.Value("int32"), ds.Value("float32"), ds.Value("bool")
NLI2 = ("entailment", "not_entailment")
TRUE = ("False", "True")


def classes(*names):
    return ds.ClassLabel(names=list(names))


def glue(label, **columns):
    """Features of a GLUE configuration: texts, label, idx."""
    return {**columns, "label": label, "idx": I32}


PAIR = {"sentence1": S, "sentence2": S}
NLI = {"premise": S, "hypothesis": S}
SPANS = {"text": S, "span1_index": I32, "span2_index": I32, "span1_text": S, "span2_text": S}
INDEX = {"paragraph": I32, "question": I32, "answer": I32}
RECORD_INDEX = {"passage": I32, "query": I32}
MRQA = {"context": S, "question": S, "answers": ds.List(S), "key": S}
FEATURES = {
    "cola": glue(classes("unacceptable", "acceptable"), sentence=S),
    "sst2": glue(classes("negative", "positive"), sentence=S),
    "mrpc": glue(classes("not_equivalent", "equivalent"), **PAIR),
    "qqp": glue(classes("not_duplicate", "duplicate"), question1=S, question2=S),
    "stsb": glue(F32, **PAIR),
    "mnli": glue(classes("entailment", "neutral", "contradiction"), **NLI),
    "qnli": glue(classes(*NLI2), question=S, sentence=S),
    "rte": glue(classes(*NLI2), **PAIR),
    "wnli": glue(classes(*reversed(NLI2)), **PAIR),
    "boolq": glue(classes(*TRUE), question=S, passage=S),
    "cb": glue(classes("entailment", "contradiction", "neutral"), **NLI),
    "copa": glue(classes("choice1", "choice2"), premise=S, choice1=S, choice2=S, question=S),
    "multirc": {
        "paragraph": S, "question": S, "answer": S, "idx": INDEX, "label": classes(*TRUE),
    },
    "record": {
        "passage": S, "query": S, "entities": ds.List(S), "answers": ds.List(S),
        "idx": RECORD_INDEX,
    },
    "superglue_rte": glue(classes(*NLI2), **NLI),
    "wic": glue(classes(*TRUE), word=S, sentence1=S, sentence2=S, start1=I32, end1=I32),
    "wsc": glue(classes(*TRUE), **SPANS),
    "squad": {
        "id": S, "title": S, "context": S, "question": S,
        "answers": {"text": ds.List(S), "answer_start": ds.List(I32)},
    },
    "nq": MRQA, "hotpotqa": MRQA, "searchqa": MRQA, "newsqa": MRQA,
    "winogrande": {"sentence": S, "option1": S, "option2": S, "answer": S},
    "yelp": {"text": S, "label": classes("1", "2")},
    "scitail": {"sentence1": S, "sentence2": S, "gold_label": S, "annotator_labels": ds.List(S)},
    "paws": {"id": I32, **PAIR, "label": classes("0", "1")},
}  # fmt: skip
TEST_IS_LABELLED = ("yelp", "scitail", "paws")
FOLDERS = {"wsc": "wsc.fixed"}
"""Where the configuration is called otherwise than the task."""


def cell(name, kind, i, hidden):
    """Return the cell of a column in row ``i``."""
    if isinstance(kind, ds.ClassLabel):
        return -1 if hidden else i % kind.num_classes
    if name == "label":
        return -1.0 if hidden else (i % 26) / 5
    if isinstance(kind, dict):
        return {key: cell(key, inner, i, hidden) for key, inner in kind.items()}
    if name in ("answers", "text") and isinstance(kind, ds.List):
        return [] if hidden else [f"answer {i}", f"the answer, {i}"]
    if isinstance(kind, ds.List):
        return [i] if kind.feature == I32 else [f"Ann {i}", f"Bob {i}"]
    if kind == I32:
        grouped = {"paragraph": i // 3, "question": i // 3}
        return {"span1_index": 0, "span2_index": 3, **grouped}.get(name, i)
    said = {
        "text": f"Ann{i} saw that she won.",
        "span1_text": f"Ann{i}",
        "span2_text": "she",
        "question": ("cause", "effect")[i % 2],
        "answer": ("" if hidden else str(1 + i % 2)),
        "gold_label": ("entailment", "neutral")[i % 2],
    }
    return said.get(name, f"{name} {i}")


def table(task, split, count):
    """Return a table of one split."""
    features = FEATURES[task]
    hidden = split.startswith("test") and task not in TEST_IS_LABELLED
    shift = {"train": 0, "test": 20_000}.get(split, 10_000 + 500 * split.endswith("mismatched"))
    rows = {
        name: [cell(name, kind, shift + i, hidden) for i in range(count)]
        for name, kind in features.items()
    }
    return ds.Dataset.from_dict(rows, features=ds.Features(features))


def splits(task):
    """Return the names of the splits of a task."""
    if task == "mnli":
        both = ("matched", "mismatched")
        return ("train", *(f"{part}_{b}" for part in ("validation", "test") for b in both))
    if task == "yelp":
        return ("train", "test")
    return ("train", "validation") if "key" in FEATURES[task] else ("train", "validation", "test")


def write(root, task, train=40, others=10, kind="parquet"):
    """Write a task's tables below ``root``; return the folder."""
    folder = root / FOLDERS.get(task, task)
    folder.mkdir(parents=True)
    for split in splits(task):
        made = table(task, split, train if split == "train" else others)
        if kind == "parquet":
            made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        else:
            made.to_json(str(folder / f"{split}.jsonl"))
    return folder
