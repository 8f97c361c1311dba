"""The order is that of TensorFlow Datasets, and every cut is the published one."""

import json
from pathlib import Path

import pytest

from peftbench.errors import CorruptAssetError
from peftbench.prepare.build import READERS, origin_of
from peftbench.prepare.order import Record, arrange, by_hash, shuffled, tfds_hash
from peftbench.tasks.vtab_tables import TABLE, TRAIN, VAL

MEASURED = json.loads((Path(__file__).parent / "tfds_order.json").read_text())
"""What tensorflow_datasets 4.9.10 and VTAB's data classes made of the archives of ``publish``.

Its builders read these archives (CIFAR-100 in its binary form, dSprites as .hdf5), its writer
stored the examples, and the classes of google-research/task_adaptation gave parts and labels. Every
picture was found again among the archives' by its pixels. Task -> part -> [member or row, label].
Labels of classes that have names are ranks among the classes in the archive. For Caltech-101 the
builder was shown its folders in the order of names.
"""


def records(*keys: str | int | bytes) -> list[Record]:
    return [Record(key, 0, i) for i, key in enumerate(keys)]


def test_the_hash_has_the_values_of_that_librarys_own_tests() -> None:
    assert tfds_hash("", 0) == 276215275525073243129443018166533317850
    assert tfds_hash("", 123455678901234567890) == 6876359009333865997613257802033240610
    assert tfds_hash("", "foo") == 229609063533823256041787889330700985560
    assert tfds_hash("", "x\\y") == tfds_hash("", "x/y") == 122546703782554533059483853573887619473
    assert tfds_hash("", "foo") == tfds_hash("", b"foo")


@pytest.mark.parametrize("split, order", [("split1", "416285793"), ("split2", "925473681")])
def test_a_split_has_the_order_of_that_librarys_own_tests(split: str, order: str) -> None:
    found = by_hash(split, records(1, 2, 3, 4, 5, "6", b"7", 8, 9))
    assert "".join(record.name for record in found) == order


FIRST = [16399, 1680, 47917, 17307, 27051, 48736, 26263, 1456]
FIRST += [19135, 31598, 12970, 4223, 27152, 49635, 4093, 17537]
BREEDS = [
    "Abyssinian",
    "american_bulldog",
    "american_pit_bull_terrier",
    "basset_hound",
    "beagle",
    "Bengal",
    "Birman",
    "Bombay",
    "boxer",
    "British_Shorthair",
    "chihuahua",
    "Egyptian_Mau",
    "english_cocker_spaniel",
    "english_setter",
    "german_shorthaired",
    "great_pyrenees",
    "havanese",
    "japanese_chin",
    "keeshond",
    "leonberger",
    "Maine_Coon",
    "miniature_pinscher",
    "newfoundland",
    "Persian",
    "pomeranian",
    "pug",
    "Ragdoll",
    "Russian_Blue",
    "saint_bernard",
    "samoyed",
    "scottish_terrier",
    "shiba_inu",
    "Siamese",
    "Sphynx",
    "staffordshire_bull_terrier",
    "wheaten_terrier",
    "yorkshire_terrier",
]


def test_the_first_examples_are_those_that_people_have_printed() -> None:
    """CIFAR's ids as tutorials print a first batch (both CIFARs have row numbers as keys)."""
    rows = by_hash("train", records(*range(50_000)))
    assert [row.key for row in rows[:16]] == FIRST
    # the first pet of version 3.2.0 goes before every other name with a number up to 250
    names = [f"{breed}_{i}.jpg" for breed in BREEDS for i in range(1, 251)]
    assert by_hash("train", records(*names))[0].key == "Sphynx_158.jpg"


@pytest.mark.parametrize("task", TABLE)
def test_parts_and_labels_are_those_of_tensorflow_datasets(task: str, read) -> None:
    source, cut = read(task), origin_of(task).cut
    parts = cut.parts(arrange(source.splits, "tfds", 0), 10**9, 10**9)
    for part, measured in MEASURED[task].items():
        assert [[record.ref, record.label] for _, record in parts[part]] == measured, part
        assert len(measured) > 3


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(CorruptAssetError, match="train: two examples have the key b"):
        by_hash("train", records("a", "b", "c", "b"))


def test_the_other_order_is_a_shuffle_that_the_seed_decides() -> None:
    many = records(*range(100))
    one, two, again = shuffled(many, 0), shuffled(many, 1), shuffled(many, 0)
    assert one == again != two
    assert many not in (one, two)
    assert sorted(one, key=lambda r: int(r.ref)) == many
    assert arrange({"train": many}, "source", 1) == {"train": two}


# task -> where training ends, where validation and the test begin in the splits they are cut from
PUBLISHED = {
    "cifar100": (45_000, 45_000, 0),
    "caltech101": (2_754, 2_754, 0),
    "dtd": (1_880, 0, 0),
    "flowers102": (1_020, 0, 0),
    "pets": (2_944, 2_944, 0),
    "svhn": (65_931, 65_931, 0),
    "sun397": (76_128, 0, 0),
    "patch_camelyon": (262_144, 0, 0),
    "eurosat": (16_200, 16_200, 21_600),
    "resisc45": (18_900, 18_900, 25_200),
    "diabetic_retinopathy": (35_126, 0, 0),
    "clevr_count": (63_000, 63_000, 0),
    "clevr_dist": (63_000, 63_000, 0),
    "dmlab": (65_550, 0, 0),
    "kitti": (6_347, 0, 0),
    "dsprites_loc": (589_824, 589_824, 663_552),
    "dsprites_ori": (589_824, 589_824, 663_552),
    "smallnorb_azi": (24_300, 0, 12_150),
    "smallnorb_ele": (24_300, 0, 12_150),
}


@pytest.mark.parametrize("task", TABLE)
def test_the_cut_of_the_whole_set_is_the_published_one(task: str) -> None:
    origin = origin_of(task)
    splits = {split: range(count) for split, count in origin.splits.items()}
    assert origin.cut.bounds(splits) == PUBLISHED[task]  # type: ignore[arg-type]
    parts = origin.cut.parts(splits, TRAIN, VAL)  # type: ignore[arg-type]
    _, val, test = PUBLISHED[task]
    assert [i for _, i in parts["train"]] == list(range(800))
    assert [i for _, i in parts["val"]] == list(range(val, val + 200))
    assert [i for _, i in parts["test"]] == list(range(test, test + TABLE[task].test))


def test_every_task_of_the_table_has_a_reader() -> None:
    assert list(READERS) == list(TABLE)
