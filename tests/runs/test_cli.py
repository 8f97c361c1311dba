"""The command line: good help, exact errors, exit codes, sweeps that hide nothing."""

import json
import resource
import subprocess
import sys

import pytest
import yaml

from peftbench.runs import cli

from .conftest import FAKE_CONFIGS, ROOT

SLIPS = [
    ("method=lroa", ["unknown method 'lroa'", "Did you mean 'lora'", "gist, linear, lora"]),
    ("inner=lroa", ["'lroa'", "(key: inner)", "Did you mean 'lora'"]),
    ("method.wieght=4", ["'wieght'", "method.wieght", "Did you mean 'weight'", "inner, weight"]),
    ("inner.rnk=4", ["'rnk'", "method.inner.rnk", "Did you mean 'rank'", "alpha"]),
    ("trianer.lr=1", ["'trianer'", "Did you mean 'trainer'", "backbone, data"]),
    ("metod=lora", ["'metod'", "Did you mean 'method'"]),
    ("trainer.lr=fast", ["trainer.lr: expected float, got 'fast'"]),
    ("trainer.optimizer=adam", ["trainer.optimizer", "Did you mean 'adamw'"]),
    ("seed=x", ["seed: expected int, got 'x'"]),
    ("+method.rnk=3", ["'rnk'", "method.rnk", "inner, weight"]),
    ("+debug=1", ["'debug'", "choices: backbone, data, launcher, method, on_error, output"]),
    ("tracker.mode=x", ["tracker.mode", "'tracker' has no settings"]),
    ("protocol=paprika", ["Did you mean 'paper'", "honest, paper"]),
    ("method=null", ["Config group override must be a string"]),
    ("data=small/digit", ["unknown data 'small/digit' (key: data)", "Did you mean 'small/digits'"]),
    ("data=smal/digits", ["unknown data 'smal/digits'", "choices: broken, digits, pocket"]),
    ("foo", ["'foo' cannot be read as KEY=VALUE"]),
    ("method=[1", ["'method=[1' cannot be read as KEY=VALUE"]),
    ("method=lora inner=lora", ["takes no inner method (key: inner)", "method=gist"]),
    ("method=lora parts=[linear]", ["has no parts (key: parts)", "method=combo parts=[lora"]),
    ("+method._target_=os.system", ["_target_"]),
    ("method._target_=os.system", ["'os.system' is not a class of peftbench"]),
    ("-m method=lora,lroa", ["unknown method 'lroa'", "(key: method)"]),
]


@pytest.mark.parametrize(("arguments", "texts"), SLIPS)
def test_a_slip_is_told_at_once_without_traceback(command, arguments, texts):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = command(*arguments.split())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 2 and busy < 2  # seconds of work, whatever else the machine does
    assert "Traceback" not in done.err and done.err.startswith("error: ")
    for text in texts:
        assert text in done.err
    assert command.calls() == [] and list(command.work.iterdir()) in (
        [],
        [command.work / "outputs"],  # a sweep's own record
    )


@pytest.mark.parametrize("arguments", ["method=lroa", "trianer.lr=1", "seed=x"])
def test_a_slip_ends_the_process_with_2_before_torch_is_loaded(process, arguments):
    started = process(arguments)
    out, err = started.communicate()
    assert started.returncode == 2 and out == "" and "Traceback" not in err
    assert err.startswith("error: ") and "torch was imported" not in err
    assert list(process.work.iterdir()) == []


def test_hydra_full_error_shows_the_traceback(process):
    started = process("method=lroa", HYDRA_FULL_ERROR="1")
    _, err = started.communicate()
    assert started.returncode == 1 and "Traceback" in err


