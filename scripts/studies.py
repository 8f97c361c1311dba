"""The studies of configs/study: what each runs, and the figures that it should come near to.

python scripts/studies.py                 all studies, one line each
python scripts/studies.py name=glue_sift  one study: its command, its sweep, the expected figures

Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from peftbench import arguments
from peftbench.errors import PeftbenchError, unknown

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "study"


@dataclass(frozen=True)
class Asked:
    """Settings; see the top of this file."""

    name: str | None = None


def sweep(path: Path) -> Mapping[str, list[str]]:
    """Return the swept settings of a study and their values."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    params = content["hydra"]["sweeper"]["params"]
    return {key: str(values).split(",") for key, values in params.items()}


def about(path: Path) -> str:
    """Return the prose of a study's header as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#") or line.startswith("# expected:"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def show(path: Path) -> None:
    """Print one study."""
    from peftbench.reports.expected import expected

    print(f"{about(path)}\n\n  python train.py -m +study={path.stem}\n")
    for key, values in sweep(path).items():
        print(f"  {key} = {', '.join(values)}")
    source = ""
    for figure in expected(path):
        if figure.source != source:
            source = figure.source
            print(f"\nexpected ({source})")
        between = f"{figure.low:g} to {figure.high:g}"
        name = f"{figure.method} ({figure.theirs})"
        print(f"  {name:<54} {figure.dataset:<28} {figure.value:>6g}  {between}")


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = list(sys.argv[1:] if given is None else given)
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    try:
        asked = arguments.read(Asked, words)
        if asked.name is not None and asked.name not in found:
            raise unknown("study", asked.name, found, "name")
        if asked.name is not None:
            show(found[asked.name])
        else:
            for name, path in found.items():
                runs = math.prod(len(values) for values in sweep(path).values())
                print(f"{name:<24} {runs:>4} combinations  {about(path)[:100]}")
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
