"""The house rules that a machine can hold: import direction, a bare core, sizes, docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "peftbench"
FILES = sorted(PACKAGE.rglob("*.py"))
LEAVES = {"errors", "files", "spec", "arguments", "archives", "assets", "pictures", "hub"}
# what each part may import, besides itself
ALLOWED = dict.fromkeys(LEAVES, LEAVES)
ALLOWED["edits"] = LEAVES
ALLOWED["backbones"] = LEAVES | {"edits"}
ALLOWED["methods"] = LEAVES | {"edits", "backbones"}
ALLOWED["tasks"] = LEAVES | {"edits", "backbones", "methods"}
ALLOWED["prepare"] = LEAVES | {"tasks"}
ALLOWED["train"] = ALLOWED["tasks"] | {"tasks"}
ALLOWED["interop"] = ALLOWED["train"] | {"train"}
ALLOWED["perf"] = ALLOWED["train"] | {"train"}
ALLOWED["predict"] = ALLOWED["train"] | {"train", "interop"}
ALLOWED["runs"] = ALLOWED["train"] | {"train", "interop", "perf"}
ALLOWED["reports"] = LEAVES | {"runs"}
ALLOWED["analysis"] = ALLOWED["runs"] | {"runs", "reports"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, wherever in the file."""
    inside = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = list(inside[: len(inside) - node.level + 1]) if node.level else []
            module = (node.module or "").split(".") if node.module else []
            if not node.level:
                if module[:1] != ["peftbench"]:
                    continue
                module = module[1:]
            whole = [*base, *module]
            names = [whole] if whole else [[a.name] for a in node.names]
        elif isinstance(node, ast.Import):
            split = [a.name.split(".") for a in node.names]
            names = [s[1:] for s in split if s[0] == "peftbench" and len(s) > 1]
        found |= {n[0] for n in names}
    return found & set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return  # the public surface reaches everything, when it is used
    assert imports(path) - {part} <= ALLOWED[part]


def test_the_reader_of_imports_sees_them() -> None:
    assert {"edits", "backbones"} <= imports(PACKAGE / "methods" / "lora.py")
    assert "tasks" in imports(PACKAGE / "train" / "loop.py")
    assert "train" in imports(PACKAGE / "runs" / "execute.py")


BLOCKED = ("hydra", "omegaconf", "wandb", "datasets", "tensorboard", "rich", "onnx", "matplotlib")
BARE = """
import sys

for name in {blocked}:
    sys.modules[name] = None  # as if it were not installed
import torch
import peftbench
import peftbench.train.loop, peftbench.train.artefact, peftbench.tasks.base
from peftbench.backbones.load_timm import TimmViT
from peftbench.methods.gist import Gist

arch = {{"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}}
backbone = TimmViT("vit_tiny_patch16_224", 32, init="random", arch=arch).load()
model = peftbench.attach(Gist(), backbone, classes=3)
output = model({{"image": torch.randn(2, 3, 32, 32)}})
output.logits.sum().backward()
assert set(output.extra) == {{"gist"}}
"""


def test_the_core_needs_no_configuration_framework_and_no_tracker() -> None:
    code = BARE.format(blocked=BLOCKED)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def compares_name(node: ast.AST, name: str) -> bool:
    """Whether a comparison holds ``name`` (or ``x.name``) against a string."""
    if not isinstance(node, ast.Compare):
        return False
    sides = [node.left, *node.comparators]
    named = any(
        (isinstance(s, ast.Name) and s.id == name)
        or (isinstance(s, ast.Attribute) and s.attr == name)
        for s in sides
    )
    return named and any(
        isinstance(c, ast.Constant) and isinstance(c.value, str) for s in sides for c in ast.walk(s)
    )


@pytest.mark.parametrize("name, home", [("method", "methods"), ("family", "backbones")])
def test_no_branch_on_a_method_or_family_outside_its_folder(name: str, home: str) -> None:
    assert compares_name(ast.parse(f"cfg.{name} == 'x'").body[0].value, name)  # type: ignore[attr-defined]
    for path in FILES:
        if part_of(path) == home:
            continue
        lines = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if compares_name(n, name)]
        assert not lines, f"{path}: {lines}"


FORBIDDEN = {"eval", "exec"}
PICKLED = PACKAGE / "tasks" / "cifar.py"  # published as pickles; its unpickler builds arrays alone


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_code_is_read_from_files(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", "") or ""
            names = {a.name for a in node.names} | {module}
            unpacking = {"pickle", "dill", "cloudpickle", "joblib"}
            assert names & unpacking <= ({"pickle"} if path == PICKLED else set()), path
        if isinstance(node, ast.Call):
            function = node.func
            assert not (isinstance(function, ast.Name) and function.id in FORBIDDEN), path
            loads = isinstance(function, ast.Attribute) and function.attr == "load"
            torch_load = loads and getattr(function.value, "id", "") == "torch"  # type: ignore[attr-defined]
            assert not torch_load, f"{path}:{node.lineno} reads a pickle"
            of_pickle = getattr(getattr(function, "value", None), "id", "") == "pickle"
            reads = of_pickle and function.attr in {"load", "loads", "Unpickler"}  # type: ignore[attr-defined]
            assert not reads, f"{path}:{node.lineno} reads any pickle"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_small_and_explained(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{path}:{node.name} is long"  # type: ignore[operator]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.name} has no docstring"