def test_help_is_for_a_reader(command):
    done = command("--help")
    assert done.returncode == 0 and done.err == ""
    for text in (
        "method: gist, linear, lora\n",
        "data: broken, digits, pocket, pocket_broken\n",
        "data/small: digits\n",
        "protocol: honest, paper, search\n",
        "tracker: files, tensorboard, wandb\n",
        "Examples",
        "python train.py method=gist inner=lora",
        "study=NAME",
        "lr: 0.001",
    ):
        assert text in done.out
    assert max(map(len, done.out.splitlines())) <= 88
    assert "hydra" not in done.out.lower()


def test_help_may_be_cut_short(process):
    started = process("--help")
    started.stdout.close()
    err = started.stderr.read()
    started.stderr.close()
    assert started.wait() == 0 and err == ""


def test_one_run_leaves_the_contract_and_nothing_of_hydra(command):
    done = command("inner=lora", "inner.rank=3")
    assert done.returncode == 0 and done.err == ""
    (made,) = command.calls()
    run_dir = command.work / "outputs" / "default" / made["run_id"]
    assert f"run directory: outputs/default/{made['run_id']}" in done.out
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["method"]["inner"]["rank"] == 3 and config["names"]["method"] == "gist"
    assert [p.name for p in command.work.iterdir()] == ["outputs"]
    assert sorted(p.name for p in run_dir.parent.iterdir()) == sorted(
        ["ledger.jsonl", made["run_id"]]
    )
    again = command("inner=lora", "inner.rank=3", "trainer.log_every=1")
    assert again.returncode == 0 and "already done: outputs/default/" in again.out
    assert len(command.calls()) == 1


def test_a_sweep_goes_on_after_a_failure_and_says_so_at_the_end(command):
    sweep = ("-m", "seed=0,1,2", "method=lora,linear")
    done = command(*sweep, FAKE_RUN="nonfinite:1")
    assert done.returncode == 2 and "Traceback" not in done.err
    assert done.err.count("error: the loss of step 3 is not finite") == 1  # and not once more
    assert "linear, digits, seed 1 fails as 'lora, digits, seed 1' did" in done.err
    assert "failed: linear, digits, seed 1: NonFiniteError: the loss of step 3" in done.err
    assert "error: 2 of 6 runs failed; the same command tries failed runs again" in done.err
    assert "[6/6] linear, digits, seed 2: accuracy 90.0 %, 64.0 s  outputs/default/" in done.out
    assert "90.0 (2 of 3)" in done.out and len(command.calls()) == 6
    again = command(*sweep)
    assert again.returncode == 0 and "6 runs: 4 done already, 2 left" in again.out
    assert [c["seed"] for c in command.calls()[6:]] == [1, 1]
    assert [p.name for p in command.work.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("what", "code", "state"),
    [("crash", 1, "failed"), ("term", 143, "interrupted"), ("ctrl-c", 130, "interrupted")],
)
def test_exit_codes_and_books(command, what, code, state):
    done = command("-m", "seed=0,1", FAKE_RUN=what)
    assert done.returncode == code
    lines = (command.work / "outputs" / "default" / "ledger.jsonl").read_text().splitlines()
    entries = [json.loads(x) for x in lines]
    assert entries[1]["state"] == state
    assert ("Traceback" in done.err) == (what == "crash")
    assert len(command.calls()) == (2 if what == "crash" else 1)  # stopping stops the sweep
    if what == "crash":
        assert entries[1]["error"] == "RuntimeError: a defect"


def test_aliases():
    given = ["inner=lora", "inner.rank=4", "+inner.x=1", "data=inner", "~inner", "-m", "inner_x=1"]
    assert cli.with_aliases(given) == [
        "method@method.inner=lora",
        "method.inner.rank=4",
        "+method.inner.x=1",
        "data=inner",
        "~method@method.inner",
        "-m",
        "inner_x=1",
    ]


def test_aliases_of_contexts():
    assert cli.with_aliases(["contexts=shared,image_only", "targets=A", "data=targets"]) == [
        "method.contexts=shared,image_only",
        "method.targets=A",
        "data=targets",
    ]


