"""Settings become objects, or say what is wrong with them, before anything is built."""

from __future__ import annotations

import pytest

from peftbench.errors import ConfigError
from peftbench.methods.adapter import Adapter
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.spec import build, to_spec

LORA = "peftbench.methods.lora.Lora"
GIST = "peftbench.methods.gist.Gist"


@pytest.mark.parametrize(
    "made",
    [Lora(roles=("q",), rank=4), Gist(), Gist(Adapter("houlsby"), tau=2.0), Gist(enabled=False)],
)
def test_round_trip(made: object) -> None:
    assert build(to_spec(made)) == made


@pytest.mark.parametrize(
    "plain, words",
    [
        ({"rnak": 4}, ["setting of Lora 'rnak'", "method.rnak", "Did you mean 'rank'", "alpha"]),
        ({"rank": "4"}, ["method.rank", "expected int", "'4'"]),
        ({"rank": 4.5}, ["method.rank", "expected int"]),
        ({"rank": True}, ["method.rank", "expected int"]),
        ({"rslora": 1}, ["method.rslora", "expected bool"]),
        ({"roles": "q"}, ["method.roles", "expected a list"]),
        ({"roles": ["q", 3]}, ["method.roles[1]", "expected str"]),
        ({"roles": ["qq"]}, ["method.roles", "'qq'", "choices"]),
        ({"alpha": None}, ["method.alpha", "expected float"]),
    ],
)
def test_wrong_settings_name_their_key(plain: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build({"_target_": LORA, **plain}, "method")
    for word in words:
        assert word in str(error.value)


def test_nested_settings_name_the_whole_key() -> None:
    inner = {"_target_": LORA, "rank": "x"}
    with pytest.raises(ConfigError, match=r"method\.inner\.rank"):
        build({"_target_": GIST, "inner": inner}, "method")
    with pytest.raises(ConfigError, match=r"method\.kl_mode.*|kl_mode"):
        build({"_target_": GIST, "kl_mode": "bothh"}, "method")


def test_a_whole_number_serves_as_float_and_a_list_as_tuple() -> None:
    made = build({"_target_": LORA, "alpha": 2, "roles": ["k"]})
    assert made.alpha == 2.0 and isinstance(made.alpha, float) and made.roles == ("k",)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "peftbench.methods.lora.at_least",
        "peftbench.methods.lora.torch.nn.Linear",
        "peftbench.files.os.system",
        "builtins.eval",
        "peftbenchx.methods.lora.Lora",
        "peftbench.methods.nowhere.Lora",
        "peftbench",
        "",
        None,
        3,
    ],
)
def test_only_the_packages_own_settings_classes_are_built(target: object) -> None:
    with pytest.raises(ConfigError, match="_target_"):
        build({"_target_": target}, "method")
