"""What each published text task is: where it lies, its columns, words, splits, metrics and counts.

Counts are those of the published tables; another count is recorded as a deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from . import text_forms as forms
from .text import Kind

Rule = Literal["small", "large", "mnli", "own"]
Pairs = tuple[tuple[str, str], ...]
GLUE = "nyu-mll/glue"
SUPERGLUE = "hgissbkh/super_glue"
BOOL = ("False", "True")
NLI2 = ("entailment", "not_entailment")
ACCURACY = ("accuracy",)
ANSWERS = ("token_f1", "exact_match")


@dataclass(frozen=True)
class TextRow:
    """One task.

    Attributes:
        name: ours.
        path: id on the hub.
        subset: its configuration there.
        segments: columns that a network reads which classifies.
        source: name in the text and column, in the order of PEMT.
        t5: the same in the order of T5; None: as ``source``; empty: T5 has none.
        words: label words in the order of the classes; the labels' names, too.
        metrics: the first one stands for the task.
        rule: of the splits of the ATTEMPT line.
        counts: published numbers of rows by split of the table.
        kind: what is asked for.
        label: column of the class or value.
        make: row of the table to rows of texts.
        prefix: name of the task in T5's templates.
        prefixed: which templates have it.
        expand: whether training has one row per answer.
        tested: split that results are reported on.
        cap: of training samples by default.
        longest: limits in tokens of source and target.
        values: what the label column holds for each class where that is not the word.

    """

    name: str
    path: str
    subset: str | None
    segments: tuple[str, ...]
    source: Pairs
    t5: Pairs | None
    words: tuple[str, ...]
    metrics: tuple[str, ...]
    rule: Rule
    counts: Mapping[str, int]
    description: str
    kind: Kind = "classification"
    label: str = "label"
    make: forms.Make = forms.plain
    prefix: str = ""
    prefixed: Literal["t5", "all", "none"] = "t5"
    expand: bool = False
    tested: tuple[str, ...] = ("validation",)
    cap: int | None = None
    longest: tuple[int, int] = (256, 8)
    values: tuple[str, ...] = ()

    @property
    def columns(self) -> set[str]:
        """What a row of texts must hold."""
        listed = {column for _, column in (*self.source, *(self.t5 or ()))}
        answers = {"answers"} if self.kind == "answers" else set()
        return listed | set(self.segments) | answers

    @property
    def task(self) -> str:
        """Name in T5's templates."""
        return self.prefix or self.name


def same(*names: str) -> Pairs:
    """Return fields that are called as their columns."""
    return tuple((name, name) for name in names)


def counted(train: int, validation: int, **more: int) -> dict[str, int]:
    """Return counts by split."""
    return {"train": train, "validation": validation, **more}


ONE, TWO = same("sentence"), same("sentence1", "sentence2")
INFER = same("premise", "hypothesis")
_GLUE = (
    TextRow(
        "cola", GLUE, "cola", ("sentence",), ONE, None, ("unacceptable", "acceptable"),
        ("matthews", "accuracy"), "small", counted(8551, 1043),
        "Decide whether the sentence is acceptable English.",
    ),
    TextRow(
        "sst2", GLUE, "sst2", ("sentence",), ONE, None, ("negative", "positive"),
        ACCURACY, "large", counted(67_349, 872),
        "Decide whether the sentence from a film review is negative or positive.",
    ),
    TextRow(
        "mrpc", GLUE, "mrpc", ("sentence1", "sentence2"), TWO, None,
        ("not_equivalent", "equivalent"), ("accuracy", "f1"), "small", counted(3668, 408),
        "Decide whether the two sentences say the same.",
    ),
    TextRow(
        "qqp", GLUE, "qqp", ("question1", "question2"), same("question1", "question2"), None,
        ("not_duplicate", "duplicate"), ("accuracy", "f1"), "large", counted(363_846, 40_430),
        "Decide whether the two questions ask the same.",
    ),
    TextRow(
        "stsb", GLUE, "stsb", ("sentence1", "sentence2"), TWO, None, (),
        ("pearson", "spearman"), "small", counted(5749, 1500),
        "Say from 0 to 5 how similar the two sentences are.", kind="regression",
    ),
    TextRow(
        "mnli", GLUE, "mnli", ("premise", "hypothesis"), INFER,
        same("hypothesis", "premise"), ("entailment", "neutral", "contradiction"),
        ACCURACY, "mnli",
        {"train": 392_702, "validation_matched": 9815, "validation_mismatched": 9832},
        "Decide whether the premise entails the hypothesis, is neutral to it or contradicts it.",
        tested=("validation_matched", "validation_mismatched"),
    ),
    TextRow(
        "qnli", GLUE, "qnli", ("question", "sentence"), same("question", "sentence"), None,
        NLI2, ACCURACY, "large", counted(104_743, 5463),
        "Decide whether the sentence holds the answer to the question.",
    ),
    TextRow(
        "rte", GLUE, "rte", ("sentence1", "sentence2"), TWO, None, NLI2, ACCURACY, "small",
        counted(2490, 277), "Decide whether the first sentence entails the second.",
    ),
    TextRow(
        "wnli", GLUE, "wnli", ("sentence1", "sentence2"), TWO, None,
        ("not_entailment", "entailment"), ACCURACY, "small", counted(635, 71),
        "Decide whether the first sentence entails the second, where a pronoun is filled in.",
    ),
)  # fmt: skip
_SUPERGLUE = (
    TextRow(
        "boolq", SUPERGLUE, "boolq", ("question", "passage"), same("question", "passage"),
        same("passage", "question"), BOOL, ACCURACY, "small", counted(9427, 3270),
        "Answer the question on the passage with true or false.",
    ),
    TextRow(
        "cb", SUPERGLUE, "cb", ("premise", "hypothesis"), INFER, same("hypothesis", "premise"),
        ("entailment", "contradiction", "neutral"), ("accuracy", "macro_f1"), "small",
        counted(250, 56),
        "Decide whether the premise entails the hypothesis, contradicts it or is neutral to it.",
    ),
    TextRow(
        "copa", SUPERGLUE, "copa", ("asked", "choices"), same("premise", "choice1", "choice2"),
        same("choice1", "choice2", "premise", "question"), ("choice1", "choice2"), ACCURACY,
        "small", counted(400, 100), "Choose the more likely cause or effect of the premise.",
        make=forms.copa,
    ),
    TextRow(
        "multirc", SUPERGLUE, "multirc", ("paragraph", "asked"),
        same("question", "answer", "paragraph"), None, BOOL, ("f1", "group_match"), "small",
        counted(27_243, 4848),
        "Decide whether the answer to the question on the paragraph is right.",
        make=forms.multirc_asked,
        longest=(348, 8),
    ),
    TextRow(
        "record", SUPERGLUE, "record", (), same("query", "entities", "passage"), None, (), ANSWERS,
        "large", counted(100_730, 10_000),
        "Name the entity of the passage that the placeholder of the query stands for.",
        kind="answers", make=forms.record, prefixed="all", expand=True, longest=(512, 128),
    ),
    TextRow(
        "superglue_rte", SUPERGLUE, "rte", ("premise", "hypothesis"), INFER,
        same("hypothesis", "premise"), NLI2, ACCURACY, "small", counted(2490, 277),
        "Decide whether the premise entails the hypothesis.", prefix="rte",
    ),
    TextRow(
        "wic", SUPERGLUE, "wic", ("worded", "sentence2"), same("sentence1", "sentence2", "word"),
        None, BOOL, ACCURACY, "small", counted(5428, 638),
        "Decide whether the word means the same in both sentences.", make=forms.wic,
    ),
    TextRow(
        "wsc", SUPERGLUE, "wsc.fixed", ("marked",), (("text", "marked"),), None, BOOL, ACCURACY,
        "small", counted(554, 104), "Decide whether the marked pronoun stands for the marked noun.",
        make=forms.wsc,
    ),
)  # fmt: skip


