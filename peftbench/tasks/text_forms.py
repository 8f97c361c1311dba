"""How rows of published text tasks become what is read and written: spans, entities, punctuation.

Formats: Raffel et al. (arXiv:1910.10683), as the code of T5 and of ATTEMPT (arXiv:2205.11961) has
them. A function takes one row of the table and returns rows of plain texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

Made = dict[str, Any]
"""Columns by name; ``answers`` holds a list, ``group`` says what is counted together."""
Make = Callable[[Mapping[str, Any]], list[Made]]

UNKNOWN_ANSWER = "<unk>"
HIGHLIGHT = re.compile(r"(\.|\?|!|\"|')\n@highlight\n")


def plain(row: Mapping[str, Any]) -> list[Made]:
    """Return the row as it is."""
    return [dict(row)]


def multirc(row: Mapping[str, Any]) -> list[Made]:
    """Clean a paragraph of its marks; the answers to one question are a group."""
    text = re.sub("<br>", " ", row["paragraph"])
    text = re.sub("<(/)?b>", "", text)
    index = row["idx"]
    group = (int(index["paragraph"]) << 32) + int(index["question"])
    return [{**row, "paragraph": text, "group": group}]


def multirc_asked(row: Mapping[str, Any]) -> list[Made]:
    """Join question and answer, too, for a network that reads segments."""
    return [{**made, "asked": f"{made['question']} {made['answer']}"} for made in multirc(row)]


def wsc(row: Mapping[str, Any]) -> list[Made]:
    """Mark the noun as ``* noun *`` and the pronoun as ``# pronoun #``, found by word index.

    As in T5's code, a span that is not at its index stays unmarked.
    """
    noun, pronoun = int(row["span1_index"]), int(row["span2_index"])
    text = _mark(row["text"], row["span1_text"], noun, "*")
    shifted = pronoun + 2 * int(noun < pronoun)
    return [{**row, "marked": _mark(text, row["span2_text"], shifted, "#")}]


def _mark(text: str, span: str, index: int, mark: str) -> str:
    pattern = rf"^((?:\S+\s){{{index}}})({re.escape(span)})"
    return re.sub(pattern, lambda found: f"{found[1]}{mark} {found[2]} {mark}", text)


def copa(row: Mapping[str, Any]) -> list[Made]:
    """Put the question in words and the choices together, for a network that reads segments."""
    asked = {"cause": "What was the cause?", "effect": "What was the effect?"}[row["question"]]
    choices = f"choice1: {row['choice1']} choice2: {row['choice2']}"
    return [{**row, "asked": f"{row['premise']} {asked}", "choices": choices}]


def wic(row: Mapping[str, Any]) -> list[Made]:
    """Put the word in front of the first sentence, for a network that reads segments."""
    return [{**row, "worded": f"{row['word']}: {row['sentence1']}"}]


def record(row: Mapping[str, Any]) -> list[Made]:
    """Clean a passage of its highlights and list its entities."""
    passage = HIGHLIGHT.sub(r"\1 ", row["passage"]).replace("\n@highlight\n", ". ")
    answers = list(row["answers"]) or [UNKNOWN_ANSWER]
    entities = row["entities"]
    if not isinstance(entities, str):
        entities = ", ".join(entities)
    return [{**row, "passage": passage, "entities": entities, "answers": answers}]


def per_answer(row: Made) -> list[Made]:
    """Return one row per answer, each with its own; for training (ReCoRD)."""
    return [{**row, "answers": [answer]} for answer in row["answers"]]


def question(row: Mapping[str, Any]) -> list[Made]:
    """Pad the punctuation of question, context and answers (SQuAD and MRQA)."""
    answers = row["answers"]
    found = answers["text"] if isinstance(answers, Mapping) else answers
    return [
        {
            "question": padded(row["question"]),
            "context": padded(row["context"]),
            "answers": [padded(answer) for answer in found] or [""],
        }
    ]


def padded(text: str) -> str:
    """Put spaces around all but letters, digits, marks, underscores and white space."""
    kept = "".join(
        c if c == "_" or c.isspace() or unicodedata.category(c)[0] in "LNM" else f" {c} "
        for c in text
    )
    return " ".join(kept.split())


def winogrande(row: Mapping[str, Any]) -> list[Made]:
    """Give the right option as the answer."""
    right = row["answer"]
    answers = [row[f"option{right}"]] if right in ("1", "2") else []
    choices = f"option1: {row['option1']} option2: {row['option2']}"
    return [{**row, "answers": answers, "choices": choices}]


def decimal(value: float) -> str:
    """Return a value with one decimal (STS-B)."""
    return f"{value:.1f}"


def fifth(value: float) -> str:
    """Return a value rounded to the nearest 0.2, with one decimal (STS-B in T5)."""
    return f"{round(value * 5) / 5:.1f}"


FORMS: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "plain": (plain, ()),
    "multirc_asked": (multirc_asked, ("question", "answer", "paragraph")),
    "wsc": (wsc, ("text", "span1_text", "span1_index", "span2_text", "span2_index")),
    "copa": (copa, ("premise", "choice1", "choice2", "question")),
    "wic": (wic, ("sentence1", "sentence2", "word")),
    "record": (record, ("query", "passage", "entities")),
    "question": (question, ("question", "context")),
    "winogrande": (winogrande, ("sentence", "option1", "option2")),
}
"""Every form by name, and the columns that it reads of what is asked; ``plain`` reads any."""
ABSENT: Mapping[str, Any] = {"answers": (), "answer": "", "idx": {"paragraph": 0, "question": 0}}
"""What a form reads beside them and a sample that nobody has answered lacks."""
