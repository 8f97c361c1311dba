"""Building one task's folder of VTAB-1K from the archives of its authors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, CorruptAssetError
from ..files import write_json, write_text
from ..tasks.vtab_tables import LISTS, NAMES, SOURCE, TABLE, TRAIN, VAL, Row
from . import natural, structured
from .catalogue import ORIGINS, Origin
from .order import Cut, Record, arrange
from .pixels import Format, save
from .shelf import Shelf
from .source import Source
from .splits import Chosen, SplitLists, choose

READERS: Mapping[str, tuple[str, Callable[[Shelf], Source]]] = {
    "cifar100": ("cifar100", natural.cifar100),
    "caltech101": ("caltech101", natural.caltech101),
    "dtd": ("dtd", natural.dtd),
    "flowers102": ("flowers102", natural.flowers102),
    "pets": ("pets", natural.pets),
    "svhn": ("svhn", natural.svhn),
    "sun397": ("sun397", natural.sun397),
    "patch_camelyon": ("patch_camelyon", natural.patch_camelyon),
    "eurosat": ("eurosat", natural.eurosat),
    "resisc45": ("resisc45", natural.resisc45),
    "diabetic_retinopathy": ("diabetic_retinopathy", natural.diabetic_retinopathy),
    "clevr_count": ("clevr", structured.clevr_count),
    "clevr_dist": ("clevr", structured.clevr_dist),
    "dmlab": ("dmlab", structured.dmlab),
    "kitti": ("kitti", structured.kitti),
    "dsprites_loc": ("dsprites", structured.dsprites_loc),
    "dsprites_ori": ("dsprites", structured.dsprites_ori),
    "smallnorb_azi": ("smallnorb", structured.smallnorb_azi),
    "smallnorb_ele": ("smallnorb", structured.smallnorb_ele),
}
"""Task -> data set and reader."""

ORDERS = {
    "tfds": "by the hash that TensorFlow Datasets sorts examples by",
    "source": "a shuffle of the archive's order by the seed",
}
FOLDERS = {"train": "train800", "val": "val200", "test": "test"}
SCRATCH = "scratch"


@dataclass(frozen=True)
class Plan:
    """How tasks are built.

    Attributes:
        root: the folder that holds the tasks' folders.
        archives: the folder of archives.
        order: ``tfds`` or ``source``.
        form: ``original``, ``png`` or ``jpeg``.
        seed: of the shuffle of ``order="source"``.
        lists: published lists for training and validation, or None.
        strict: refuse archives and counts other than the published ones.
        digests: digests of archives already computed.

    """

    root: Path
    archives: Path
    order: Literal["tfds", "source"] = "tfds"
    form: Format = "original"
    seed: int = 0
    lists: SplitLists | None = None
    strict: bool = True
    digests: dict[Path, str] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return what decides the folder's content, besides the archives."""
        seed = {"seed": self.seed} if self.order == "source" else {}
        lists = {"splits_sha256": self.lists.sha256} if self.lists else {}
        return {"order": self.order, **seed, **lists, "format": self.form}


def origin_of(task: str) -> Origin:
    """Return the data set that a task is made of."""
    return ORIGINS[READERS[task][0]]


def build(task: str, plan: Plan) -> str:
    """Build a task's folder and return a line that says what was done.

    The folder appears whole, under its name, when all of it is written; one that is there is left.

    Raises:
        MissingAssetError: an archive is not there.
        CorruptAssetError: an archive is damaged, or its counts are not the published ones.
        ConfigError: the folder is there and holds something else.

    """
    row = TABLE[task]
    target = plan.root / row.folder
    if target.exists():
        _refuse_other(target, task, plan)
        return f"{task}: is there ({target})"
    start = time.monotonic()
    with _folder(target) as folder:
        scratch = folder / SCRATCH
        scratch.mkdir()
        shelf = Shelf(plan.archives, origin_of(task), scratch, plan.strict, plan.digests)
        source = READERS[task][1](shelf)
        parts = _parts(task, source, plan)
        _check(row, source, parts, plan)
        lines = _write_images(folder, source, parts, plan.form)
        shutil.rmtree(scratch)
        _write_lists(folder, row, source, lines)
        write_json(folder / SOURCE, _account(task, shelf, source, parts, plan))
    counts = " + ".join(f"{len(parts[part]):,}" for part in FOLDERS)
    return f"{task}: {counts} images in {time.monotonic() - start:.0f} s ({target})"


def _parts(task: str, source: Source, plan: Plan) -> Chosen:
    origin = origin_of(task)
    cut: Cut = origin.cut
    splits = arrange(source.splits, plan.order, plan.seed)
    if plan.lists is None:
        return cut.parts(splits, TRAIN, VAL)
    builder = origin.builder.split(" ")[0]
    keys = (task, TABLE[task].folder, builder, builder.split("/")[0], READERS[task][0])
    return choose(plan.lists.names(tuple(dict.fromkeys(keys)), TRAIN), splits, cut)


