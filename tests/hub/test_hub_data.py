"""Image data sets from a hub on loopback, through the unmodified ``datasets.load_dataset``."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from conftest import NAMES, Child, Refused, pets, picture, table
from server import Hub


def shown(seed: int) -> str:
    """Return what ``child.images`` says of a picture."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture(seed)))
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def split_yaml(*subsets: tuple[str, str]) -> bytes:
    """Return a README that declares subsets, each with a folder of parquet files."""
    lines = ["---", "configs:"]
    for name, folder in subsets:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in ("train", "test"):
            lines += [f"  - split: {split}", f"    path: {folder}/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""]).encode()


def test_a_data_set_of_the_hub_is_read_row_by_row(online: Child, hub: Hub) -> None:
    found = online("images", path="me/pets")
    seeds = [*range(18), *range(50, 62)]
    labels = [*[i % 3 for i in range(18)], *[i % 3 for i in range(12)]]
    known = {shown(seed): label for seed, label in zip(seeds, labels, strict=True)}
    fitted = [tuple(row) for row in found["pictures"]["train"] + found["pictures"]["val"]]
    assert sorted(fitted) == sorted(known.items())
    assert [len(found["pictures"][s]) for s in ("train", "val", "test")] == [27, 3, 12]
    assert sorted(label for _, label in found["pictures"]["val"]) == [0, 1, 2]
    assert found["pictures"]["test"] == [[shown(100 + i), i % 3] for i in range(12)]
    manifest = found["manifest"]
    assert manifest["source"]["commit"] == hub.repositories["datasets", "me/pets"].refs["main"]
    assert manifest["labels"] == NAMES and manifest["columns"]["label"] == "fine_label"
    assert manifest["splits"]["train"]["count"] == 27 and found["modes"] == ["RGB"]


def test_a_new_commit_is_new_data_and_an_old_one_can_be_named(online: Child, hub: Hub) -> None:
    first = hub.push("datasets", "me/moving", pets(), tag="v1")
    old = online("images", path="me/moving")
    second = hub.push("datasets", "me/moving", pets(7))
    new = online("images", path="me/moving")
    assert old["manifest"]["source"]["commit"] == first
    assert new["manifest"]["source"]["commit"] == second
    assert new["manifest"]["splits"]["test"] != old["manifest"]["splits"]["test"]
    assert online("images", path="me/moving", revision="v1") == old
    assert online("images", path="me/moving", revision=first) == old
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*Revision 'v9' doesn't exist"):
        online("images", path="me/moving", revision="v9")


def test_the_subset_is_chosen_by_name(online: Child, hub: Hub) -> None:
    files = {f"big/{k.partition('/')[2]}": v for k, v in pets().items()}
    files |= {f"odd/{k.partition('/')[2]}": v for k, v in pets(3).items()}
    readme = {"README.md": split_yaml(("large", "big"), ("strange", "odd"))}
    hub.push("datasets", "me/subsets", {**files, **readme})
    big = online("images", path="me/subsets", subset="large")
    odd = online("images", path="me/subsets", subset="strange")
    assert big["pictures"]["test"][0][0] == shown(100)
    assert odd["pictures"]["test"][0][0] == shown(103)
    with pytest.raises(Refused, match=r"ConfigError.*'larg' \(key: data.subset\).*'large'"):
        online("images", path="me/subsets", subset="larg")
    with pytest.raises(Refused, match=r"ConfigError: data.subset: me/subsets has several"):
        online("images", path="me/subsets")


@pytest.mark.parametrize(
    ("fault", "part", "words"),
    [
        ("error", "/{}/resolve", "answered with status 500; the same command later may work"),
        ("down", "/api/datasets/{}", "answered with status 503; the same command later may work"),
        ("gated", "/{}/resolve", "is a gated dataset.*`hf auth login`"),
        ("gated", "/api/datasets/{}", "is gated: ask for access on its page"),
        ("hidden", "/{}/resolve", "doesn't exist on the Hub or cannot be accessed"),
        ("torn", "/stored/datasets/{}", "the transfer broke off, and nothing of the file is kept"),
        ("short", "/stored/datasets/{}", "the transfer broke off, and nothing of the file is kept"),
    ],
)
def test_a_hub_in_trouble_is_told_and_leaves_nothing_behind(
    online: Child, hub: Hub, home: Path, fault: str, part: str, words: str
) -> None:
    name = f"me/{fault}{len(part)}"
    hub.push("datasets", name, pets())
    place = part.format(name)
    with (
        hub.failing(place, fault),  # type: ignore[arg-type]
        pytest.raises(Refused, match=rf"^MissingAssetError: data set {name} [^$]*{words}"),
    ):
        online("images", path=name)
    assert not list((home / "hub").rglob("*.incomplete"))
    assert not list((home / "hub" / f"datasets--me--{fault}{len(part)}").rglob("*.parquet"))
    assert not list((home / "datasets" / f"me___{fault}{len(part)}").rglob("*.arrow"))
    right = online("images", path=name)
    assert right["pictures"] == online("images", path="me/pets")["pictures"]


def test_a_damaged_table_is_named_and_fetched_again_once_it_is_gone(
    online: Child, hub: Hub
) -> None:
    hub.push("datasets", "me/rotten", pets())
    with (
        hub.failing("/stored/datasets/me/rotten", "garbage"),
        pytest.raises(Refused, match=r"CorruptAssetError: .*me/rotten is damaged: t.*\.parquet"),
    ):
        online("images", path="me/rotten")
    for _ in pets():
        with pytest.raises(Refused, match=r"CorruptAssetError") as error:
            online("images", path="me/rotten")
        Path(str(error.value).rpartition("rm ")[2]).unlink()
    right = online("images", path="me/rotten")
    assert right["pictures"] == online("images", path="me/pets")["pictures"]


def test_what_is_no_table_of_images_is_told(online: Child, hub: Hub) -> None:
    hub.push("datasets", "me/empty", {"README.md": b"nothing"})
    with pytest.raises(Refused, match=r"(Missing|Corrupt)AssetError: .*me/empty"):
        online("images", path="me/empty")
    hub.push("datasets", "me/bad", {"data/train.parquet": b"no parquet", "data/test.parquet": b""})
    with pytest.raises(Refused, match=r"CorruptAssetError: data.path: datasets cannot read me/bad"):
        online("images", path="me/bad")
    words = b"text,label\na,b\n"
    hub.push("datasets", "me/text", {"train.csv": words, "test.csv": words})
    with pytest.raises(Refused, match=r"ConfigError: data.image: name one column of images"):
        online("images", path="me/text")


def test_without_the_hub_the_copy_that_was_read_serves(
    online: Child, offline: Child, hub: Hub
) -> None:
    hub.push("datasets", "me/away", {"train.parquet": table(30), "test.parquet": table(3, 50)})
    before = online("images", path="me/away")
    asked = len(hub.requests)
    assert offline("images", path="me/away") == before
    commit = before["manifest"]["source"]["commit"]
    assert offline("images", path="me/away", revision=commit) == before
    assert offline("images", path="me/away", revision="main") == before
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*'v1' was asked for"):
        offline("images", path="me/away", revision="v1")
    with pytest.raises(Refused, match=r"MissingAssetError[^$]*HF_HUB_OFFLINE is set"):
        offline("images", path="me/never")
    assert len(hub.requests) == asked
    with hub.failing("/", "down"):
        assert online("images", path="me/away") == before
