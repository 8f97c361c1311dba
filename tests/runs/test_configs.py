"""Every shipped choice composes, builds, and survives the way through its own ``config.yaml``."""

import itertools
import shutil

import pytest
import trees
import yaml
from hydra import compose, initialize_config_dir

from peftbench.errors import ConfigError
from peftbench.methods.adapter import Adapter
from peftbench.methods.adaptformer import AdaptFormer
from peftbench.methods.combo import Combo
from peftbench.methods.lora import Lora
from peftbench.methods.prefix import Prefix
from peftbench.methods.ssf import Ssf
from peftbench.methods.vpt import Vpt
from peftbench.runs import cli
from peftbench.runs.launch import run_dir_of
from peftbench.runs.settings import GROUPS, Settings
from peftbench.tasks.pocket import SOURCES

from .conftest import ROOT

CONFIGS = ROOT / "configs"
CHOICES = [
    (group, path.relative_to(CONFIGS / group).with_suffix("").as_posix())
    for group in sorted(GROUPS)
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    + sorted((CONFIGS / group).glob("*/*.yaml") if group == "data" else [])
]
NEEDS = {  # what has no default
    "backbone=hub_vit": ["backbone.model=hf-hub:owner/name"],
    "backbone=hub_bert": ["backbone.model=owner/name"],
    "backbone=hub_t5": ["backbone.model=owner/name"],
    "backbone=hub_llama": ["backbone.model=owner/name"],
    "data=hub_images": ["data.path=owner/name"],
    "data=image_folder": ["data.root=pictures"],
}


def composed_of(*overrides):
    overrides = [*overrides, *(more for o in overrides for more in NEEDS.get(o, ()))]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=overrides)


def settings_of(*overrides):
    return Settings.of(composed_of(*overrides))


def test_there_are_choices_of_every_group():
    found = {group: [n for g, n in CHOICES if g == group] for group in GROUPS}
    assert {"gist", "linear", "lora"} <= set(found["method"])
    assert {"dinov2_small", "vit_b16"} <= set(found["backbone"])
    assert found["protocol"] == ["honest", "paper", "search"] and "digits" in found["data"]
    assert found["tracker"] == ["files", "tensorboard", "wandb"] and {
        "default",
        "gist_vtab1k",
        "short",
    } <= set(found["trainer"])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_composes_and_comes_back_from_its_file(group, name):
    settings = settings_of(f"{group}={name}")
    again = Settings.of(yaml.safe_load(yaml.safe_dump(dict(settings.plain))))
    assert again.plain == settings.plain and getattr(again, group) == getattr(settings, group)


METHODS = [name for group, name in CHOICES if group == "method" and name != "gist"]


@pytest.mark.parametrize("inner", METHODS)
def test_gist_composes_over_every_method(inner):
    alone = settings_of(f"method={inner}").method
    assert settings_of("method=gist", f"method@method.inner={inner}").method.inner == alone


def test_a_combination_is_written_in_one_line():
    def composed(*arguments):
        return settings_of(*cli.with_aliases(arguments)).method

    two = composed("method=combo", "parts=[ssf,lora]", "parts.lora.rank=3", "blocks.ssf=[0,2]")
    assert two == Combo({"lora": Lora(rank=3), "ssf": Ssf()}, {"ssf": (0, 2)})
    inner = composed("method=gist", "inner=combo", "inner.parts=[lora]", "inner.blocks.lora=[1]")
    assert inner.inner == Combo({"lora": Lora()}, {"lora": (1,)})
    low, high = "+method@method.parts.low=lora", "+method@method.parts.high=lora"
    twice = composed("method=combo", "parts=[]", low, high, "parts.low.rank=2")
    assert twice == Combo({"high": Lora(), "low": Lora(rank=2)})
    subnet = composed("method=noah_all", "sizes.lora={rank:[10,0],alpha:[10,0]}")
    assert subnet.sizes == {"lora": {"rank": (10, 0), "alpha": (10, 0)}}
    with pytest.raises(ConfigError, match=r"at least one method is needed"):
        composed("method=combo", "parts=[]")


def test_mam_and_noah_are_what_their_papers_say():
    mam = settings_of("method=mam").method.parts
    assert mam == {"adapter": AdaptFormer(512, 4.0), "prefix": Prefix(30)}
    noah = settings_of("method=noah_all").method.parts
    wanted = {"lora": Lora(("qkv",), 8, 8.0), "adapter": Adapter(), "prompts": Vpt(8, deep=True)}
    assert noah == wanted