def _check(row: Row, source: Source, parts: Chosen, plan: Plan) -> None:
    """Refuse labels out of range, and with ``strict`` other counts than the published ones."""
    for part, chosen in parts.items():
        for split, record in chosen:
            if not 0 <= record.label < row.classes:
                raise CorruptAssetError(
                    f"{row.name}: {split} image {record.name} has the label {record.label}, "
                    f"allowed are 0 to {row.classes - 1}"
                )
        if not chosen:
            raise CorruptAssetError(f"{row.name}: no image is left for {part}")
    if not plan.strict:
        return
    found = {f"split {split}": len(records) for split, records in source.splits.items()}
    found |= {part: len(chosen) for part, chosen in parts.items()}
    published = {f"split {split}": n for split, n in origin_of(row.name).splits.items()}
    published |= {part: row.counts()[part] for part in parts}
    wrong = [
        f"{what} has {found.get(what, 0):,} images, published are {count:,}"
        for what, count in published.items()
        if found.get(what, 0) != count
    ]
    if wrong:
        raise CorruptAssetError(f"{row.name}: {'; '.join(wrong)}\n  strict=false takes them so")


def _write_images(
    folder: Path, source: Source, parts: Chosen, form: Format
) -> dict[str, list[str]]:
    """Write all pictures in one pass per split; return part -> lines of its list."""
    stems: dict[str, dict[Any, tuple[str, int]]] = defaultdict(dict)
    lines: dict[str, list[str]] = {}
    for part, chosen in parts.items():
        (folder / "images" / FOLDERS[part]).mkdir(parents=True)
        lines[part] = [""] * len(chosen)
        for i, (split, record) in enumerate(chosen):
            if record.key in stems[split]:
                raise CorruptAssetError(f"the image {record.name} of split {split} is there twice")
            stems[split][record.key] = (part, i)
    by_split: dict[str, list[Record]] = defaultdict(list)
    for chosen in parts.values():
        for split, record in chosen:
            by_split[split].append(record)
    for split, records in by_split.items():
        for record, picture in source.read(split, records):
            part, i = stems[split][record.key]
            stem = folder / "images" / FOLDERS[part] / f"{i:06d}"
            path = save(picture, stem, form, f"{record.ref} of split {split}")
            lines[part][i] = f"{path.relative_to(folder).as_posix()} {record.label}"
    missing = [f"{part} {i}" for part in lines for i, line in enumerate(lines[part]) if not line]
    if missing:
        raise CorruptAssetError(f"the archives lack {len(missing)} images, first {missing[0]}")
    return lines


def _write_lists(folder: Path, row: Row, source: Source, lines: dict[str, list[str]]) -> None:
    whole = {**lines, "trainval": lines["train"] + lines["val"]}
    for part, file in LISTS.items():
        write_text(folder / file, "".join(f"{line}\n" for line in whole[part]))
    if len(source.names) == row.classes:
        write_text(folder / NAMES, "".join(f"{name}\n" for name in source.names))


def _account(task: str, shelf: Shelf, source: Source, parts: Chosen, plan: Plan) -> dict[str, Any]:
    """Return what ``source.json`` says: nothing in it depends on where the folders lie."""
    origin = origin_of(task)
    return {
        "schema_version": 1,
        "task": task,
        "made_by": "scripts/prepare_data.py build vtab1k",
        "data_set": origin.title,
        "archives": sorted(shelf.used, key=lambda one: str(one["name"])),
        **plan.settings(),
        "order_means": ORDERS[plan.order],
        "order_follows": origin.builder if plan.order == "tfds" else "",
        "order_checked_against_published_files": False,
        "order_note": origin.order_note,
        "splits": {split: len(records) for split, records in source.splits.items()},
        "counts": {part: len(chosen) for part, chosen in parts.items()},
    }


def _refuse_other(target: Path, task: str, plan: Plan) -> None:
    """Accept a finished folder that these settings made, and refuse any other.

    Raises:
        ConfigError: it was made otherwise, or not by this command.

    """
    try:
        account = json.loads((target / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{task}: {target} is there and has no {SOURCE}, so this command did not make it; it "
            "is left as it is (key: root)\n  move it away, or name another root"
        ) from error
    asked = plan.settings()
    for key in ("order", "seed", "splits_sha256", "format"):
        if account.get(key) != asked.get(key):
            raise ConfigError(
                f"{task}: {target} was made with {key}={account.get(key)}, now asked is "
                f"{asked.get(key)}; it is left as it is (key: {key.partition('_')[0]})\n"
                "  move it away, or name another root"
            )


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; rename it to that if the block succeeds.

    What a killed build left is removed; a folder of a process that lives is not touched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        if not _lives(left.name.split(".")[-3]):
            shutil.rmtree(left)
    prefix = f".{target.name}.{os.getpid()}."
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=target.parent))
    try:
        yield folder
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        if target.exists():
            raise ConfigError(f"{target} was made by another command in the meantime (key: root)")
        os.replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def missing_archives(task: str, archives: Path) -> list[str]:
    """Return the names of a task's archives that are not in the folder ``archives``."""
    return [
        archive.name
        for archive in origin_of(task).archives
        if not any((archives / name).exists() for name in (archive.name, *archive.also))
    ]
