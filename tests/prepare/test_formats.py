"""Files in the data sets' formats: whole ones are read, others are refused by name."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import publish
import pytest
from PIL import Image
from scipy.io import savemat

from peftbench.errors import CorruptAssetError, MissingAssetError
from peftbench.prepare import matrices, pixels
from peftbench.prepare.members import Members
from peftbench.prepare.tfrecords import example, records


@pytest.mark.parametrize(
    "array",
    [
        np.arange(7, dtype=np.int32) - 3,
        np.arange(6, dtype=np.int32).reshape(2, 3) * 100_000,
        np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5),
    ],
    ids=["one", "two", "four"],
)
@pytest.mark.parametrize("packed", [True, False])
def test_norb_matrices_of_any_number_of_dimensions(array, packed, tmp_path: Path) -> None:
    content = publish.norb(array)
    path = tmp_path / ("a.mat.gz" if packed else "a.mat")
    path.write_bytes(gzip.compress(content) if packed else content)
    read = matrices.norb_matrix(path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_the_magic_numbers_of_norb_are_the_published_bytes() -> None:
    assert publish.norb(np.zeros(3, np.uint8))[:4] == bytes([0x55, 0x4C, 0x3D, 0x1E])
    assert publish.norb(np.zeros(3, np.int32))[:4] == bytes([0x54, 0x4C, 0x3D, 0x1E])


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-1],
        lambda c: c[:10],
        lambda c: b"\0" + c[1:],
        lambda c: struct.pack(">I", 0x1E3D4C55) + c[4:],
    ],
    ids=["short", "head", "magic", "big-endian"],
)
def test_a_damaged_norb_matrix_is_refused(damage, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(damage(publish.norb(np.zeros((4, 4), np.uint8))))
    with pytest.raises(CorruptAssetError, match=r"a\.mat is no whole NORB matrix"):
        matrices.norb_matrix(path)


@pytest.fixture
def npz(tmp_path: Path) -> tuple[Path, np.ndarray]:
    array = publish.pixels(3, 50, 6, 5)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, metadata=np.array({"a": 1}, dtype=object), imgs=array)
    return path, array


def test_rows_are_read_out_of_an_archive_of_arrays(npz) -> None:
    path, array = npz
    rows = dict(matrices.npz_rows(path, "imgs", [49, 0, 7, 8]))
    assert list(rows) == [0, 7, 8, 49]
    for row, values in rows.items():
        np.testing.assert_array_equal(values, array[row])


def test_objects_and_what_is_missing_are_refused(npz) -> None:
    path, _ = npz
    for name in ("metadata", "nothing"):
        with pytest.raises(CorruptAssetError, match=f"no whole array '{name}'"):
            matrices.npz_array(path, name)
        with pytest.raises(CorruptAssetError, match=f"no whole array '{name}'"):
            list(matrices.npz_rows(path, name, [0]))
    with pytest.raises(CorruptAssetError, match="ends before row 50"):
        list(matrices.npz_rows(path, "imgs", [50]))


def test_a_matlab_file_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"labels": np.arange(5)[None]})
    assert matrices.matlab(path, ["labels"])["labels"].tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(CorruptAssetError, match="has no variable other"):
        matrices.matlab(path, ["labels", "other"])
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-20], b"\0" * 300):
        path.write_bytes(damaged)
        with pytest.raises(CorruptAssetError, match=r"a\.mat"):
            matrices.matlab(path, ["labels"])


def test_an_hdf5_file_is_read_or_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4)
    assert matrices.h5_dataset(path, "x")[1:3].tolist() == [1, 2]
    with pytest.raises(CorruptAssetError, match="no data set 'y'"):
        matrices.h5_dataset(path, "y")
    (tmp_path / "b.h5").write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptAssetError, match=r"b\.h5"):
        matrices.h5_dataset(tmp_path / "b.h5", "x")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingAssetError, match=r"pip install 'peftbench\[data\]'"):
        matrices.h5_dataset(path, "x")


def test_records_and_examples_are_read() -> None:
    made = [publish.tf_example(b"\xff" * size, b"name", size) for size in (0, 1, 300)]
    found = list(records(b"".join(map(publish.tf_record, made))))
    assert found == made
    for size, one in zip((0, 1, 300), found, strict=True):
        assert example(one) == {"image": [b"\xff" * size], "filename": [b"name"], "label": [size]}


def test_integers_may_be_packed_or_not_and_negative() -> None:
    minus = publish.varint((1 << 64) - 5)
    packed = publish.tag(1, publish.varint(7) + minus)
    plain = publish.varint(1 << 3) + publish.varint(7) + publish.varint(1 << 3) + minus
    for values in (packed, plain):
        entry = publish.tag(1, b"n") + publish.tag(2, publish.tag(3, values))
        assert example(publish.tag(1, publish.tag(1, entry))) == {"n": [7, -5]}


@pytest.mark.parametrize("cut", [1, 5, 13, 40])
def test_a_record_that_is_cut_short_is_refused(cut: int) -> None:
    whole = publish.tf_record(publish.tf_example(b"abc", b"n", 1))
    with pytest.raises(ValueError, match="cut short"):
        list(records(whole[:-cut]))
    with pytest.raises(ValueError):
        example(publish.tf_example(b"abc", b"n", 1)[:-cut])


FILES = {"top/b.txt": b"b", "top/a.txt": b"a" * 5000, "c.txt": b""}


@pytest.fixture(params=["folder", "zip", "tar", "tar.gz", "dotted tar"])
def members(request, tmp_path: Path) -> Members:
    if request.param == "folder":
        for name, content in FILES.items():
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "f" / name).write_bytes(content)
        return Members(tmp_path / "f")
    path = tmp_path / f"a.{request.param.replace(' ', '.')}"
    if request.param == "zip":
        publish.zipped(path, FILES)
    elif request.param == "dotted tar":
        publish.tarred(path, {f"./{n}": c for n, c in FILES.items()}, "w")
    else:
        publish.tarred(path, FILES, "w:gz" if path.suffix == ".gz" else "w")
    return Members(path)


def test_members_of_folders_and_archives_are_the_same(members: Members) -> None:
    assert sorted(members.names()) == sorted(FILES)
    assert dict(members.read(FILES)) == FILES
    assert dict(members.read(["top/a.txt"])) == {"top/a.txt": FILES["top/a.txt"]}
    assert members.one("c.txt") == b""
    with pytest.raises(CorruptAssetError, match=r"lacks 1 of its files: top/d\.txt"):
        list(members.read(["top/b.txt", "top/d.txt"]))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_is_cut_short_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    noise = {"a": publish.pixels(0, 40_000).tobytes(), "b": publish.pixels(1, 40_000).tobytes()}
    (publish.zipped if kind == "zip" else publish.tarred)(path, noise)
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(CorruptAssetError, match=f"{path} cannot be read"):
        Members(path).names()
    with pytest.raises(CorruptAssetError, match=f"{path} cannot be read"):
        list(Members(path).read(["a", "b"]))


def test_a_changed_byte_in_a_zip_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    publish.zipped(path, {"a": b"x" * 1000})
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptAssetError, match="cannot be read"):
        Members(path).one("a")
    assert zipfile.is_zipfile(path)


def test_large_pictures_are_shrunk_to_the_area_and_small_ones_are_not() -> None:
    ramp = np.linspace(0, 255, 500)[None, :, None] * np.ones((400, 1, 3))
    content = io.BytesIO()
    Image.fromarray(ramp.round().astype(np.uint8)).save(content, "PNG")
    small = np.asarray(Image.open(io.BytesIO(pixels.at_most(content.getvalue(), 120_000, 95, "x"))))
    assert small.shape == (310, 387, 3)
    # centre j of the smaller picture lies at (j + 0.5) / factor of the larger one's width
    factor = (120_000 / 200_000) ** 0.5
    wanted = ((np.arange(387) + 0.5) / factor - 0.5).clip(0, 499) * 255 / 499
    assert np.abs(small - wanted[None, :, None]).max() < 2.5
    same = pixels.at_most(content.getvalue(), 200_000, 95, "x")
    assert Image.open(io.BytesIO(same)).size == (500, 400)
    with pytest.raises(CorruptAssetError, match="the image some/name cannot be decoded"):
        pixels.at_most(b"no picture", 10, 95, "some/name")


def test_a_picture_is_decoded_as_it_is_stored_whatever_its_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    stored = publish.pixels(0, 6, 9, 3)
    content = io.BytesIO()
    Image.fromarray(stored).save(content, "PNG", exif=exif)
    found = np.asarray(pixels.decoded(content.getvalue(), "x"))
    np.testing.assert_array_equal(found, stored)
