"""The prediction command on pictures that are described: captions, and every mistake."""

import json

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import peftbench
from peftbench import predict
from peftbench.tasks.captions import CaptionUse
from peftbench.train.artefact import save_adapter
from peftbench.train.describer import Describer
from peftbench.train.reader import Writing

USE = CaptionUse(40, written=7, beams=2)


def store(folder, use=USE, name="context", network="captioner"):
    """Store an adapter with every tensor moved and return it."""
    base = tiny.fresh(tiny.USES[network][0])
    digest = base.sha256
    model = peftbench.attach(tiny.method(name), base, classes=tiny.USES[network][1])
    tiny.perturb(model, 0.2)
    labels = list("abc") if tiny.USES[network][1] else None
    save_adapter(folder / "adapter", model, digest, labels, "pictures", captions=use)
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder and the model stored in it."""
    folder = tmp_path_factory.mktemp("run")
    return folder, store(folder)


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of several sizes, and a damaged one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"img{i + 9}.png")
    return folder


def call(capsys, *words):
    code = predict.main([str(w) for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def told(model, file, how):
    """Return what the model in memory says of a file."""
    pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    describer = Describer(model, how)
    (answer,) = describer.write(describer.see(model.backbone.preprocess(pixels)))
    return answer


def test_one_picture_is_described_as_in_training(run, pictures, capsys):
    folder, model = run
    file = pictures / "img9.png"
    wanted = told(model, file, Writing(7, beams=2))
    code, out, err = call(capsys, f"adapter={folder}", f"input={file}")
    assert (code, out, err) == (0, f"{file}: {wanted.caption}\n", "")


def test_a_folder_as_json_and_what_cannot_be_read(run, pictures, capsys):
    folder, model = run
    (pictures / "empty.png").write_bytes(b"")
    words = (f"adapter={folder}", f"input={pictures}", "format=json", "beams=1", "longest=5")
    code, out, err = call(capsys, *words)
    assert code == 1 and err.startswith(f"unreadable: {pictures / 'empty.png'}")
    first, *rest = json.loads(out)
    assert first["file"].endswith("empty.png") and set(first) == {"file", "error"}
    assert [a["file"].rpartition("/")[2] for a in rest] == ["img9.png", "img10.png", "img11.png"]
    for answer in rest:
        wanted = told(model, answer["file"], Writing(5))
        assert answer["caption"] == wanted.caption
        assert answer["log_probability"] == pytest.approx(wanted.log_probability, abs=1e-4)
        assert answer["log_probability"] < 0


def test_tokens_can_be_drawn(run, pictures, capsys):
    folder, model = run
    file = pictures / "img9.png"
    given = (f"adapter={folder}", f"input={file}", "sample=true", "temperature=2.0", "seed=3")
    _, out, _ = call(capsys, *given)
    how = Writing(7, sample=True, temperature=2.0, seed=3)
    assert out == f"{file}: {told(model, file, how).caption}\n"


def test_an_adapter_without_its_limits_wants_them_said(tmp_path, pictures, capsys):
    model = store(tmp_path, use=None)
    file = pictures / "img9.png"
    code, _, err = call(capsys, f"adapter={tmp_path}", f"input={file}")
    assert code == 2
    assert "there is no part 'captions' that says how long a caption may be" in err
    assert "longest=30" in err and "train.py with the same settings" in err
    code, out, _ = call(capsys, f"adapter={tmp_path}", f"input={file}", "longest=6")
    assert (code, out) == (0, f"{file}: {told(model, file, Writing(6)).caption}\n")


def test_damaged_limits_are_told(tmp_path, pictures, capsys):
    store(tmp_path)
    path = tmp_path / "adapter" / "adapter.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "captions": {"longest_target": "many"}}))
    code, _, err = call(capsys, f"adapter={tmp_path}", f"input={pictures / 'img9.png'}")
    assert code == 2 and "adapter.json" in err and "expected int" in err


def test_mistakes_are_told(run, pictures, tmp_path, capsys):
    store(tmp_path / "vit", None, "lora", "vit")
    captioner, file = f"adapter={run[0]}", pictures / "img9.png"
    for words, said in (
        ((captioner, "text=a cat"), "reads pictures: input=PICTURE"),
        ((captioner, "input=words.txt"), "reads pictures: input=PICTURE"),
        ((captioner, f"input={pictures}/img1.png"), "there is no file or folder"),
        ((captioner, f"input={file}", "beams=0"), "beams: 0 is too small"),
        ((captioner, f"input={file}", "beams=2", "sample=true"), "not together with sample=true"),
        ((f"adapter={tmp_path / 'vit'}", f"input={file}", "beams=2"), "writes nothing"),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, "")
        assert said in err and "Traceback" not in err
