"""Every method on every use of every family; which pairs are refused, and by what reason."""

import tiny

from peftbench.methods import Method

# BERT and RoBERTa share a family; a use is a network with the head it is used with
FAMILIES = {
    "vit": "vit",
    "bert": "bert",
    "roberta": "bert",
    "t5": "t5",
    "t5_classifier": "t5",
    "llama": "llama",
    "llama_classifier": "llama",
    "captioner": "llama",
}


def refusal(made, use):
    """Return the reason why a method is refused, from what it declares; None if it is not."""
    if FAMILIES[use] in made.refused:
        return made.refused[FAMILIES[use]]
    fields = vars(made).values()
    inside = [v for f in fields for v in (f.values() if isinstance(f, dict) else (f,))]
    reasons = (refusal(part, use) for part in inside if isinstance(part, Method))
    return next((reason for reason in reasons if reason), None)


def probing(made):
    """Whether a method trains nothing but a classifier head."""
    return type(made).__name__ == "Linear"


def classified():
    """Return all pairs as (works, refused); a probe without a classifier head is refused."""
    works, refused = [], []
    for name in tiny.METHODS:
        made = tiny.method(name)
        for use, (_, classes) in tiny.USES.items():
            nothing = probing(made) and classes is None and use != "captioner"
            beside = name == "lst" and use == "captioner"  # its map would get no gradient
            if refusal(made, use) or nothing or beside:
                refused.append((name, use))
            else:
                works.append((name, use))
    return works, refused


WORKS, REFUSED = classified()
IDS = [f"{m}-{u}" for m, u in WORKS]
REFUSED_IDS = [f"{m}-{u}" for m, u in REFUSED]
