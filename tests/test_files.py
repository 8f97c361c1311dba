"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from peftbench import files


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_written_text_is_there_and_nothing_else(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep" / "a.txt", "new")
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert left(tmp_path / "deep") == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_step_leaves_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert left(tmp_path) == ["a.txt"]


def test_json_refuses_what_json_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert left(tmp_path) == []


def test_tensors_round_trip_with_their_metadata(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    tensors = {"a": shared, "b": shared.view(2, 3).t(), "c": torch.ones(2, dtype=torch.bfloat16)}
    files.write_tensors(tmp_path / "t.safetensors", tensors, {"k": "v"})
    back = load_file(str(tmp_path / "t.safetensors"))
    assert all(torch.equal(back[n], tensors[n]) for n in tensors)


def test_the_hash_sees_names_types_shapes_and_numbers() -> None:
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    digest = files.sha256_tensors(base)
    assert digest == files.sha256_tensors(dict(reversed(base.items())))
    others = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.tensor([1.0, 1.0000001])},
    ]
    digests = {digest, *(files.sha256_tensors(o) for o in others)}
    assert len(digests) == 5
    files.sha256_tensors({"scalar": torch.tensor(1.0), "empty": torch.zeros(0)})


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / ".last.safetensors.x1.tmp").write_text("half")
    (tmp_path / "kept.txt").write_text("whole")
    files.remove_leftovers(tmp_path)
    assert left(tmp_path) == ["kept.txt", "state"] and left(tmp_path / "state") == []
