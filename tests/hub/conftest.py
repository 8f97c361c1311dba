"""A hub on loopback with small repositories in the published formats, and processes that use it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server import Hub, serve

ROOT = Path(__file__).parents[2]
ARCH = {"embed_dim": 32, "depth": 2, "num_heads": 4}
REGISTERED = "vit_tiny_patch16_224.augreg_in21k"
NAMES = ["ant", "bee", "cat"]


class Refused(Exception):
    """A call of a child ended with a typed error."""


class Child:
    """A process in which the hub's clients are called."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT)},
        )

    def __call__(self, function: str, **settings: Any) -> dict:
        """Return what a function of ``child.py`` returned; its error is raised as ``Refused``."""
        self.process.stdin.write(json.dumps({"do": function, "with": settings}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the child ended:\n{self.log.read_text()}"
        answer = json.loads(line)
        if "error" in answer:
            raise Refused(f"{answer['error']}: {answer['text']}")
        return answer["value"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """Return an environment for clients of ``hub``: a proxy is set, and loopback goes past it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    dead = "http://127.0.0.1:9"
    proxies = {"http_proxy": dead, "https_proxy": dead, "HTTP_PROXY": dead, "HTTPS_PROXY": dead}
    past = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "OMP_NUM_THREADS": "1",
    }
    return {**clean, **proxies, **past, **own, **more}


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """Return a PNG of noise, width and height in pixels."""
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def table(count: int, first: int = 0, label: Any = None, **columns: Any) -> bytes:
    """Return a parquet file as ``datasets`` publishes it, with the columns img and fine_label."""
    import datasets

    features = {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=NAMES)}
    rows: dict[str, Any] = {
        "img": [{"bytes": picture(first + i), "path": None} for i in range(count)],
        "fine_label": label or [i % 3 for i in range(count)],
    }
    for name, (kind, values) in columns.items():
        features[name], rows[name] = kind, values
    out = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(out)
    return out.getvalue()


def saved(save: Callable[[Path], object], folder: Path) -> dict[str, bytes]:
    """Return the files that a library's own writer leaves."""
    folder.mkdir()
    save(folder)
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def fill(hub: Hub, folder: Path) -> None:
    """Push a registered timm network, one of its own, a text network and a data set."""
    import timm
    from timm.models import save_for_hf
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    net = timm.create_model(REGISTERED, pretrained=False, num_classes=7, **ARCH)
    net.pretrained_cfg["num_classes"] = 7
    files = saved(lambda p: save_for_hf(net, str(p), safe_serialization=True), folder / "a")
    hub.push("models", f"timm/{REGISTERED}", files)
    small = {**ARCH, "patch_size": 8, "img_size": 32}
    own = timm.create_model("vit_tiny_patch16_224", num_classes=5, **small)
    files = saved(lambda p: save_for_hf(own, str(p), model_args=small), folder / "b")
    hub.push("models", "me/small", files)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    hub.push("models", "me/words", saved(BertModel(config).save_pretrained, folder / "c"))
    hub.push("datasets", "me/pets", pets())


def pets(shift: int = 0) -> dict[str, bytes]:
    """Return the files of a data set of 30 and 12 pictures in three classes."""
    return {
        "data/train-00000-of-00002.parquet": table(18, shift),
        "data/train-00001-of-00002.parquet": table(12, shift + 50),
        "data/test-00000-of-00001.parquet": table(12, shift + 100),
    }


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serve() as running:
        fill(running, tmp_path_factory.mktemp("repositories"))
        yield running


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' cache, shared by those that are on line and those that are not."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def online(hub: Hub, home: Path) -> Iterator[Child]:
    child = Child(environment(hub, home), home / "online.log")
    yield child
    child.close()


@pytest.fixture(scope="session")
def offline(hub: Hub, home: Path) -> Iterator[Child]:
    child = Child(environment(hub, home, HF_HUB_OFFLINE="1"), home / "offline.log")
    yield child
    child.close()
