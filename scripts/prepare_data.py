"""Build VTAB-1K from the archives of the data sets' authors, and check trees of images.

python scripts/prepare_data.py list                          archives: names, sizes, access, what
  [archives=DIR] [tasks=[dtd,svhn]]                          has to be done by hand
python scripts/prepare_data.py build vtab1k root=DIR archives=DIR
  [tasks=[dtd,svhn]] [order=tfds] [format=original] [splits=FILE] [seed=0] [strict=true]
python scripts/prepare_data.py check vtab1k root=DIR [tasks=[dtd,svhn]]
python scripts/prepare_data.py check fgvc root=DIR [tasks=[cub]]
python scripts/prepare_data.py check coco root=DIR [tasks=[karpathy]]

build: every task becomes one folder below root, whole or not at all; a finished one is skipped.
  archives  the folder that holds the files that `list` names; nothing is downloaded.
  order     which images are the first 800 and 200. tfds: the order of TensorFlow Datasets, computed
            from the hash of file names or row numbers, as the benchmark means it. source: a
            shuffle of the archive's order by seed; such a task is not the published one.
  splits    a JSON file of published lists (data set -> 1,000 names) that decides instead.
  format    original: encoded files byte for byte, pixels as PNG: nothing is lost (default). png:
            all as PNG. jpeg: all as JPEG of quality 75, as NOAH's exporter does, which changes
            pixels: compare with results on such lists only.
  strict    false takes archives and counts other than the published ones.
check: names per task what is missing, wrong or corrupt, and exits with 1 if there is anything.

docs/data.md says where the archives are and what is comparable with what.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peftbench import arguments
from peftbench.errors import ConfigError, PeftbenchError, unknown
from peftbench.prepare.build import Plan, build, missing_archives, origin_of
from peftbench.prepare.pixels import Format
from peftbench.prepare.splits import SplitLists
from peftbench.tasks.check import SUITES, reports
from peftbench.tasks.vtab_tables import TABLE

CAN_BUILD = ("vtab1k",)


@dataclass(frozen=True)
class BuildOptions:
    """Settings of ``build``; their meaning stands in the file's docstring."""

    root: str
    archives: str
    tasks: tuple[str, ...] = ()
    order: Literal["tfds", "source"] = "tfds"
    format: Format = "original"
    splits: str = ""
    seed: int = 0
    strict: bool = True


@dataclass(frozen=True)
class CheckOptions:
    """Settings of ``check``."""

    root: str
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListOptions:
    """Settings of ``list``."""

    archives: str = ""
    tasks: tuple[str, ...] = ()


def chosen(tasks: Sequence[str]) -> list[str]:
    """Return the tasks to work on, in the table's order; none named means all."""
    for name in tasks:
        if name not in TABLE:
            raise unknown("VTAB-1K task", name, TABLE, "tasks")
    return [name for name in TABLE if not tasks or name in tasks]


def run_build(options: BuildOptions) -> int:
    """Build tasks one after the other; return 1 if any could not be built."""
    archives = Path(options.archives).expanduser()
    if not archives.is_dir():
        raise ConfigError(f"there is no folder {archives} (key: archives)")
    plan = Plan(
        root=Path(options.root).expanduser(),
        archives=archives,
        order=options.order,
        form=options.format,
        seed=options.seed,
        lists=SplitLists(Path(options.splits).expanduser()) if options.splits else None,
        strict=options.strict,
    )
    failed = []
    tasks = chosen(options.tasks)
    for task in tasks:
        try:
            print(build(task, plan), flush=True)
        except PeftbenchError as error:
            print(f"{task}: not built\n  {error}", file=sys.stderr, flush=True)
            failed.append(task)
    if failed:
        print(f"{len(failed)} of {len(tasks)} tasks not built: {', '.join(failed)}")
    return 1 if failed else 0


def run_list(options: ListOptions) -> int:
    """Print what every task is made of, and with ``archives`` what of it is missing there."""
    for task in chosen(options.tasks):
        origin = origin_of(task)
        print(f"{task}: {origin.title}; {origin.access}\n  page     {origin.page}")
        for archive in origin.archives:
            size = f"{archive.bytes:>14,} bytes" if archive.bytes else f"{'':14}      "
            also = f"  or {', '.join(archive.also)}" if archive.also else ""
            print(f"  archive  {size}  {archive.name}{also}")
        print(f"  by hand  {origin.by_hand or 'nothing'}")
        if origin.order_note:
            print(f"  note     {origin.order_note}")
        if options.archives:
            missing = missing_archives(task, Path(options.archives).expanduser())
            print(f"  missing  {', '.join(missing) or 'nothing'}")
    return 0


def run_check(suite: str, options: CheckOptions) -> int:
    """Print what is wrong with every task of a tree; return 1 if anything is."""
    root = Path(options.root).expanduser()
    if not root.is_dir():
        raise ConfigError(f"there is no folder {root} (key: root)")
    bad, count = [], 0
    for report in reports(suite, root, options.tasks):
        count += 1
        print(f"{report.task}: {'ok' if report.ok else 'WRONG'}, {report.images:,} images decoded")
        for line in report.lines():
            print(f"  {line}")
        sys.stdout.flush()
        bad += [] if report.ok else [report.task]
    others = f"; not: {', '.join(bad)}" if bad else ""
    print(f"{count - len(bad)} of {count} tasks are whole{others}")
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if anything is missing or wrong, or 2 for a bad setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("list", "build", "check"))
    parser.add_argument("settings", nargs="*", metavar="SUITE or KEY=VALUE")
    options = parser.parse_args(argv)
    suite, settings = "", list(options.settings)
    if settings and "=" not in settings[0]:
        suite = settings.pop(0)
    try:
        if options.command == "list":
            _known(suite or "vtab1k", CAN_BUILD)
            return run_list(arguments.read(ListOptions, settings))
        if options.command == "build":
            _known(suite, CAN_BUILD)
            return run_build(arguments.read(BuildOptions, settings))
        _known(suite, tuple(SUITES))
        return run_check(suite, arguments.read(CheckOptions, settings))
    except PeftbenchError as error:
        print(error, file=sys.stderr)
        return 2


def _known(suite: str, suites: Sequence[str]) -> None:
    if suite not in suites:
        raise unknown("suite", suite or "(none named)", suites)


if __name__ == "__main__":
    sys.exit(main())
