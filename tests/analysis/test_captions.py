"""Captions to look at: perplexities of the run, attention of an eager pass, a page for itself."""

import base64
import importlib.util
import io
import json
import math
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import caption_layouts as layouts
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from small_runs import train

import peftbench
from peftbench.analysis import captions
from peftbench.analysis.opened import open_run
from peftbench.errors import ConfigError, CorruptAssetError
from peftbench.files import write_json
from peftbench.reports import caption_page
from peftbench.tasks.captioned import behind_picture
from peftbench.train.describer import Describer
from peftbench.train.reader import Writing

ROOT = Path(__file__).parents[2]
P = tiny.PLACES
PARTS = dict.fromkeys(range(1, 9), "train") | dict.fromkeys(range(105, 107), "val")
PARTS |= dict.fromkeys(range(108, 113), "test")
METHOD = {
    "_target_": "peftbench.methods.context.Context",
    "inner": {"_target_": "peftbench.methods.lora.Lora", "rank": 2},
}
LIMITS = {"written": None, "longest_target": 40, "beams": 1}


def command(*words):
    """Run scripts/report.py in this process."""
    spec = importlib.util.spec_from_file_location("report_script", ROOT / "scripts" / "report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of Context-PEFT on a COCO tree that writes no captions."""
    folder = tmp_path_factory.mktemp("captions")
    root = layouts.coco(folder / "coco", 2014, range(1, 9), range(101, 113))
    layouts.karpathy(root / "dataset_coco.json", PARTS)
    data = tiny.config("data", "coco") | {"root": str(root)} | LIMITS
    names = {"backbone": "captioner_tiny_random", "data": "coco", "spec": data}
    return train(folder, METHOD, epochs=1, batch_size=8, eval_batch_size=4, **names)


@pytest.fixture(scope="module")
def page(run):
    """All pictures of test."""
    return captions.measure(run, 9)


class Parsed(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.links, self.words, self.sections = [], [], [], []
        self.text, self._inside = "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.sources += [given["src"]] if "src" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.sections += [given] if tag == "section" else []
        if "word" in (given.get("class") or "").split():
            self.words.append((len(self.sections) - 1, int(given["data-w"])))
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


def test_perplexities_are_those_of_the_run(run, page):
    assert page.total == len(page.pictures) == 5
    loss = sum(r.loss for p in page.pictures for r in p.references)
    tokens = sum(r.tokens for p in page.pictures for r in p.references)
    assert math.exp(loss / tokens) == pytest.approx(run.result["metrics"]["test"]["perplexity"])
    assert [p.name for p in page.pictures] == ["108", "109", "110", "111", "112"]
    assert page.pictures[0].references[1].text == "Picture 108 shows thing 1."
    assert "written for this page (greedy, at most 30 tokens): the run wrote none" in page.written
    assert not page.learned


def test_some_pictures_stand_at_even_distances(run, page):
    some = captions.measure(run, 2)
    assert [p.name for p in some.pictures] == ["108", "110"]
    assert some.total == 5
    assert some.pictures[1].perplexity == pytest.approx(page.pictures[2].perplexity, rel=1e-5)
    assert some.pictures[1].words == page.pictures[2].words


def test_val_was_learned_where_the_last_fit_had_it(run):
    run.result["selection"]["phases"].append({"name": "final", "fit": ["train", "val"]})
    try:
        shown = captions.measure(run, 1, "val")
    finally:
        run.result["selection"]["phases"].pop()
    assert shown.learned and "nothing here is held out" in caption_page.render(shown)
    assert not captions.measure(run, 1, "val").learned


def direct(model, pixels, ids):
    """Return attention to the picture of a pass with transformers' own eager attention."""
    codec, text = model.backbone.codec, model.base.text
    config = text.config
    before = config._attn_implementation
    made = behind_picture([[*ids, codec.end]], model.backbone).take(torch.tensor([0]))[0]
    model._forget()
    inputs = model._connected({"input_ids": made["input_ids"], "image": pixels})
    config._attn_implementation = "eager"
    try:
        with torch.no_grad():
            found = text(**inputs, output_attentions=True).attentions
    finally:
        config._attn_implementation = before
    return torch.stack([a[0].mean(0)[P:, 1 : 1 + P] for a in found])  # (L, 1 + W, P)


@pytest.mark.parametrize("method", ["context", "full", "ia3"])
def test_attention_is_that_of_an_eager_pass(method):
    model = peftbench.attach(tiny.method(method), tiny.fresh("captioner_tiny_random"), classes=None)
    tiny.perturb(model, 0.1)
    describer = Describer(model, Writing(20))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = describer.codec.ids(["a red car", "sea"])
    before = tiny.traces(model.base)
    found = captions.attention(describer, describer.see(pixels), ids)
    assert tiny.traces(model.base) == before
    assert found.shape == (2, 2, 1 + len("a red car"), P)
    assert (found.sum(-1) <= 1).all() and (found >= 0).all()
    for i, own in enumerate(ids):
        wanted = direct(model, pixels[i : i + 1], own)
        assert torch.allclose(found[i, :, : 1 + len(own)], wanted, atol=1e-6)
    assert not (found[0, 0, 1] - found[0, 0, 2]).abs().max() < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        half = captions.attention(describer, describer.see(pixels), ids)
    assert half.dtype == torch.float32 and (half - found).abs().max() < 0.02


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_learned_tokens_and_keys_are_no_places(method):
    made = tiny.method(method)
    model = peftbench.attach(made, tiny.fresh("captioner_tiny_random"), classes=None)
    tiny.perturb(model, 0.1)
    describer = Describer(model, Writing(20))
    seen = describer.see(torch.randn(1, 3, 32, 32))
    ids = describer.codec.ids(["a red car"])
    looks = []

    class Whole(captions.Looks):
        def see(self, layer, weights_BHTK):
            looks.append(weights_BHTK)
            super().see(layer, weights_BHTK)

    before, captions.Looks = captions.Looks, Whole
    try:
        found = captions.attention(describer, seen, ids)
    finally:
        captions.Looks = before
    words = len(ids[0])
    whole = looks[0][0].mean(0)  # (T, K): learned ones stand in front in both methods
    assert whole.shape[1] > 1 + P + words
    assert torch.equal(found[0, 0], whole[-(1 + words) :, -(P + words) : -words])


def test_parts_of_a_caption_have_the_mean_of_their_tokens():
    rows = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
    own, before = captions.of_parts(rows, [1, 2])
    assert np.array_equal(own, np.stack([rows[:, 1], rows[:, 2:4].mean(1)], 1))
    assert np.array_equal(before, np.stack([rows[:, 0], rows[:, 1:3].mean(1)], 1))
    assert captions.of_parts(rows, [])[0].shape == (2, 0, 3)


def test_parts_of_a_caption_are_whole_characters():
    class Bytes:
        def decode(self, ids, **_):
            return bytes(ids).decode("utf-8", errors="replace")

    codec = peftbench.backbones.codec.Codec(Bytes(), "decoder")
    ids = list("a née".encode())
    assert codec.pieces(ids) == [("a", 1), (" ", 1), ("n", 1), ("é", 2), ("e", 1)]
    assert codec.pieces([]) == []


def test_the_page_stands_alone_and_shows_every_picture(page):
    text = caption_page.render(page)
    found = Parsed(text)
    assert found.links == []
    assert len(found.sources) == len(page.pictures)
    assert not re.search(r"https?://|@import|url\(|<link", text)
    order = sorted(range(5), key=lambda i: page.pictures[i].perplexity)
    assert [int(s["data-i"]) for s in found.sections] == order
    for place, index in enumerate(order):
        shown = page.pictures[index]
        kind, _, data = found.sources[place].removeprefix("data:image/").partition(";base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert (picture.format.lower(), picture.size) == (kind, shown.image.size)
        assert [w for at, w in found.words if at == place] == list(range(len(shown.words)))
        assert "".join(shown.words) in found.text
        for reference in shown.references:
            assert reference.text in found.text
        assert f"perplexity {shown.perplexity:,.1f}" in found.text
    assert "attention, not an explanation" in found.text
    assert "python train.py" in found.text or "no choice in configs/" in found.text


def test_the_page_holds_the_attention(page):
    text = caption_page.render(page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert (data["layers"], data["side"] ** 2) == (2, P)
    for shown, looks in zip(page.pictures, data["looks"], strict=True):
        for name in ("own", "before"):
            rows = getattr(shown, name)
            wanted = np.concatenate([rows.mean(0, keepdims=True), rows])
            raw = np.frombuffer(base64.b64decode(looks[name]["bytes"]), np.uint8)
            most = np.array(looks[name]["most"])[..., None]
            found = raw.reshape(wanted.shape) / 255 * most
            assert np.abs(found - wanted).max() <= wanted.max() / 255
            assert np.allclose(looks[name]["sum"], wanted.sum(-1), rtol=1e-3)


def test_large_pictures_become_small_and_text_is_escaped(page):
    photo = Image.effect_noise((640, 480), 60).convert("RGB")
    source, size = caption_page.embedded(photo)
    assert size == (224, 168) and source.startswith("data:image/jpeg")
    assert caption_page.embedded(Image.new("RGB", (300, 10)))[0].startswith("data:image/png")
    first = page.pictures[0]
    odd = caption_page.Reference("<b>&\"'</script>", 1.0, 2)
    values = {**vars(first), "references": (odd,), "words": ("<u>",), "name": "<x>"}
    values |= {"own": first.own[:, :1], "before": first.before[:, :1]}
    shown = caption_page.Page(**{**vars(page), "pictures": (caption_page.Picture(**values),)})
    text = caption_page.render(shown)
    assert "<b>&" not in text and "<u>" not in text and "<x>" not in text
    assert Parsed(text).text.count("<b>&\"'</script>") == 1


def test_the_window_is_what_the_network_sees():
    preprocess = tiny.backbone("captioner_tiny_random").preprocess
    assert preprocess.window(20, 50) == (0, 0, 1, 1)
    cut = type(preprocess)(32, preprocess.mean, preprocess.std, crop_pct=0.5)
    assert cut.window(100, 100) == (0.25, 0.25, 0.5, 0.5)
    left, top, width, height = cut.window(100, 200)
    assert (left, top, width, height) == (0.375, 0.25, 0.25, 0.5)


def test_captions_of_the_run_are_shown(run):
    path = run.path / "captions" / "test.json"
    rows = [{"image_id": i, "caption": f"thing {i}"} for i in range(108, 113)]
    try:
        write_json(path, rows)
        shown = captions.measure(run, 2)
        assert ["".join(p.words) for p in shown.pictures] == ["thing 108", "thing 110"]
        assert "written by the run" in shown.written
        write_json(path, rows[1:])
        with pytest.raises(CorruptAssetError, match=r"test\.json is not of the pictures"):
            captions.measure(run, 2)
        path.write_text("{")
        with pytest.raises(CorruptAssetError, match="holds no captions"):
            captions.measure(run, 2)
    finally:
        path.unlink()


def test_the_command_writes_the_page(run, tmp_path, capsys):
    assert command("captions", f"run={run.path}", "pictures=1") == 0
    out = run.path / "analysis" / "captions_test.html"
    assert capsys.readouterr().out == f"page: {out}\n"
    assert len(Parsed(out.read_text()).sections) == 1
    assert command("captions", f"run={run.path}", "pictures=1", f"out={tmp_path}/a.html") == 0
    assert (tmp_path / "a.html").is_file()


def test_mistakes_are_told(run, gist_run, tmp_path, capsys):
    given = f"run={run.path}"
    for words, said in (
        ((given, "out=page.txt"), "out: 'page.txt' must end in .html"),
        ((given, "pictures=0"), "pictures: 0 is too small"),
        ((given, "split=tst"), "Did you mean 'test'?"),
        ((f"run={tmp_path}",), "is no run directory"),
        ((f"run={gist_run.path}",), "is no run on captioned pictures (its data: digits)"),
    ):
        assert command("captions", *words) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error


def test_measure_refuses_other_tasks(gist_run):
    with pytest.raises(ConfigError, match="captioned pictures"):
        captions.measure(gist_run)


def test_a_run_says_how_it_wrote(run):
    stored = json.loads((run.path / "adapter" / "adapter.json").read_text())
    assert stored["captions"] == {"longest_target": 40, "written": None, "beams": 1}
    describer = Describer.load(run.path)
    assert describer.how == Writing(40)
    assert open_run(run.path).result["run_id"] == run.result["run_id"]


@pytest.mark.browser
@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_attention_appears_where_a_word_is_pointed_at(page, tmp_path, width, dark):
    from playwright.sync_api import sync_playwright

    path = tmp_path / "captions.html"
    caption_page.write(page, path)
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        sandbox = os.geteuid() != 0
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=sandbox)
        tab = browser.new_page(
            viewport={"width": width, "height": 844},
            color_scheme="dark" if dark else "light",
            offline=True,
        )
        told, asked = [], []
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        maps = tab.locator(".view.on")
        shot = tab.locator(".shot").first
        shot.locator(".word").first.hover()
        assert maps.count() == 1
        index = int(shot.get_attribute("data-i"))
        mean = page.pictures[index].own.mean(0)[0]
        drawn = shot.locator("canvas").evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
        assert len(drawn) == 4 * P
        assert int(np.argmax(drawn[3::4])) == int(mean.argmax())  # the most opaque place
        assert "of the attention goes to the picture" in shot.locator(".told").inner_text()
        tab.select_option("#layer", "2")
        tab.mouse.move(0, 0)
        assert maps.count() == 0
        shot.locator(".word").nth(1).click()
        tab.mouse.move(0, 0)
        assert maps.count() == 1 and "layer 2" in shot.locator(".told").inner_text()
        tab.keyboard.press("Escape")
        assert maps.count() == 0
        tab.select_option("#order", "down")
        values = [float(s.get_attribute("data-v")) for s in tab.locator(".shot").all()]
        assert values == sorted(values, reverse=True)
        assert not told
        assert asked == [path.as_uri()]
        browser.close()
