"""How the jobs of a multirun are run: here one after another, on this machine side by side, or by SLURM.

All three keep the sweep's list of jobs (jobs.py), go on when a job fails, skip what is done already when a sweep is
taken up again, and end with a table of every job. On SLURM the expensive half is submitted first, with GPUs; the jobs
themselves follow without any, several to a cluster job if asked for.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import Field

from refexp.cluster.sweeps import report, wait_for
from refexp.config.building import build
from refexp.errors import JobFailed, RefexpError, first_line
from refexp.folders.status import read_status
from refexp.folders.sweep_folder import EXTRACT_FOLDER, Job, Sweep, cancel_slurm, check_possible
from refexp.machine.ranks import place

log = logging.getLogger(__name__)

GENERAL = {
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout",
}  # fmt: skip
"""What submitit calls the same for every executor; other settings carry the executor's name."""


@dataclass(frozen=True)
class SweepSettings:
    """The `sweep` keys of the configuration.

    pack: jobs that share one cluster job. extract: "first" submits the expensive half of all jobs on its own and makes
    the jobs depend on it, "shared" lets every job do its part of it. extract_jobs: how many cluster jobs share it.
    only: numbers of the jobs to run, or "unfinished". detach: submit and leave.
    """

    pack: Annotated[int, Field(ge=1)] = 1
    extract: Literal["first", "shared"] = "first"
    extract_jobs: Annotated[int, Field(ge=1)] = 1
    only: list[int] | Literal["all", "unfinished"] = "all"
    detach: bool = False


