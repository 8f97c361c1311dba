"""One folder of small archives, written once."""

from pathlib import Path

import publish
import pytest

from peftbench.prepare.build import READERS, Plan, origin_of
from peftbench.prepare.shelf import Shelf
from peftbench.prepare.source import Source


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for write in publish.WRITERS.values():
        write(folder)
    return folder


@pytest.fixture
def read(tmp_path: Path, archives: Path):
    """Return a function that reads a task's archives."""

    def read(task: str, folder: Path = archives, strict: bool = False) -> Source:
        shelf = Shelf(folder, origin_of(task), tmp_path, strict)
        return READERS[task][1](shelf)

    return read


@pytest.fixture
def plan(tmp_path: Path, archives: Path) -> Plan:
    return Plan(tmp_path / "vtab-1k", archives, strict=False)
