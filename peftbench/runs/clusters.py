"""Launchers for more than one machine: submitit (SLURM) and Ray.

Both start resident workers and nothing else: which worker does which run is settled by the claims
on run directories, on a file system that all machines share. The engines queue, place, preempt
and requeue the jobs.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .hand import STOPPED, Hand
from .launchers import SOME_FAILED, Launcher, written
from .process import say, together, warn

if TYPE_CHECKING:
    from .plan import Plan
    from .work import Policy

POLL_S = 0.5
STOP_S = 120.0  # for workers to save their states


def need(package: str, extra: str, key: str) -> None:
    """Make sure that a package of an extra is here.

    Raises:
        ConfigError: it is not; says which command installs it.

    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{key} needs the package {package}, which is not installed\n"
            f"  pip install -e '.[{extra}]'"
        )


def _at_least(least: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"launcher.{name}: expected {least} or more, got {value}")


@dataclass(frozen=True)
class Submitit(Launcher):
    """Jobs of SLURM, through submitit.

    Attributes:
        workers: jobs, one array; each is one resident worker.
        at_once: how many of them run at a time; None: all.
        cluster: ``slurm``, or ``local``: processes of this machine, to try a command out.
        folder: of the jobs' files and logs; None: ``submitit`` in the study's folder.
        timeout_min: minutes after which a job ends; it goes into the queue again and continues.
        timeouts: how often.
        signal_delay_s: seconds before that at which it is told; a step must fit in.
        gpus: per job.
        cpus: per job.
        memory_gb: per job.
        partition: as ``sbatch`` takes it, like the following.
        account: see there.
        qos: see there.
        constraint: see there.
        setup: shell lines before a job, for example ``[module load cuda]``.
        extra: other options of ``sbatch`` by name.

    """

    workers: int = 1
    at_once: int | None = None
    cluster: Literal["slurm", "local"] = "slurm"
    folder: str | None = None
    timeout_min: int = 1440
    timeouts: int = 100
    signal_delay_s: int = 90
    gpus: int = 0
    cpus: int = 1
    memory_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        need("submitit", "submitit", "launcher=submitit")
        _at_least(1, workers=self.workers, at_once=self.at_once, cpus=self.cpus)
        _at_least(1, timeout_min=self.timeout_min, signal_delay_s=self.signal_delay_s)
        _at_least(0, gpus=self.gpus, timeouts=self.timeouts, memory_gb=self.memory_gb)
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ConfigError("launcher.signal_delay_s: expected less than launcher.timeout_min")

    def check(self) -> None:
        """See :meth:`Launcher.check`."""
        _alone("submitit")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ConfigError(
                "launcher=submitit: there is no 'sbatch' here; give the command on a machine that "
                "submits to SLURM, or try it with launcher.cluster=local"
            )

    @property
    def hands(self) -> int:
        """How many runs are worked on at a time."""
        return min(self.workers, self.at_once or self.workers)

    def run(self, plan: Plan, policy: Policy) -> None:
        """Submit the workers and wait for them; told to stop, cancel them."""
        from .launch import terminable

        with written(plan.runs, policy) as path, terminable():
            hand = Hand(str(path.resolve()), os.getcwd())
            executor = self._executor(path.resolve().parents[1] / "submitit")
            with executor.batch():
                jobs = [executor.submit(hand) for _ in range(self.workers)]
            names = ", ".join(str(job.job_id) for job in jobs)
            say(f"submitted {names}; logs: {executor.folder}")
            with _cancelled_on_leaving(jobs):
                self._wait(jobs, policy.stop)

    def _executor(self, folder: Path) -> Any:
        import submitit

        where = Path(self.folder).resolve() if self.folder else folder
        given = {"slurm_max_num_timeout": self.timeouts, "local_max_num_timeout": self.timeouts}
        executor = submitit.AutoExecutor(where, cluster=self.cluster, **given)
        executor.update_parameters(
            name="peftbench",
            timeout_min=self.timeout_min,
            gpus_per_node=self.gpus,
            cpus_per_task=self.cpus,
            mem_gb=self.memory_gb,
            slurm_signal_delay_s=self.signal_delay_s,
            slurm_array_parallelism=self.hands,
            slurm_partition=self.partition,
            slurm_account=self.account,
            slurm_qos=self.qos,
            slurm_constraint=self.constraint,
            slurm_setup=list(self.setup) or None,
            slurm_additional_parameters={"requeue": True, **self.extra},
        )
        return executor

    def _wait(self, jobs: Sequence[Any], stop: bool) -> None:
        """Wait for all jobs; where one failed and that ends the work, cancel the others."""
        left = list(jobs)
        while left:
            time.sleep(POLL_S)
            for job in [job for job in left if job.done()]:
                left.remove(job)
                if job.exception() is not None:
                    log = job.paths.stderr
                    warn(f"job {job.job_id} ended without a word ({job.state}); its log: {log}")
                elif _ends_all(job.result(), stop, f"job {job.job_id}"):
                    return


