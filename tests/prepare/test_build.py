"""Folders built from small archives in the published formats, read back as the project reads."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import publish
import pytest
from PIL import Image

from peftbench.errors import ConfigError, CorruptAssetError, MissingAssetError
from peftbench.prepare import build as building
from peftbench.prepare.build import Plan, build, origin_of
from peftbench.prepare.order import arrange
from peftbench.prepare.pixels import decoded
from peftbench.prepare.splits import SplitLists
from peftbench.tasks.base import SPLITS
from peftbench.tasks.check import check_vtab
from peftbench.tasks.vtab import VtabTask
from peftbench.tasks.vtab_tables import LISTS, TABLE

ROOT = Path(__file__).parents[2]


def lines(folder: Path, part: str) -> list[list[str]]:
    return [line.split(" ") for line in (folder / LISTS[part]).read_text().splitlines()]


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("task", TABLE)
def test_a_built_folder_holds_the_archive_pictures_in_order(task: str, plan: Plan, read) -> None:
    said = build(task, plan)
    folder = plan.root / TABLE[task].folder
    assert said.startswith(f"{task}: ")
    source, cut = read(task), origin_of(task).cut
    parts = cut.parts(arrange(source.splits, "tfds", 0), 800, 200)
    for part, chosen in parts.items():
        listed = lines(folder, part)
        assert [int(label) for _, label in listed] == [record.label for _, record in chosen]
        places = {
            record.key: folder / path for (path, _), (_, record) in zip(listed, chosen, strict=True)
        }
        split = chosen[0][0]
        for record, picture in source.read(split, [record for _, record in chosen]):
            if isinstance(picture, bytes):
                assert places[record.key].read_bytes() == picture
            else:
                np.testing.assert_array_equal(
                    rgb(places[record.key]), np.asarray(decoded(picture, ""))
                )
                assert places[record.key].suffix == ".png"
    both = (folder / "train800.txt").read_text() + (folder / "val200.txt").read_text()
    assert (folder / "train800val200.txt").read_text() == both
    assert {path.name for path in folder.iterdir()} - {"names.txt"} == {
        "images",
        "source.json",
        *LISTS.values(),
    }
    assert [path.name for path in plan.root.iterdir()] == [TABLE[task].folder]


@pytest.mark.parametrize("task", TABLE)
def test_the_project_reads_what_is_built(task: str, plan: Plan) -> None:
    build(task, plan)
    spec = VtabTask(task, str(plan.root), strict=False)
    loaded = spec.load()
    folder = plan.root / TABLE[task].folder
    loaded.open_test()
    for part in SPLITS:
        split = loaded.split(part)
        listed = lines(folder, part)
        assert split.labels.tolist() == [int(label) for _, label in listed]
        images = split.inputs["image"]
        np.testing.assert_array_equal(np.asarray(images.image(0)), rgb(folder / listed[0][0]))
    assert spec.manifest["source"] == json.loads((folder / "source.json").read_text())
    slips = check_vtab(plan.root, [task])[0].wrong
    assert {slip.kind for slip in slips} == {"count"}


def test_labels_and_pixels_of_arrays_are_the_archives(plan: Plan) -> None:
    for task in ("svhn", "smallnorb_azi", "dsprites_ori", "patch_camelyon"):
        build(task, plan)
    norb = publish.pixels(1, 40, 2, 96, 96)[:, 0]
    sprites = publish.dsprites_arrays()
    facts = {
        "svhn": (np.moveaxis(publish.pixels(40, 32, 32, 3, 40), -1, 0), lambda i: (i + 1) % 10),
        "smallnorb_azi": (np.repeat(norb[..., None], 3, -1), lambda i: i % 18),
        "dsprites_ori": (
            np.repeat(sprites["imgs"][..., None] * 255, 3, -1),
            lambda i: int(sprites["latents_classes"][i, 3] // 2.5),
        ),
        "patch_camelyon": (publish.pixels(40, 40, 96, 96, 3), lambda i: i % 2),
    }
    for task, (pictures, label) in facts.items():
        rows = {picture.tobytes(): i for i, picture in enumerate(pictures)}
        listed = lines(plan.root / TABLE[task].folder, "train")
        assert len(listed) > 30
        for path, found in listed:
            row = rows[rgb(plan.root / TABLE[task].folder / path).tobytes()]
            assert int(found) == label(row)


def test_both_forms_of_cifar_give_the_same_folder(plan: Plan, tmp_path: Path) -> None:
    build("cifar100", plan)
    (tmp_path / "other").mkdir()
    publish.cifar100_binary(tmp_path / "other")
    binary = dataclasses.replace(plan, root=tmp_path / "b", archives=tmp_path / "other")
    build("cifar100", binary)
    one, two = plan.root / "cifar", binary.root / "cifar"
    for name in (*LISTS.values(), "images/train800/000000.png", "images/test/000011.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_picture_keeps_its_bytes_and_gets_the_suffix_of_its_content(plan: Plan) -> None:
    build("pets", plan)
    folder = plan.root / "oxford_iiit_pet"
    suffixes = {Path(path).suffix for part in SPLITS for path, _ in lines(folder, part)}
    assert suffixes == {".jpg", ".png"}  # some published files are named .jpg and are not
    for path, _ in lines(folder, "test"):
        assert Image.open(folder / path).format == {".jpg": "JPEG", ".png": "PNG"}[path[-4:]]


@pytest.mark.parametrize("form, suffix", [("png", ".png"), ("jpeg", ".jpg")])
def test_other_formats(form, suffix: str, plan: Plan) -> None:
    plan = dataclasses.replace(plan, form=form)
    original = dataclasses.replace(plan, form="original", root=plan.root / "original")
    for task in ("dtd", "svhn"):
        build(task, plan)
        build(task, original)
        folder, other = (p.root / TABLE[task].folder for p in (plan, original))
        pairs = zip(lines(folder, "test"), lines(other, "test"), strict=True)
        for (path, label), (path2, label2) in pairs:
            assert (Path(path).suffix, label) == (suffix, label2)
            image = Image.open(folder / path)
            pixels = np.asarray(Image.open(other / path2).convert("RGB"))
            if form == "png":
                np.testing.assert_array_equal(np.asarray(image), pixels)
            else:
                out = io.BytesIO()
                Image.fromarray(pixels).save(out, "JPEG", quality=75)
                assert (folder / path).read_bytes() == out.getvalue()
        assert json.loads((folder / "source.json").read_text())["format"] == form


def test_source_json_says_what_was_used_and_holds_no_path(plan: Plan, tmp_path: Path) -> None:
    for place in ("one", "two"):
        build("kitti", dataclasses.replace(plan, root=tmp_path / place))
    texts = [(tmp_path / place / "kitti" / "source.json").read_text() for place in ("one", "two")]
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0] and str(plan.archives) not in texts[0]
    account = json.loads(texts[0])
    assert account["order"] == "tfds" and account["order_follows"] == "kitti 3.2.0"
    assert account["order_checked_against_published_files"] is False
    assert account["counts"] == {"train": 48, "val": 6, "test": 6}
    image = next(a for a in account["archives"] if "image" in a["name"])
    content = (plan.archives / image["name"]).read_bytes()
    assert image == {
        "name": "data_object_image_2.zip",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "as_published": False,
    }


def test_the_other_order_gives_other_images_and_says_so(plan: Plan) -> None:
    other = dataclasses.replace(plan, order="source", seed=3, root=plan.root / "other")
    build("svhn", plan)
    build("svhn", other)
    assert lines(plan.root / "svhn", "train") != lines(other.root / "svhn", "train")
    account = json.loads((other.root / "svhn" / "source.json").read_text())
    assert (account["order"], account["seed"], account["order_follows"]) == ("source", 3, "")


# the published lists


def given(path: Path, value: object) -> SplitLists:
    path.write_text(json.dumps(value))
    return SplitLists(path)


def test_published_lists_decide_and_the_test_part_stays(plan: Plan, tmp_path: Path, read) -> None:
    build("eurosat", plan)
    records = read("eurosat").splits["train"]
    chosen = {"train": [r.title for r in records[:5]], "val": [r.title for r in records[5:8]]}
    lists = given(tmp_path / "lists.json", {"eurosat": {"train800": chosen["train"], **chosen}})
    other = dataclasses.replace(plan, root=tmp_path / "given", lists=lists)
    build("eurosat", other)
    folder = other.root / "eurosat"
    assert [int(label) for _, label in lines(folder, "train")] == [r.label for r in records[:5]]
    assert [int(label) for _, label in lines(folder, "val")] == [r.label for r in records[5:8]]
    used = {(hashlib.sha256((folder / p).read_bytes()).digest()) for p, _ in lines(folder, "test")}
    for part in ("train", "val"):
        for path, _ in lines(folder, part):
            assert hashlib.sha256((folder / path).read_bytes()).digest() not in used
    account = json.loads((folder / "source.json").read_text())
    assert account["splits_sha256"] == hashlib.sha256(lists.path.read_bytes()).hexdigest()


def test_one_list_is_cut_behind_the_first_800_names(tmp_path: Path) -> None:
    lists = given(tmp_path / "a.json", {"svhn": [str(i) for i in range(1000)]})
    names = lists.names(["other", "svhn"], 800)
    assert (len(names["train"]), names["val"][0], len(names["val"])) == (800, "800", 200)


@pytest.mark.parametrize(
    "task, value, error, text",
    [
        ("dtd", {"svhn": []}, ConfigError, "has no list for dtd"),
        ("dtd", {"dtd": {"train": ["a"]}}, CorruptAssetError, "no list of names for val"),
        ("dtd", {"dtd": {"train": ["a/b.jpg"], "val": []}}, CorruptAssetError, "names 'a/b.jpg'"),
        (
            "caltech101",
            {"caltech101": {"train": ["image_0001.jpg"], "val": []}},
            CorruptAssetError,
            "stands for several of its images",
        ),
        ("dtd", [1], CorruptAssetError, "no JSON object"),
    ],
)
def test_lists_that_do_not_fit_are_refused(task, value, error, text, plan, tmp_path) -> None:
    with pytest.raises(error, match=text):
        lists = given(tmp_path / "lists.json", value)
        build(task, dataclasses.replace(plan, lists=lists))
    assert not list(plan.root.glob("*")) and not list(plan.root.glob(".*"))


def test_a_name_that_is_listed_twice_is_refused(plan: Plan, tmp_path: Path, read) -> None:
    name = read("dtd").splits["train"][0].name
    other = read("dtd").splits["validation"][0].name
    lists = given(tmp_path / "l.json", {"dtd": {"train": [name, name], "val": [other]}})
    with pytest.raises(CorruptAssetError, match=f"the image {name} of split train is there twice"):
        build("dtd", dataclasses.replace(plan, lists=lists))


# what is there already


def test_a_finished_task_is_left_and_another_kind_is_refused(plan: Plan) -> None:
    build("dtd", plan)
    folder = plan.root / "dtd"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert "is there" in build("dtd", plan)
    for change, key in (({"form": "png"}, "format"), ({"order": "source"}, "order")):
        with pytest.raises(ConfigError, match=f"was made with {key}=.*left as it is.*key: {key}"):
            build("dtd", dataclasses.replace(plan, **change))
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_folder_of_somebody_else_is_left_alone(plan: Plan) -> None:
    (plan.root / "dtd").mkdir(parents=True)
    (plan.root / "dtd" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="this command did not make it"):
        build("dtd", plan)
    assert (plan.root / "dtd" / "mine.txt").read_text() == "mine"


KILLED = """
import os, signal, sys
from pathlib import Path
from peftbench.prepare import build
real, written = build.save, []
def save(*arguments):
    written.append(real(*arguments))
    if len(written) == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return written[-1]
