"""The words of captions as the official scores count them: Penn Treebank's, without Java.

COCO's evaluation runs Stanford's PTBTokenizer in lower case and drops punctuation. These rules give
the same words for all but a few captions in ten thousand; docs/data.md says how that was measured.
"""

from __future__ import annotations

import re

_ABBREVIATIONS = (
    "st ave rd blvd ft mr mrs ms dr jr sr mt etc inc co corp ltd vs prof capt sgt gen rev jan feb"
    " mar apr jun jul aug sep sept oct nov dec ky"
)
"""Words that keep their full stop, wherever they stand."""
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‘`´", "'"),
        **dict.fromkeys("–—", "\N{EM DASH}"),
        "…": "...",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
        "£": "#",
    }
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = re.compile(r"\.{3,}|-{2,}|[\"\N{EM DASH}]")
_NOT = re.compile(r"(?<=[^\W_])n['’]t(?![^\W_])")
_SHORT = re.compile(r"(?<=[^\W_])['’](s|m|d|ll|re|ve)(?![^\W_])")
_PAIRS = (
    (re.compile(r"\bcannot\b"), "can not"),
    (re.compile(r"\b(gon|wan)na\b"), r"\1 na"),
    (re.compile(r"\bgotta\b"), "got ta"),
    (re.compile(r"\blemme\b"), "lem me"),
)
_TOKEN = re.compile(
    rf"""
      n't(?!\w) | '(?:s|m|d|ll|re|ve)(?!\w)                 # what contractions cut off
    | [()\[\]{{}}]
    | (?:[^\W\d_]\.){{2,}}(?![^\W_])                        # p.m.
    | \b(?:{_ABBREVIATIONS.replace(" ", "|")})\.(?!\w)
    | \bno\.(?=\s*\d)                                      # no. 5
    | (?<!\w)[^\W\d_]\.(?=\s+\S)                          # w. and the like, not at the end
    | \#[^\W\d]\w*                                        # #home
    | (?:(?<!\S)-)?\d+(?:[.,:/-]\d+)*(?=[ap]m\b|(?!\w))    # 1,000; 5:30; -7; 5:54 before pm
    | [@\w]+(?:[-_/&.'’@]\w+)*(?:\.(?=[,:;]))?             # t-shirt, a/b, o'hare
    | [!?]{{2,}}                                           # of several marks none is dropped
    | [^\s\w]
    """,
    re.VERBOSE,
)
_PUNCTUATION = frozenset(("'", "’", ".", "?", "!", ",", ":", "-", ";", "..."))


def tokens(caption: str) -> list[str]:
    """Return the words of a caption; rules of Stanford's PTBTokenizer, then without punctuation.

    Brackets stay as ``-lrb-`` and ``-rrb-``, as they do in the official scores.
    """
    text = " ".join(caption.splitlines()).strip().lower().translate(_SIGNS)
    text = _DROPPED.sub(" ", text)
    text = _SHORT.sub(r" '\1", _NOT.sub(" n't", text))
    for pattern, pair in _PAIRS:
        text = pattern.sub(pair, text)
    found = (_BRACKETS.get(token, token) for token in _TOKEN.findall(text))
    return [token for token in found if token not in _PUNCTUATION]
