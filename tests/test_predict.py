"""The prediction command: every kind of file, every kind of mistake, the pixels of training."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import peftbench
from peftbench import pictures, predict
from peftbench.errors import ConfigError
from peftbench.train.artefact import save_adapter

LABELS = ["cat", "dog", "fish"]


def store(folder, name="lora", use="vit", labels=LABELS):
    """Store an adapter with every tensor moved and return it."""
    base = tiny.fresh(tiny.USES[use][0])
    digest = base.sha256
    classes = len(labels) if labels else None
    model = peftbench.attach(tiny.method(name), base, classes=classes)
    tiny.perturb(model, 0.1)
    save_adapter(folder / "adapter", model, digest, labels, "pets")
    return model.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder and the model stored in it."""
    folder = tmp_path_factory.mktemp("run")
    return folder, store(folder)


def noise(height=20, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def call(capsys, *words):
    code = predict.main([str(w) for w in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def chances(model, pixels):
    """Return probabilities of one picture (3, H, W) as training would see it."""
    image = model.backbone.preprocess(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    with torch.no_grad():
        return model.method.scores(model({"image": image})).softmax(-1)[0]


def test_labels_and_probabilities_of_one_picture(run, tmp_path, capsys):
    folder, model = run
    Image.fromarray(noise()).save(tmp_path / "a.png")
    wanted = chances(model, noise().transpose(2, 0, 1))
    words = (f"adapter={folder}", f"input={tmp_path / 'a.png'}", "format=json")
    code, out, err = call(capsys, *words)
    assert (code, err) == (0, "")
    (answer,) = json.loads(out)
    assert answer["file"] == str(tmp_path / "a.png")
    found = [(p["label"], p["probability"]) for p in answer["predictions"]]
    order = wanted.argsort(descending=True).tolist()
    assert found == [(LABELS[i], pytest.approx(wanted[i].item(), abs=1e-6)) for i in order]
    assert sum(p for _, p in found) == pytest.approx(1, abs=1e-5)
    code, out, _ = call(capsys, f"adapter={folder}", f"input={tmp_path / 'a.png'}", "top=1")
    best = LABELS[order[0]]
    assert out == f"{tmp_path / 'a.png'}: {best} {wanted[order[0]].item():.1%}\n"


def test_gist_predicts_by_its_own_rule(tmp_path, capsys):
    model = store(tmp_path / "run", "gist")
    Image.fromarray(noise()).save(tmp_path / "a.png")
    words = (f"adapter={tmp_path / 'run'}", f"input={tmp_path / 'a.png'}", "format=json", "top=1")
    _, out, _ = call(capsys, *words)
    wanted = chances(model, noise().transpose(2, 0, 1)).max().item()
    assert json.loads(out)[0]["predictions"][0]["probability"] == pytest.approx(wanted, abs=1e-6)


def test_folder_in_natural_order_and_what_cannot_be_read(run, tmp_path, capsys):
    folder, model = run
    names = ["img1.png", "img2.png", "img10.png", "sub/img3.png"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(8 + i, 9, seed=i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(whole, "JPEG")
    (tmp_path / "img4.jpg").write_bytes(whole.getvalue()[:-400])
    (tmp_path / ".hidden").write_text("x")
    code, out, err = call(capsys, f"adapter={folder}", f"input={tmp_path}", "format=json")
    assert code == 1
    answers = {a["file"]: a for a in json.loads(out)}
    shown = [f.removeprefix(f"{tmp_path}/") for f in answers]
    assert shown == [
        "empty.png",
        "img1.png",
        "img2.png",
        "img4.jpg",
        "img10.png",
        "sub/img3.png",
    ]
    bad = [tmp_path / n for n in ("empty.png", "img4.jpg")]
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(b) for b in bad]
    assert "truncated" in answers[str(bad[1])]["error"]
    for i, name in enumerate(names):
        wanted = chances(model, noise(8 + i, 9, seed=i).transpose(2, 0, 1)).max().item()
        best = answers[str(tmp_path / name)]["predictions"][0]["probability"]
        assert best == pytest.approx(wanted, abs=1e-6)


def test_more_pictures_than_one_batch(run, tmp_path, capsys):
    for i in range(predict.BATCH + 2):
        Image.fromarray(noise(8, 8, seed=i)).save(tmp_path / f"{i}.png")
    code, out, _ = call(capsys, f"adapter={run[0]}", f"input={tmp_path}")
    files = [line.split(": ")[0] for line in out.splitlines()]
    assert code == 0
    assert files == [str(tmp_path / f"{i}.png") for i in range(predict.BATCH + 2)]


def test_natural_order():
    names = ["b", "a10", "a2", "A1", "a", "10", "9", "a2b", "x²"]
    assert sorted(names, key=predict.natural) == [
        "9",
        "10",
        "a",
        "A1",
        "a2",
        "a2b",
        "a10",
        "b",
        "x²",
    ]


class TestDecode:
    def decode(self, tmp_path, picture, name="p.png", **options):
        picture.save(tmp_path / name, **options)
        found = pictures.decode(tmp_path / name)
        assert (found.dtype, found.shape[0]) == (np.uint8, 3)
        return found

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_same_pixels_as_training(self, channels, tmp_path):
        found = self.decode(tmp_path, Image.fromarray(noise(channels=channels)))
        assert np.array_equal(found, pictures.decode((tmp_path / "p.png").read_bytes()))

    def test_transparent_is_white(self, tmp_path):
        assert (self.decode(tmp_path, Image.new("RGBA", (4, 4), (9, 9, 9, 0))) == 255).all()
        grey = self.decode(tmp_path, Image.new("LA", (4, 4), (0, 128)))
        assert (grey == 127).all()

    def test_palette_with_a_transparent_colour(self, tmp_path):
        picture = Image.new("P", (2, 1))
        picture.putpalette([255, 0, 0, 0, 0, 255])
        picture.putdata([0, 1])
        found = self.decode(tmp_path, picture, transparency=0)
        assert found[:, 0].T.tolist() == [[255, 255, 255], [0, 0, 255]]

    @pytest.mark.parametrize("name", ["p.png", "p.tif"])
    def test_sixteen_bits_are_scaled_not_clipped(self, name, tmp_path):
        values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
        found = self.decode(tmp_path, Image.fromarray(values), name)
        assert found.tolist() == [[[0, 1, 128, 255]]] * 3

    def test_cmyk(self, tmp_path):
        found = self.decode(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "p.jpg")
        assert np.abs(found[:, 4, 4].astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("name", ["p.png", "p.jpg"])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_orientation_is_applied(self, mode, name, tmp_path):
        picture = Image.new(mode, (16, 8))
        picture.paste(255 if mode == "L" else (255, 255, 255), (0, 0, 8, 8))  # left half is white
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise: the left becomes the top
        found = self.decode(tmp_path, picture, name, exif=exif)
        assert found.shape == (3, 16, 8)
        assert found[:, :7].min() > 240
        assert found[:, 9:].max() < 15

    def test_orientation_of_sixteen_bits(self, tmp_path):
        values = np.zeros((8, 16), dtype=np.uint16)
        values[:, :8] = 65535
        exif = Image.Exif()
        exif[0x0112] = 6
        found = self.decode(tmp_path, Image.fromarray(values), exif=exif)
        assert found.shape == (3, 16, 8)
        assert found[:, :8].min() == 255

    def test_first_picture_of_an_animation(self, tmp_path):
        red, blue = Image.new("RGB", (4, 4), (255, 0, 0)), Image.new("RGB", (4, 4), (0, 0, 255))
        found = self.decode(tmp_path, red, "p.gif", save_all=True, append_images=[blue])
        assert found[:, 0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_numbers_without_a_range_are_refused(self, mode, tmp_path):
        picture = Image.fromarray(np.full((4, 4), 1e6, np.float32 if mode == "F" else np.int32))
        with pytest.raises(pictures.UnreadableError, match="no known range"):
            self.decode(tmp_path, picture, "p.tif")

    def test_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(pictures.UnreadableError, match="too large"):
            self.decode(tmp_path, Image.new("L", (9, 9)))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["input=PIC"], "adapter: a value is needed here"),
        (["adapter=RUN"], "input: a value is needed here"),
        (
            ["adapter=RUN", "text=a cat"],
            "text: this adapter ('vit_tiny_patch16_224') reads pictures",
        ),
        (["adapter=RUN", "input=words.txt"], "input: this adapter ('vit_tiny_patch16_224') reads"),
        (["adapter=RUN", "input=PIC", "text=x"], "input: not together with text"),
        (["adapter=RUN", "input=PIC", "beams=2"], "reads pictures and writes nothing"),
        (["adapter=RUN", "inputs=PIC"], "Did you mean 'input'?"),
        (["adapter=RUN", "input=PIC", "top=0"], "top: 0 is too small"),
        (["adapter=RUN", "input=PIC", "top=many"], "top: expected int, got 'many'"),
        (["adapter=RUN", "input=PIC", "format=jsn"], "Did you mean 'json'?"),
        (["adapter=RUN", "input=PIC", "device=gpu"], "device: 'gpu' cannot be used here"),
        (["adapter=RUN", "input=nothing.png"], "there is no file or folder nothing.png"),
        (["adapter=RUN", "input=EMPTY"], "there is no picture in EMPTY"),
        (["adapter=RUM", "input=PIC"], "Did you mean 'RUN'?"),
        (["adapter=EMPTY", "input=PIC"], "EMPTY holds no adapter"),
        (["adapter=RUN", "PIC"], "'PIC' is not KEY=VALUE"),
    ],
)
def test_mistakes_are_told(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "RUN")
    Image.fromarray(noise()).save(tmp_path / "PIC", "PNG")
    (tmp_path / "EMPTY").mkdir()
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert text in err
    assert "Traceback" not in err


def test_other_base_weights_are_refused(tmp_path, capsys):
    store(tmp_path)
    path = tmp_path / "adapter" / "adapter.json"
    description = json.loads(path.read_text())
    description["backbone"]["sha256"] = "0" * 64
    path.write_text(json.dumps(description))
    Image.fromarray(noise()).save(tmp_path / "a.png")
    code, _, err = call(capsys, f"adapter={tmp_path}", f"input={tmp_path / 'a.png'}")
    assert code == 2
    assert "with weights 000000000000" in err


def test_device_without_numbers_is_refused():
    with pytest.raises(ConfigError, match="meta"):
        predict.find_device("meta")


def test_command_works_without_hydra(run, tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(
        "import sys\nfor n in ('hydra', 'omegaconf', 'wandb', 'datasets'): sys.modules[n] = None\n"
    )
    path = os.pathsep.join([str(tmp_path / "block"), str(tiny.ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "peftbench.predict", f"adapter={run[0]}", f"input={tmp_path}/a.png"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert sorted(w for w in done.stdout.split() if w in LABELS) == LABELS


def test_help(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "adapter=" in out
    assert call(capsys)[0] == 2