build.save = save
build.build("dtd", build.Plan(Path(sys.argv[1]), Path(sys.argv[2]), strict=False))
"""


def test_a_killed_build_leaves_nothing_half_made(plan: Plan) -> None:
    command = [sys.executable, "-c", KILLED, str(plan.root), str(plan.archives)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -9
    (left,) = plan.root.iterdir()
    assert left.name.startswith(".dtd.") and len(list(left.rglob("*.jpg"))) == 12
    alive = plan.root / f".dtd.{os.getpid()}.other.tmp"
    alive.mkdir()  # another build that still runs
    build("dtd", plan)
    assert sorted(path.name for path in plan.root.iterdir()) == [alive.name, "dtd"]
    assert len(list((plan.root / "dtd").rglob("*.jpg"))) == 27


# what is wrong with archives


def test_a_missing_archive_is_named_with_its_page(plan: Plan, tmp_path: Path) -> None:
    empty = dataclasses.replace(plan, archives=tmp_path)
    with pytest.raises(MissingAssetError) as caught:
        build("flowers102", empty)
    text = str(caught.value)
    assert "holds no imagelabels.mat" in text and "key: archives" in text
    assert "robots.ox.ac.uk/~vgg/data/flowers" in text
    with pytest.raises(MissingAssetError, match=r"by hand: download NWPU-RESISC45\.rar"):
        build("resisc45", empty)
    assert not list(empty.root.iterdir())


def test_an_archive_that_is_not_the_published_one_is_refused(plan: Plan, monkeypatch) -> None:
    strict = dataclasses.replace(plan, strict=True)
    with pytest.raises(CorruptAssetError, match=r"has .* bytes, the published one has 625239812"):
        build("dtd", strict)
    size = (plan.archives / "dtd-r1.0.1.tar.gz").stat().st_size
    monkeypatch.setattr(building, "ORIGINS", published("dtd", bytes=size))
    with pytest.raises(CorruptAssetError, match=r"has the SHA-256 .* the published one has e42855"):
        build("dtd", strict)
    monkeypatch.setattr(building, "ORIGINS", published("dtd", bytes=size, sha256=""))
    with pytest.raises(CorruptAssetError, match="split train has 9 images, published are 1,880"):
        build("dtd", strict)
    assert not list(plan.root.iterdir())


def published(name: str, **facts: object) -> dict[str, object]:
    """The catalogue with other facts about the one archive of a data set."""
    origin = building.ORIGINS[name]
    archive = dataclasses.replace(origin.archives[0], **facts)
    return {**building.ORIGINS, name: dataclasses.replace(origin, archives=(archive,))}


def test_a_damaged_archive_is_named_and_leaves_nothing(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "dtd-r1.0.1.tar.gz"
    content = (plan.archives / path.name).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptAssetError, match=str(path)):
        build("dtd", dataclasses.replace(plan, archives=tmp_path))
    assert not list(plan.root.iterdir())


def test_a_picture_that_cannot_be_decoded_is_named(plan: Plan, tmp_path: Path) -> None:
    publish.resisc45(tmp_path)
    bad = tmp_path / "NWPU-RESISC45" / "wetland" / "wetland_003.jpg"
    bad.write_bytes(b"nothing")
    with pytest.raises(CorruptAssetError, match=r"wetland/wetland_003\.jpg of split train"):
        build("resisc45", dataclasses.replace(plan, archives=tmp_path))


def test_a_label_out_of_range_is_named(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(publish, "scene", many_objects)
    publish.clevr(tmp_path)
    text = r"clevr_count: \w+ image CLEVR_\w+\.png has the label 8, allowed are 0 to 7"
    with pytest.raises(CorruptAssetError, match=text):
        build("clevr_count", dataclasses.replace(plan, archives=tmp_path))


def many_objects(part: str, i: int) -> dict[str, object]:
    one = {"pixel_coords": [0, 0, 9.0]}
    return {"image_filename": f"CLEVR_{part}_{i:06d}.png", "objects": [one] * 11}


def test_a_set_of_the_published_size_becomes_the_published_task(
    plan: Plan, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "whole").mkdir()
    publish.dtd(tmp_path / "whole", {f"texture{i:02d}": 120 for i in range(47)})
    content = (tmp_path / "whole" / "dtd-r1.0.1.tar.gz").read_bytes()
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(building, "ORIGINS", published("dtd", **facts))
    whole = dataclasses.replace(plan, archives=tmp_path / "whole", strict=True)
    said = build("dtd", whole)
    assert "800 + 200 + 1,880 images" in said
    (report,) = check_vtab(whole.root, ["dtd"])
    assert report.ok and report.images == 2_880 and not report.notes
    spec = VtabTask("dtd", str(whole.root))
    assert spec.manifest["labels"][-1] == "texture46"
    assert spec.manifest["deviations"] == []
    assert spec.manifest["source"]["archives"][0]["as_published"] is True
    assert len(spec.load().split("train")) == 800
