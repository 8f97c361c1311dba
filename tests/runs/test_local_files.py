"""Networks on this machine's disk are other networks when their bytes are."""

from pathlib import Path

from peftbench.backbones.load_captioner import JoinedNetworks, TimmVision
from peftbench.backbones.load_text import HubBert, HubLlama
from peftbench.backbones.load_timm import TimmViT
from peftbench.runs.local_files import by_content, has_local
from peftbench.spec import to_spec


def seen(spec):
    return by_content(spec, to_spec(spec))


def folder(path: Path, weights: bytes) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_folder_counts_by_what_is_read_from_it(tmp_path, monkeypatch):
    first, copy = folder(tmp_path / "a", b"one"), folder(tmp_path / "b", b"one")
    before = seen(HubBert(str(first)))
    assert before["model"].startswith("sha256:")
    assert seen(HubBert(str(copy))) == before
    monkeypatch.chdir(tmp_path)
    assert seen(HubBert("a")) == before
    (first / "notes.md").write_text("nothing is read from this")
    (first / ".cache").mkdir()
    assert seen(HubBert("a")) == before
    (first / "model.safetensors").write_bytes(b"two")
    assert seen(HubBert("a")) != before
    (copy / "config.json").write_text('{"layers": 2}')
    assert seen(HubBert("b")) != before


def test_parts_of_a_network_count_too(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    vision = TimmVision("vit_tiny_patch16_224", weights=str(file))
    joined = JoinedNetworks(vision, HubLlama(str(folder(tmp_path / "a", b"one"))))
    before = seen(joined)
    assert before["vision"]["weights"].startswith("sha256:") and has_local(joined, to_spec(joined))
    file.write_bytes(b"two")
    after = seen(joined)
    assert after["vision"] != before["vision"] and after["text"] == before["text"]


def test_what_is_not_read_from_the_disk_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "vit_tiny_patch16_224", b"one")  # timm's name, not a folder
    for spec in (TimmViT("vit_tiny_patch16_224"), HubBert("owner/name")):
        assert seen(spec) == to_spec(spec) and not has_local(spec, to_spec(spec))
    gone = TimmViT("vit_tiny_patch16_224", weights="gone.safetensors")
    assert seen(gone) == to_spec(gone) and has_local(gone, to_spec(gone))