class BaseLauncher(Launcher):
    """What every way of running a sweep has in common."""

    kind = "serial"

    def __init__(self, **params: Any) -> None:
        self.params: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in params.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs that are to be run, and say what became of all. Failed ones raise when Hydra looks at them."""
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        settings = build(OmegaConf.to_container(self.config.get("sweep") or {}), "sweep", SweepSettings)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        # The sweep's own keys are no part of a job.
        jobs = [
            Job(initial_job_idx + i, [o for o in overrides if not o.lstrip("+").startswith("sweep.")], str(subdir))
            for i, overrides in enumerate(job_overrides)
            for subdir in [self._subdir(list(overrides), initial_job_idx + i)]
        ]
        sweep = Sweep(folder)
        todo = choose(sweep, jobs, settings.only)
        if place().rank == 0:
            sweep.begin(self.kind, jobs, todo)
        try:
            self.run(sweep, todo, settings)
        except KeyboardInterrupt:
            report(sweep)
            raise
        if place().rank == 0 and not settings.detach:
            report(sweep)
            from refexp.show.tables.summary import summarise_sweep

            summarise_sweep(folder)
        return [] if settings.detach else [outcome(sweep, job) for job in jobs]

    def _subdir(self, overrides: list[str], number: int) -> str:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            return str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = before

    @abstractmethod
    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        """Run these jobs to their end (or submit them, if detached)."""


class SerialLauncher(BaseLauncher):
    """One job after another, in this process."""

    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        Pack(self.hydra_context, self.task_function, self.config, todo).run()


class Pack:
    """Some jobs of a sweep, one after another in one process; what submitit sends to a cluster job.

    extra: overrides of all of them. When SLURM stops the cluster job, it is queued again and goes on behind the jobs
    that were completed.
    """

    def __init__(
        self,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
        jobs: Sequence[Job],
        extra: Sequence[str] = (),
        subdir: str = "",
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.jobs, self.extra, self.subdir = jobs, list(extra), subdir
        self.singletons = Singleton.get_state()

    def __call__(self) -> None:
        Singleton.set_state(self.singletons)
        setup_globals()
        self.run()

    def checkpoint(self) -> Any:
        """The same again (submitit's protocol on preemption and time-outs)."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def run(self) -> None:
        root = Path(str(self.config.hydra.sweep.dir))
        for job in self.jobs:
            subdir = str(Path(self.subdir) / job.folder)
            if (read_status(root / subdir) or {}).get("state") == "completed":
                continue  # before this cluster job was stopped and queued again
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
            log.info("#%d : %s", job.number, " ".join(job.overrides))
            config = self.hydra_context.config_loader.load_sweep_config(self.config, [*job.overrides, *self.extra])
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = job.number
                # Not resolved anew: it may name the dataset, which may be what the jobs differ in.
                config.hydra.sweep.dir, config.hydra.sweep.subdir = str(root), subdir
            run_job(
                hydra_context=self.hydra_context, task_function=self.task_function, config=config,
                job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
            )  # fmt: skip


class SubmititLauncher(BaseLauncher):
    """Jobs in processes of their own, through submitit."""

    cluster = ""

    def submit(self, folder: Path, packs: Sequence[Pack], params: dict[str, Any]) -> list[str]:
        """Start one process group or cluster job a pack; their ids. Raises RefexpError if it is refused."""
        import submitit

        if place().starter == "torchrun":
            raise RefexpError(f"hydra/launcher={self.kind} starts ranks itself: run it with python, not torchrun.")
        given = {name: value for name, value in params.items() if value is not None}
        given["tasks_per_node"] = given.get("tasks_per_node") or given.get("gpus_per_node") or 1
        if not given.get("gpus_per_node"):
            given.pop("gpus_per_node", None)  # SLURM would look for a node with no GPU to give
        init = {f"{self.cluster}_{name}": given.pop(name) for name in ("max_num_timeout",) if name in given}
        executor = submitit.AutoExecutor(folder=folder / ".submitit", cluster=self.cluster, **init)
        ids: list[str] = []
        try:
            executor.update_parameters(
                **{name if name in GENERAL else f"{self.cluster}_{name}": value for name, value in given.items()}
            )
            with executor.batch():
                jobs = [executor.submit(pack) for pack in packs]
            ids = [job.job_id for job in jobs]
            if self.cluster == "slurm":
                check_possible(ids)
        except Exception as error:
            if ids:
                cancel_slurm(ids)
            asked = ", ".join(f"{name}={value}" for name, value in given.items() if name != "setup")
            why = " ".join(line for line in str(error).splitlines() if "error:" in line) or first_line(error)
            raise RefexpError(f"{self.cluster} refused the job: {why}. hydra.launcher asked for: {asked}") from None
        return ids

    def packs(self, groups: Sequence[Sequence[Job]], extra: Sequence[str] = ()) -> list[Pack]:
        return [Pack(self.hydra_context, self.task_function, self.config, group, extra) for group in groups]

    def wait(self, sweep: Sweep, settings: SweepSettings) -> None:
        """Until no job is waiting or running any more."""
        here = f"refexp sweep collect {sweep.folder}"
        if settings.detach:
            print(f"submitted: {', '.join(sweep.job_ids())}. See them end: {here}")
            return
        try:
            wait_for(sweep)
        except KeyboardInterrupt:
            print(f"\nthe jobs go on. See them end: {here}; stop them: {here.replace('collect', 'cancel')}")
            raise


class LocalLauncher(SubmititLauncher):
    """Several jobs at once on this machine; they share the extraction through the store."""

    kind, cluster = "local_jobs", "local"

    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        params = dict(self.params)
        at_once = max(1, int(params.pop("jobs_at_once")))
        groups = [todo[i::at_once] for i in range(at_once) if todo[i::at_once]]
        if groups:
            ids = self.submit(sweep.folder, self.packs(groups), params)
            sweep.submitted(groups, ids)
        self.wait(sweep, settings)


class SlurmLauncher(SubmititLauncher):
    """Cluster jobs: first one for the extraction, with GPUs, then the jobs themselves, without."""

    kind, cluster = "slurm", "slurm"

    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        full, light = self.requests()
        groups = [todo[i : i + settings.pack] for i in range(0, len(todo), settings.pack)]
        staged = any(o.split("=")[0].lstrip("+") == "stage" for job in todo for o in job.overrides)
        try:
            if todo and settings.extract == "first" and not staged:
                extraction = self.extract_first(sweep, todo, full, settings.extract_jobs)
                # Whatever became of it: a job that finds its images in the store needs no more.
                light["additional_parameters"]["dependency"] = "afterany:" + ":".join(extraction)
                sweep.submitted(groups, self.submit(sweep.folder, self.packs(groups, ["stage=ablate"]), light))
            elif todo:
                only_ablate = all("stage=ablate" in job.overrides for job in todo)
                ids = self.submit(sweep.folder, self.packs(groups), light if only_ablate else full)
                sweep.submitted(groups, ids)
        except RefexpError:
            sweep.cancel()
            raise
        self.wait(sweep, settings)

    def requests(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is asked of SLURM for jobs that extract, and for jobs that only ablate."""
        full = dict(self.params)
        lighter = full.pop("ablate", None) or {}
        mail = {name.replace("_", "-"): full.pop(name, None) for name in ("mail_user", "mail_type")}
        more = (full.get("additional_parameters") or {}) | {name: value for name, value in mail.items() if value}
        light = full | {name: value for name, value in lighter.items() if value is not None}
        return full | {"additional_parameters": dict(more)}, light | {"additional_parameters": dict(more)}

    def extract_first(self, sweep: Sweep, todo: Sequence[Job], params: dict[str, Any], count: int) -> list[str]:
        """Submit `count` cluster jobs that share the extraction of all jobs; SLURM's ids, an array's once."""
        packs = [
            Pack(self.hydra_context, self.task_function, self.config, todo, ["stage=extract"], f"{EXTRACT_FOLDER}/{i}")
            for i in range(count)
        ]
        ids = self.submit(sweep.folder, packs, params | {"name": f"{params['name']}-extract"})
        sweep.extracting(ids)
        return list(dict.fromkeys(id_.split("_")[0] for id_ in ids))


def choose(sweep: Sweep, jobs: Sequence[Job], only: list[int] | Literal["all", "unfinished"]) -> list[Job]:
    """The jobs to run: all, those with these numbers, or those that are not completed."""
    if only == "all":
        return list(jobs)
    if only == "unfinished":
        return [job for job in jobs if sweep.state(job) != "completed"]
    assert isinstance(only, list)
    unknown = [number for number in only if number not in {job.number for job in jobs}]
    if unknown:
        raise RefexpError(f"sweep.only: this sweep has no job {unknown[0]}; it has 0 to {jobs[-1].number}.")
    return [job for job in jobs if job.number in only]


def outcome(sweep: Sweep, job: Job) -> JobReturn:
    """What Hydra is told of a job; looking at a failed one's value raises."""
    result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    if place().rank == 0 and sweep.state(job) != "completed":
        result.status, result.return_value = JobStatus.FAILED, JobFailed(f"job {job.number}")
    return result
