"""The step benchmark: statistics, the command line, peers, and what it may import."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peftbench.edits import Entries
from peftbench.errors import ConfigError
from peftbench.perf import report
from peftbench.perf.bench import Clock, Interval, interleave, median_interval, paired
from peftbench.perf.rows import Row, chosen, make_rows, read_methods
from peftbench.perf.subjects import SUBJECTS, load

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bench_step.py"
CPU = torch.device("cpu")
METHODS = read_methods(ROOT / "configs" / "method")


def test_the_interval_is_that_of_the_sign_test():
    # P(X <= 1) of a fair coin in 10 throws is 0.0107, P(X <= 2) is 0.0547: ranks 2 and 9
    assert median_interval(range(1, 11)) == Interval(5.5, 2, 9)
    assert median_interval([3, 1, 2]) == Interval(2, 1, 3)
    assert median_interval([7.0]) == Interval(7.0, 7.0, 7.0)


def test_ratios_are_taken_inside_a_round():
    assert paired([2, 20, 200], [1, 10, 50]).median == 2  # medians alone: 20 / 10 too
    assert paired([1, 10, 9], [2, 1, 3]).median == 3  # medians alone: 9 / 2


def test_rounds_are_interleaved_and_every_other_one_runs_backwards():
    order = []

    class Fake:
        def step(self, row):
            order.append(row)
            return 1.0, 2.0

    times = interleave(Fake(), ["a", "b"], rounds=3, warmup=1)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert [len(t.steps) for t in times] == [3, 3]
    assert times[0].passes == [1.0] * 3 and times[0].steps == [2.0] * 3


@pytest.mark.parametrize("name", ["vit_tiny", "llama_tiny"])
def test_ours_and_the_peer_train_the_same_numbers_and_agree_at_the_start(name):
    subject = SUBJECTS[name]
    backbone = load(subject, CPU, torch.float32)
    clock = Clock(subject, CPU, torch.float32)
    two = {n: METHODS[n] for n in ("lora", "ia3")}
    rows = {r.name: r for r in make_rows(subject, backbone, two, peers=True) if isinstance(r, Row)}
    compared = [r for r in rows.values() if r.peer]
    assert len(compared) == 3
    for row in compared:
        mine, theirs = row.model.trainable(), rows[row.peer].model.trainable()
        assert sum(p.numel() for p in mine.values()) == sum(p.numel() for p in theirs.values())
        assert clock.flops(row) == clock.flops(rows[row.peer])
        torch.testing.assert_close(clock.forward(row), clock.forward(rows["floor"]))
        before = clock.forward(row).item()
        for _ in range(5):
            clock.step(row)
        assert clock.forward(row).item() != before
    for row in rows.values():
        assert all(p.grad is None for p in row.model.trainable().values())


def test_entries_are_measured_against_full_fine_tuning():
    subject = SUBJECTS["bert_tiny"]
    backbone = load(subject, CPU, torch.float32)
    clock = Clock(subject, CPU, torch.float32)
    two = {n: METHODS[n] for n in ("full", "sift")}
    rows = [r for r in make_rows(subject, backbone, two, peers=False) if isinstance(r, Row)]
    lines = {x.name: x for x in report.measure(rows, clock, rounds=2, compiled=False)}
    sift, full = lines["sift"], lines["full"]
    assert sift.peer == "full" and sift.to_peer is not None and full.peer is None
    assert (sift.dense, full.dense) == (1, None)  # a dense gradient is dropped before the next
    assert sift.state == 2 * sift.trainable and full.state == 2 * full.trainable
    targets = {t["target"]: t for t in report.judge(subject, list(lines.values()))}
    assert targets["sift / full"]["bound"] == 0.8
    assert targets["sift: gradients of whole tensors alive at once"]["met"]
    row = next(r for r in rows if r.name == "sift")
    before = next(e for e in row.model.delta).tensor.clone()
    clock.step(row)  # a step brings the network up to date
    assert not torch.equal(before, next(e for e in row.model.delta).tensor)


def test_gradients_that_stay_are_counted(monkeypatch):
    subject = SUBJECTS["bert_tiny"]
    clock = Clock(subject, CPU, torch.float32)
    backbone = load(subject, CPU, torch.float32)
    made = make_rows(subject, backbone, {"sift": METHODS["sift"]}, peers=False)
    row = next(r for r in made if isinstance(r, Row) and r.name == "sift")
    kept = []
    gather = Entries._gather

    def leaks(edit, tensor):
        kept.append(tensor.grad)
        gather(edit, tensor)

    row.model.delta.detach()
    monkeypatch.setattr(Entries, "_gather", leaks)
    row.model.delta.attach()
    assert clock.dense(row) == len(list(row.model.delta)) == len(kept)


def test_every_network_compiles_and_still_trains():
    subject = SUBJECTS["vit_tiny"]
    backbone = load(subject, CPU, torch.float32)
    clock = Clock(subject, CPU, torch.float32)
    wanted = {"lora": METHODS["lora"]}
    rows = [r for r in make_rows(subject, backbone, wanted, peers=True) if isinstance(r, Row)]
    rows = [r for r in rows if r.name in ("floor", "ours lora_qkv", "peft lora_qkv", "lora")]
    eager = [clock.forward(r).item() for r in rows]
    report.compile_rows(rows, backend="aot_eager")
    assert [clock.forward(r).item() for r in rows] == pytest.approx(eager, abs=1e-5)
    assert all(len(t.steps) == 1 for t in interleave(clock, rows, rounds=1, warmup=1))


def test_bf16_runs_under_autocast_with_fp32_masters():
    subject = SUBJECTS["vit_tiny"]
    clock = Clock(subject, CPU, torch.bfloat16)
    backbone = load(subject, CPU, torch.bfloat16)
    for row in make_rows(subject, backbone, {"lora": METHODS["lora"]}, peers=True):
        if row.name in ("ours lora_all", "peft lora_all", "lora"):
            clock.step(row)
            added = [p for n, p in row.model.trainable().items() if "head" not in n]
            assert {p.dtype for p in added} == {torch.float32}


def run(*options):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd="/")


def test_the_command_prints_tables_and_writes_them(tmp_path):
    out = tmp_path / "speed.json"
    done = run("--models", "vit_tiny", "--methods", "lora,ia3", "--rounds", "2", "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "| ours lora_all |" in done.stdout and "| peft ia3_qkv_down |" in done.stdout
    table = json.loads(out.read_text())["tables"][0]
    assert table["threads"] == 1 and table["rounds"] == 2
    lines = {line["name"]: line for line in table["lines"]}
    assert lines["floor"]["to_floor"]["median"] == 1
    assert 0.98 <= lines["lora"]["flops_ratio"] <= 1.02
    assert len(table["targets"]) == 5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--models", "vit_m"), "vit_s"),
        (("--models", "vit_tiny", "--methods", "lorra"), "'lora'"),
        (("--rounds", "0"), "at least 1"),
    ],
)
def test_wrong_options_are_named(options, text, capsys):
    spec = importlib.util.spec_from_file_location("bench_step", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.main(options) == 2
    assert text in capsys.readouterr().err


def test_methods_are_read_without_hydra(tmp_path):
    assert METHODS["gist"]["inner"]["_target_"] == "peftbench.methods.adapter.Adapter"
    assert "defaults" not in METHODS["gist"]
    assert list(chosen(METHODS, ["ia3"])) == ["ia3"] and chosen(METHODS, None) == METHODS
    with pytest.raises(ConfigError, match="no method"):
        read_methods(tmp_path)


def test_the_benchmark_needs_no_configuration_tracking_or_data_packages():
    blocked = ["hydra", "omegaconf", "wandb", "datasets", "tensorboard", "tqdm.rich", "rich"]
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked} or name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
sys.argv = ["bench_step.py", "--models", "vit_tiny", "--methods", "gist", "--rounds", "1",
            "--no-peers"]
import runpy
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| gist |" in done.stdout
