"""Who sees which device, and what a worker reads."""

import pytest

from peftbench.errors import ConfigError
from peftbench.runs import launchers
from peftbench.runs.launchers import environment_of, read_work, written
from peftbench.runs.plan import Planned
from peftbench.runs.work import Policy


def test_every_worker_sees_one_device(monkeypatch):
    gpus = ["0", "1", "2"]
    seen = [environment_of(i, 4, gpus)["CUDA_VISIBLE_DEVICES"] for i in range(4)]
    assert seen == ["0", "1", "2", "0"]


def test_devices_are_those_that_this_process_sees(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert launchers.devices() == ["5", "7"] and launchers.Parallel().hands == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert launchers.devices() == ["0", "1"] and launchers.Parallel(workers=6).hands == 6


def test_without_devices_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment_of(0, 3, []) == {"OMP_NUM_THREADS": "2"}
    assert environment_of(0, 16, []) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment_of(0, 3, []) == {}


def test_a_plan_goes_to_workers_and_leaves_nothing_behind(tmp_path):
    plain = {"seed": 3, "names": {"data": "digits"}, "trainer": {"lr": 1e-3}}
    run = Planned("abc", str(tmp_path / "s" / "abc"), plain, "lora", ("def",))
    policy = Policy(since=12.5, attempts=2, stop=True, wait=False)
    with written((run,), policy) as path:
        assert path.parent == tmp_path / "s" / "plans"
        assert read_work(path) == ([run], policy)
    assert list((tmp_path / "s").iterdir()) == []


def test_launchers_that_end_together_do_not_stumble_over_each_other(tmp_path):
    run = Planned("abc", str(tmp_path / "s" / "abc"), {}, "lora")
    with written((run,), Policy(since=1.0)) as path:
        with written((run,), Policy(since=2.0)):
            pass
        assert path.exists()
    with written((run,), Policy(since=3.0)) as path:
        path.unlink()
        path.parent.rmdir()  # by one that ended a moment before
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize(("code", "started"), [(0, 0), (3, 0), (-9, 1), (1, 0)])
def test_only_a_worker_that_died_is_replaced(code, started, monkeypatch, tmp_path):
    begun = []
    crew = launchers._Crew(tmp_path, 1, stop=False)
    monkeypatch.setattr(crew, "_start", begun.append)
    crew.crew[0] = None
    crew._left(0, code)
    assert len(begun) == started and crew.told is None


@pytest.mark.parametrize(("code", "stop"), [(143, False), (130, False), (3, True)])
def test_what_ends_one_worker_for_good_ends_all(code, stop, monkeypatch, tmp_path):
    stopped = []
    crew = launchers._Crew(tmp_path, 2, stop=stop)
    monkeypatch.setattr(crew, "_stop", lambda: stopped.append(1))
    crew.crew = {0: None, 1: None}
    crew._left(0, code)
    assert stopped == [1] and crew.told == (None if code == 3 else code)


def test_slurm_is_asked_for_what_the_configuration_says(tmp_path, monkeypatch):
    """A stand-in takes the place of SLURM's commands; the job file is submitit's own."""
    from peftbench.runs.clusters import Submitit
    from peftbench.runs.hand import Hand

    tools = tmp_path / "bin"
    tools.mkdir()
    asked = tmp_path / "asked.sh"
    for name in ("srun", "sacct", "scancel"):
        (tools / name).write_text("#!/bin/sh\n")
    (tools / "sbatch").write_text(f'#!/bin/sh\ncp "$1" {asked}\necho Submitted batch job 77\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    launcher = Submitit(
        **{"workers": 5, "at_once": 2, "partition": "short", "gpus": 1, "memory_gb": 8.0},
        **{"timeout_min": 30, "signal_delay_s": 60, "extra": {"nice": 5}},
    )
    launcher.check()
    executor = launcher._executor(tmp_path / "jobs")
    with executor.batch():
        jobs = [executor.submit(Hand("plan.json", str(tmp_path))) for _ in range(5)]
    assert [job.job_id for job in jobs] == [f"77_{i}" for i in range(5)]
    text = asked.read_text()
    for option in ("array=0-4%2", "partition=short", "gpus-per-node=1", "mem=8GB", "time=30"):
        assert f"#SBATCH --{option}\n" in text
    assert "--signal=USR2@60" in text and "--requeue\n" in text and "--nice=5" in text


def test_without_slurm_the_launcher_says_so(monkeypatch, tmp_path):
    from peftbench.runs.clusters import Submitit

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no 'sbatch' here"):
        Submitit().check()
    with pytest.raises(ConfigError, match=r"launcher\.workers: expected 1 or more"):
        Submitit(workers=0)