def _asked(name: str, path: str, counts: Mapping[str, int]) -> TextRow:
    return TextRow(
        name, path, None, (), same("question", "context"), None, (), ANSWERS, "large", counts,
        "Answer the question with words of the context.", kind="answers", make=forms.question,
        prefixed="none", longest=(512, 128),
    )  # fmt: skip


_OTHERS = (
    _asked("squad", "rajpurkar/squad", counted(87_599, 10_570)),
    _asked("nq", "lucadiliello/naturalquestionsshortqa", counted(104_071, 12_836)),
    _asked("hotpotqa", "lucadiliello/hotpotqa", counted(72_928, 5901)),
    _asked("searchqa", "lucadiliello/searchqa", counted(117_384, 16_980)),
    _asked("newsqa", "lucadiliello/newsqa", counted(74_160, 4212)),
    TextRow(
        "winogrande", "allenai/winogrande", "winogrande_xl", ("sentence", "choices"),
        same("sentence", "option1", "option2"), (), ("0", "1"), ("exact_match",), "large",
        counted(40_398, 1267), "Name the option that fits the blank of the sentence.",
        kind="answers", label="answer", make=forms.winogrande, longest=(256, 32),
        values=("1", "2"),
    ),
    TextRow(
        "yelp", "fancyzhx/yelp_polarity", None, ("text",), (("sentence", "text"),), (), ("0", "1"),
        ACCURACY, "large", {"train": 560_000, "test": 38_000},
        "Decide whether the review is negative (0) or positive (1).", tested=("test",), cap=100_000,
    ),
    TextRow(
        "scitail", "allenai/scitail", "snli_format", ("sentence1", "sentence2"),
        (("premise", "sentence1"), ("hypothesis", "sentence2")), (), ("entailment", "neutral"),
        ACCURACY, "small", counted(23_596, 1304, test=2126),
        "Decide whether the premise entails the hypothesis or is neutral to it.",
        label="gold_label", tested=("test",),
    ),
    TextRow(
        "paws", "google-research-datasets/paws", "labeled_final", ("sentence1", "sentence2"), TWO,
        (), ("0", "1"), ACCURACY, "own", counted(49_401, 8000, test=8000),
        "Decide whether the two sentences say the same (1) or not (0).", tested=("test",),
    ),
)  # fmt: skip
TABLE: Mapping[str, TextRow] = {row.name: row for row in (*_GLUE, *_SUPERGLUE, *_OTHERS)}
"""All tasks by name."""

GLUE_8 = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
SUPERGLUE_8 = tuple(row.name for row in _SUPERGLUE)
PEMT_17: Mapping[str, tuple[str, ...]] = {
    "GLUE-4": ("stsb", "mrpc", "rte", "cola"),
    "SuperGLUE-5": ("multirc", "boolq", "wic", "wsc", "cb"),
    "MRQA-4": ("nq", "hotpotqa", "searchqa", "newsqa"),
    "Others-4": ("winogrande", "yelp", "scitail", "paws"),
}
"""The target tasks of PEMT in four groups."""
PEMT_SOURCES = ("mnli", "qnli", "qqp", "sst2", "squad", "record")
