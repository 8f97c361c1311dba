"""Small trees of captioned pictures in exactly the layouts that the readers read."""

import json
from pathlib import Path

from trees import picture


def caption(image_id: int, number: int) -> str:
    return f" Picture {image_id} shows thing {number}.\n"


def said(ids, per=2, first=0):
    """Return COCO's ``annotations`` of images."""
    pairs = [(i, k) for i in ids for k in range(per)]
    return [
        {"id": first + n, "image_id": i, "caption": caption(i, k)} for n, (i, k) in enumerate(pairs)
    ]


def coco(root: Path, year: int, train=range(1, 41), val=range(101, 111)) -> Path:
    """Write both parts of a release: pictures and annotation files."""
    for part, ids in ((f"train{year}", train), (f"val{year}", val)):
        names = {i: f"{i:012}.jpg" if year == 2017 else f"COCO_{part}_{i:012}.jpg" for i in ids}
        for i, name in names.items():
            picture(root / part / name, i)
        images = [
            {"id": i, "file_name": name, "height": 8, "width": 8} for i, name in names.items()
        ]
        write(
            root / "annotations" / f"captions_{part}.json",
            {"info": {}, "licenses": [], "images": images, "annotations": said(ids)},
        )
    return root


def karpathy(path: Path, parts, dataset="coco") -> Path:
    """Write ``dataset_*.json``; ``parts`` are split by image id.

    Images below 100 are those of train2014, as in the true file.
    """
    images = []
    for n, (i, part) in enumerate(parts.items()):
        folder = "train2014" if i < 100 else "val2014"
        sentences = [
            {"tokens": caption(i, k).lower().split(), "raw": caption(i, k), "imgid": n, "sentid": n}
            for k in range(2)
        ]
        image = {"imgid": n, "sentids": [n], "split": part, "sentences": sentences}
        if dataset == "coco":
            name = f"COCO_{folder}_{i:012}.jpg"
            image |= {"filepath": folder, "filename": name, "cocoid": i}
        else:
            image["filename"] = f"{i}.jpg"
        images.append(image)
    write(path, {"images": images, "dataset": dataset})
    return path


def nocaps(root: Path, domains) -> Path:
    """Write the validation part; ``domains`` by image id."""
    images = []
    for i, domain in domains.items():
        picture(root / "images" / f"{i:016x}.jpg", i)
        open_id = f"{i:016x}"
        images.append(
            {"id": i, "open_images_id": open_id, "file_name": f"{open_id}.jpg", "domain": domain}
        )
    value = {"licenses": [], "info": {}, "images": images, "annotations": said(domains, per=10)}
    write(root / "nocaps_val_4500_captions.json", value)
    return root


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path: Path, change) -> None:
    """Change a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
