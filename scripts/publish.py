"""A finished run's adapter with a model card, as a folder or on the hub.

python scripts/publish.py run=outputs/default/ID to=FOLDER
python scripts/publish.py run=outputs/default/ID to=hub:owner/name licence=mit private=true

run      the run's folder
to       a folder, or hub:owner/name (made if it is not there; needs `hf auth login`)
licence  of the adapter, as the hub names licences (default: none is stated)
private  whether a new repository is private (default: false)

The folder holds adapter.json, adapter.safetensors and README.md (the card, written from
result.json), and the trained sources of a method that leans on them. Anybody loads it with
peftbench.load(FOLDER) or peftbench.load("owner/name").
Exit status: 0, or 2 after a mistake that the message says how to mend.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench import arguments, hub
from peftbench.errors import ConfigError


@dataclass(frozen=True)
class Asked:
    """Settings; see the top of this file."""

    run: str
    to: str
    licence: str | None = None
    private: bool = False


def publish(asked: Asked) -> None:
    """Write the folder, and upload it where that is asked for."""
    from peftbench.runs.publish import bundle, to_hub

    run = Path(asked.run)
    if not asked.to.startswith(hub.PREFIX):
        bundle(run, Path(asked.to), Path(asked.to).name, asked.licence)
        print(f'folder: {asked.to}\n  peftbench.load("{asked.to}")')
        return
    found = hub.named(asked.to)
    if found is None or found[1] is not None:
        raise ConfigError(f"to: '{asked.to}' is not hub:owner/name")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "adapter"
        bundle(run, folder, found[0], asked.licence)
        url = to_hub(folder, found[0], f"Adapter of run {run.name}", asked.private)
    print(f'published: {url}\n  peftbench.load("{found[0]}")')


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return arguments.command(Asked, publish, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