OPEN = [(g, n) for g, n in CHOICES if g != "backbone"]  # a backbone's file pins what it is


@pytest.mark.parametrize(("group", "name"), OPEN)
def test_a_file_lists_every_setting_so_that_each_can_be_changed_by_name(group, name):
    composed = composed_of(f"{group}={name}")
    assert set(Settings.of(composed).plain[group]) - set(composed[group]) == set()


AUGMENTS = [path.stem for path in sorted((CONFIGS / "trainer" / "augment").glob("*.yaml"))]


@pytest.mark.parametrize("name", AUGMENTS)
def test_an_augmentation_composes_with_any_trainer(name):
    made = settings_of("trainer=gist_vtab1k", f"trainer/augment={name}").trainer
    assert made.augment == settings_of(f"trainer/augment={name}").trainer.augment
    assert made.augment.active == (name != "none")
    assert settings_of("trainer.augment.flip=0.25").trainer.augment.flip == 0.25


def test_every_run_has_an_identity_of_its_own():
    ids = {
        run_dir_of(settings_of(f"method={m}", f"data={d}")).run_id
        for m, d in itertools.product(METHODS[:3], SOURCES)
    }
    assert len(ids) == len(METHODS[:3]) * len(SOURCES)


@pytest.mark.parametrize(("name", "number"), [("pocket_vision", 5), ("vtab1k", 19), ("fgvc", 5)])
def test_every_member_of_a_suite_is_a_choice_with_the_same_settings(name, number):
    suite = settings_of(f"data={name}").data
    choices = [n for g, n in CHOICES if g == "data" and n != name]
    own = {n.rpartition("/")[2]: n for n in choices if n.startswith(f"{name}/")}
    alone = own or {n: n for n in choices}
    assert not own or own.keys() == suite.members.keys()
    assert len(suite.members) == number
    for task, member in suite.members.items():
        assert settings_of(f"data={alone[task]}").data == member


def test_the_root_of_a_suite_reaches_every_member(monkeypatch):
    monkeypatch.setenv("PEFTBENCH_DATA", "/somewhere")
    assert settings_of("data=vtab1k/dtd").data.root == "/somewhere/vtab-1k"
    assert settings_of("data=fgvc").data.members["cub"].root == "/somewhere/fgvc"
    suite = settings_of("data=vtab1k", "data.root=here", "data.strict=false").data
    assert all(m.root == "here" and not m.strict for m in suite.members.values())
    chosen = settings_of("data=vtab1k", "data.tasks=[dtd,svhn]").data.selected()
    assert list(chosen) == ["dtd", "svhn"]


def test_the_same_tree_elsewhere_is_the_same_run_alone_or_in_a_suite(tmp_path):
    first = trees.vtab(tmp_path / "a", ["kitti"], train=4, val=2, test=3)
    shutil.copytree(first, tmp_path / "b" / "vtab-1k")
    suite = settings_of("data=vtab1k", f"data.root={first}", "data.strict=false")
    member = suite.for_task("vtab1k/kitti", suite.data.members["kitti"])
    alone = settings_of("data=vtab1k/kitti", f"data.root={tmp_path / 'b'}", "data.strict=false")
    assert member.names == alone.names and alone.names["data"] == "vtab1k/kitti"
    assert run_dir_of(member).run_id == run_dir_of(alone).run_id
    lists = tmp_path / "b" / "vtab-1k" / "kitti"
    (lists / "test.txt").write_text((lists / "val200.txt").read_text().replace("val200", "test"))
    changed = settings_of("data=vtab1k/kitti", f"data.root={tmp_path / 'b'}", "data.strict=false")
    assert run_dir_of(changed).run_id != run_dir_of(alone).run_id


@pytest.mark.parametrize("method", ["u_tuning", "u_tuning_tri", "u_tuning_first"])
@pytest.mark.parametrize("tuner", ["p_adapter", "p_prefix", "p_prompt"])
def test_a_tuner_can_be_exchanged_by_name(method, tuner):
    made = settings_of(f"method={method}", f"tuner@method.tuners.attn={tuner}").method
    assert made.tuners["attn"].kind == tuner.removeprefix("p_")
    assert made.tuners["mlp"].hidden == 13