@dataclass(frozen=True)
class Ray(Launcher):
    """Tasks of a Ray cluster.

    Attributes:
        workers: tasks; each is one resident worker.
        address: of a cluster (``auto`` finds the one that this machine belongs to); None starts one
            on this machine for the length of the command.
        cpus: per worker.
        gpus: per worker; a share of one is fine.
        retries: how often Ray starts a worker anew whose machine or process is lost.

    """

    workers: int = 1
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        need("ray", "ray", "launcher=ray")
        _at_least(1, workers=self.workers)
        _at_least(0, cpus=self.cpus, gpus=self.gpus, retries=self.retries)

    def check(self) -> None:
        """See :meth:`Launcher.check`."""
        _alone("ray")

    @property
    def hands(self) -> int:
        """How many runs are worked on at a time."""
        return self.workers

    def run(self, plan: Plan, policy: Policy) -> None:
        """Start the workers and wait for them; told to stop, cancel them."""
        from .launch import terminable

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        with written(plan.runs, policy) as path, terminable():
            self._connect(ray)
            try:
                hand = Hand(str(path.resolve()), os.getcwd())
                options = {"num_cpus": self.cpus, "num_gpus": self.gpus}
                task: Any = ray.remote(_call)
                task = task.options(max_retries=self.retries, **options)
                self._wait(ray, [task.remote(hand) for _ in range(self.workers)], policy.stop)
            finally:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        common = {"log_to_driver": True, "logging_level": "warning"}
        if self.address is None:
            resources = {
                "num_cpus": math.ceil(self.workers * self.cpus),
                "num_gpus": math.ceil(self.workers * self.gpus),
            }
            ray.init(address="local", include_dashboard=False, **resources, **common)
            return
        from .hand import ROOT

        try:
            ray.init(self.address, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, **common)
        except ConnectionError as error:
            raise ConfigError(
                f"launcher.address: no Ray cluster answers at '{self.address}' ({error}); "
                "start one with 'ray start --head', or leave the address out"
            ) from error

    def _wait(self, ray: Any, tasks: Sequence[Any], stop: bool) -> None:
        left = list(tasks)
        try:
            while left:
                ended, left = ray.wait(left, timeout=POLL_S)
                for task in ended:
                    try:
                        code = ray.get(task)
                    except ray.exceptions.RayError as error:
                        warn(f"a worker was lost: {error}")
                        continue
                    if _ends_all(code, stop, "a worker"):
                        return
        finally:
            for task in left:
                ray.cancel(task)
            if left:
                ray.wait(left, num_returns=len(left), timeout=STOP_S)


def _call(hand: Hand) -> int:
    """Do a job where the engine put it."""
    return hand()


def _alone(name: str) -> None:
    if together():
        raise ConfigError(f"launcher: {name} starts its own processes; start it without any")


def _ends_all(code: int, stop: bool, who: str) -> bool:
    """Tell whether the end of one worker is the end of all.

    Raises:
        SystemExit: it was told to stop.

    """
    if code in STOPPED:
        raise SystemExit(code)
    if code not in (0, SOME_FAILED):
        warn(f"{who} ended with code {code}")
    return stop and code == SOME_FAILED


@contextmanager
def _cancelled_on_leaving(jobs: Sequence[Any]) -> Iterator[None]:
    """Cancel the jobs that are left, and give them time to save their states."""
    try:
        yield
    finally:
        left = [job for job in jobs if not job.done()]
        for job in left:
            job.cancel(check=False)
        end = time.monotonic() + STOP_S
        while any(not job.done() for job in left) and time.monotonic() < end:
            time.sleep(POLL_S)
