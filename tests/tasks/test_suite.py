"""A suite refuses names that it does not know."""

import pytest

from peftbench.errors import ConfigError
from peftbench.tasks import PocketVision, Suite

MEMBERS = {name: PocketVision(name) for name in ("digits", "mnist5k", "emoji")}
GROUPS = {"handwriting": ("digits", "mnist5k")}


def test_all_or_a_choice_in_its_order():
    assert list(Suite("s", MEMBERS, GROUPS).selected()) == ["digits", "mnist5k", "emoji"]
    assert Suite("s", MEMBERS, GROUPS, ("emoji", "digits")).selected() == {
        "emoji": MEMBERS["emoji"],
        "digits": MEMBERS["digits"],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("s", {}, {}), r"data\.members: suite 's' has no tasks"),
        (("s", MEMBERS, {"g": ("digit",)}), r"key: data\.groups\.g\)\. Did you mean 'digits'"),
        (("s", MEMBERS, {"g": ("digits",), "h": ("digits",)}), "is in two groups"),
        (("s", MEMBERS, GROUPS, ("mnist",)), r"key: data\.tasks\)\. Did you mean 'mnist5k'"),
        (("s", MEMBERS, GROUPS, ()), "name at least one task"),
        (("s", MEMBERS, GROUPS, ("emoji", "emoji")), "named twice"),
    ],
)
def test_wrong_settings(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Suite(*arguments)