def test_aliases_of_parts():
    assert cli.with_aliases(["parts=[lora,ssf]", "parts.lora.rank=4"]) == [
        "parts@method.parts=none",
        "+method@method.parts.lora=lora",
        "+method@method.parts.ssf=ssf",
        "method.parts.lora.rank=4",
    ]
    given = ["inner.parts=[lora]", "blocks.lora=[0,1]", "inner.sizes.lora={rank:[1,2]}", "parts=x"]
    assert cli.with_aliases(given) == [
        "parts@method.inner.parts=none",
        "+method@method.inner.parts.lora=lora",
        "++method.blocks.lora=[0,1]",
        "++method.inner.sizes.lora={rank:[1,2]}",
        "parts=x",
    ]


@pytest.fixture
def plugin(tmp_path):
    folder = tmp_path / "my plugin"
    (folder / "configs" / "method").mkdir(parents=True)
    text = FAKE_CONFIGS["method/lora.yaml"].replace("rank: 8", "rank: 99")
    (folder / "configs" / "method" / "mine.yaml").write_text(text)
    return folder


def test_a_plugin_folder_adds_choices(command, plugin, tmp_path):
    other = tmp_path / "own"
    (other / "backbone").mkdir(parents=True)
    (other / "backbone" / "deep.yaml").write_text("_target_: peftbench.fakes.Vit\ndepth: 9\n")
    arguments = ("method=mine,lora", "backbone=deep", f"hydra.searchpath=[file://{other}]", "-m")
    done = command(*arguments, PEFTBENCH_PATH=str(plugin))
    assert done.returncode == 0, done.err
    first = command.work / "outputs" / "default" / command.calls()[0]["run_id"]
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["method"]["rank"] == 99 and config["backbone"]["depth"] == 9
    assert config["names"]["method"] == "mine"
    assert "mine" in command("--help", PEFTBENCH_PATH=str(plugin)).out
    assert command("method=mine").returncode == 2


def test_a_plugin_folder_that_is_absent_is_named(command):
    done = command(PEFTBENCH_PATH="/no/such/folder")
    assert done.returncode == 2
    assert "PEFTBENCH_PATH names '/no/such/folder', which is no folder" in done.err


def test_the_shipped_entry_points_list_their_own_choices(monkeypatch, capsys):
    done = subprocess.run(
        [sys.executable, "train.py", "method=no_such"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "unknown method 'no_such'" in done.stderr
    assert "gist" in done.stderr and "Traceback" not in done.stderr
    assert len((ROOT / "train.py").read_text().splitlines()) <= 30
    monkeypatch.setattr(sys, "argv", ["peftbench", "method=no_such"])
    assert cli.main() == 2 and capsys.readouterr().err == done.stderr


def test_a_choice_within_a_group_of_data_is_found_by_its_neighbours():
    error = cli._unknown_choice(
        *("data/vtab1k/dtdd", ["digits"], [str(ROOT / "configs")], ["data=vtab1k/dtdd"])
    )
    assert "Did you mean 'vtab1k/dtd'?" in str(error) and "vtab1k/svhn" in str(error)
    assert "digits" not in str(error) and "(key: data)" in str(error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-m data=a,b data.x=1", "-m data=a,b ++data.x=1"),
        ("data=a,b data.x=1", "data=a,b data.x=1"),  # no sweep: refused as a name elsewhere
        ("-m data=a data.x=1,2", "-m data=a data.x=1,2"),
        ("-m data=a data.tasks=[u,v] data.x=1", "-m data=a data.tasks=[u,v] data.x=1"),
        ("--multirun inner=a,b inner.r=2", "--multirun method@method.inner=a,b ++method.inner.r=2"),
        ("-m trainer/augment=a,b trainer.augment.p=1", None),
    ],
)
def test_a_setting_goes_with_every_choice_of_a_sweep(given, expected):
    from peftbench.runs.cli import with_aliases

    found = " ".join(with_aliases(given.split()))
    wanted = expected or "-m trainer/augment=a,b ++trainer.augment.p=1"
    assert found == wanted
