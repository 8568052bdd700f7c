"""Hydra launchers for the jobs of a multirun: serial in this process, in parallel on this machine, or by SLURM.

All three write the list of jobs (sweep.json), run only what the sweep's folder lacks, continue when a job fails, and
end with a table of all jobs. On SLURM, the extraction runs first, in cluster jobs with GPUs. The jobs of the sweep
then run without GPUs; `sweep.pack` puts several of them into one cluster job.
"""

from __future__ import annotations

import copy
import logging
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from refexp.cluster.composing import Composer, without_hydra
from refexp.cluster.identity import Known, Settings, as_run, refuse_changed, refuse_shared_folders, settings_of, telling
from refexp.cluster.sweeps import report, wait_for
from refexp.config.building import build
from refexp.config.composing import resolve
from refexp.errors import JobFailed, RefexpError, first_line
from refexp.folders.record import RunRecord
from refexp.folders.status import Status, read_status
from refexp.folders.sweep_folder import EXTRACT_FOLDER, Job, Sweep, cancel_slurm, check_possible, survey
from refexp.machine.progress import track
from refexp.rank import this_rank
from refexp.show.words import listed, typed

log = logging.getLogger(__name__)

MANY = 50
"""Number of jobs from which on composing them takes so long that its progress is shown."""

OF_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables of SLURM that belong to the site, not to a job."""

GENERAL = {
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout",
}  # fmt: skip
"""Settings that submitit names the same for every executor. Other settings need the executor's name as prefix."""


@dataclass(frozen=True)
class SweepSettings:
    """The `sweep` keys of the configuration.

    pack: number of jobs that run in one cluster job. extract: "first" submits the extraction of all jobs separately,
    and the jobs wait for it. "shared" lets each job do a part of the extraction. extract_jobs: number of cluster jobs
    that share the extraction. only: "unfinished" runs the jobs that are not completed, "all" and numbers also repeat
    completed ones. zip: keys whose values are paired, see `GridSweeper`. stop_after: number of jobs that fail with the
    same error after which no further job runs. joint: jobs of one process that read the same entries of the store are
    searched in one pass. detach: submit the jobs and exit.
    """

    pack: Annotated[int, Field(ge=1)] = 1
    extract: Literal["first", "shared"] = "first"
    extract_jobs: Annotated[int, Field(ge=1)] = 1
    only: list[int] | Literal["all", "unfinished"] = "unfinished"
    zip: list[str] = field(default_factory=list)
    stop_after: Annotated[int, Field(ge=1)] | None = None
    joint: bool = True
    detach: bool = False


class BaseLauncher(Launcher):
    """Common part of all launchers."""

    kind = "serial"

    def __init__(self, **params: Any) -> None:
        self.params: dict[str, Any] = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in params.items()
        }
        self.composed: dict[tuple[str, ...], Settings] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.compose = Composer(hydra_context.config_loader, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the selected jobs and report every job's state. The result of a failed job raises when Hydra reads it."""
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        settings = build(OmegaConf.to_container(self.config.get("sweep") or {}), "sweep", SweepSettings)
        if settings.zip and self.config.hydra.runtime.choices["hydra/sweeper"] != "grid":
            raise RefexpError("sweep.zip: only hydra/sweeper=grid, the default, pairs values.")
        sweep = Sweep(folder_of(self.config))
        # The `sweep.*` keys belong to the launcher, so jobs do not get them.
        wanted = [[o for o in overrides if not o.lstrip("+").startswith("sweep.")] for overrides in job_overrides]
        named = self.jobs(sweep, wanted, initial_job_idx, trusting=settings.only != "all")
        jobs = list({job.number: job for job in named}.values())
        todo = choose(sweep, jobs, settings.only)
        if this_rank().rank == 0:
            if initial_job_idx == 0:
                announce(sweep, jobs, todo)
            sweep.begin(self.kind, jobs, todo)
        try:
            self.run(sweep, todo, settings)
        except KeyboardInterrupt:
            report(sweep)
            raise
        if this_rank().rank == 0 and not settings.detach:
            report(sweep)
            from refexp.show.tables.summary import summarise_sweep

            summarise_sweep(sweep.folder)
        return [] if settings.detach else [outcome(sweep, job) for job in named]

    def jobs(self, sweep: Sweep, wanted: Sequence[list[str]], first: int, trusting: bool) -> list[Job]:
        """The job of each list of overrides: the one of the sweep that is equal, or one with a new number and folder.

        first: the number of the first job of a new sweep. trusting: completed jobs count as what they ran, even if a
        file of the configuration has changed since. Raises RefexpError if the jobs do not belong into this sweep.
        """
        known = self.known(sweep, trusting) if sweep.path.exists() else []
        shown = track(wanted, len(wanted), "jobs composed") if len(wanted) >= MANY else wanted
        new = [self.settings(overrides) for overrides in shown]
        if first == 0:  # else these are further jobs of the command that has begun
            refuse_changed(sweep.folder, known, new, [o for overrides in wanted for o in overrides])
        keys = telling(known, new)
        found = {tuple(map(one.settings.get, keys)): one.job for one in known}
        jobs, number = [], max([first, *(one.job.number + 1 for one in known)])
        for overrides, settings in zip(wanted, new, strict=True):
            same = tuple(map(settings.get, keys))
            if same not in found:
                found[same] = Job(number, overrides, self._subdir(overrides, number))
                number += 1
            jobs.append(replace(found[same], overrides=overrides))
        refuse_shared_folders(found.values())
        return jobs

    def known(self, sweep: Sweep, trusting: bool) -> list[Known]:
        """The jobs that a sweep has already, completed ones last: they count where an older sweep has equal jobs."""
        found, rows = [], sweep.read()["jobs"]
        for job, _ in sweep.jobs():
            try:
                composed = self.settings(job.overrides)
            except (HydraException, OmegaConfBaseException):  # an option of it is gone
                composed = {}
            done = trusting and sweep.state(job) == "completed"
            settings = as_run(sweep.folder / job.folder, composed) if done else composed
            found.append(Known(job, rows[str(job.number)]["command"], composed, settings))
        return sorted(found, key=lambda one: sweep.state(one.job) == "completed")

    def settings(self, overrides: Sequence[str]) -> Settings:
        """The settings of the job with these overrides. Composing takes long, so the launcher keeps them."""
        key = tuple(overrides)
        if key not in self.composed:
            self.composed[key] = settings_of(self.compose(overrides))
        return self.composed[key]

    def _subdir(self, overrides: list[str], number: int) -> str:
        if OmegaConf.to_container(self.config.hydra.sweep)["subdir"] == "${hydra.job.num}":  # type: ignore[index, call-overload]
            return str(number)  # without composing the job
        config = self.compose(overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        with hydra_knows(config):
            return str(config.hydra.sweep.subdir)

    @abstractmethod
    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        """Run these jobs to completion, or submit them if detached."""


class SerialLauncher(BaseLauncher):
    """One job after another, in this process."""

    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        Pack(self.hydra_context, self.task_function, self.config, todo, todo, compose=self.compose).run()


@dataclass(eq=False)
class Pack:
    """Some jobs of a sweep that run serially in one process. submitit sends it to a cluster job.

    todo: the jobs of all packs. extra: overrides for all jobs.
    If SLURM stops the cluster job, it is queued again and skips the completed jobs.
    """

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    jobs: Sequence[Job]
    todo: Sequence[Job]
    extra: Sequence[str] = ()
    subdir: str = ""
    singletons: Any = field(default_factory=Singleton.get_state)
    compose: Composer | None = None

    def __call__(self) -> None:
        Singleton.set_state(self.singletons)
        setup_globals()
        self.run()

    def checkpoint(self) -> Any:
        """Submit the same pack again. submitit calls this on preemption and time-outs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def run(self) -> None:
        root = Path(str(self.config.hydra.sweep.dir))
        from refexp.experiment.joint import together  # imports torch, which would slow down --help

        # Some may be completed from before this cluster job was stopped and queued again.
        todo = [job for job in self.jobs if read_status(self.folder(root, job)).get("state") != "completed"]
        compose = self.compose or Composer(self.hydra_context.config_loader, self.config)
        configs = {job.number: self.placed(root, job, compose([*job.overrides, *self.extra])) for job in todo}
        joint = len(todo) > 1 and (self.config.get("sweep") or {}).get("joint", True)
        waiting = {self.folder(root, job): plain(configs[job.number]) for job in todo} if joint else {}
        with together(waiting):
            for job in todo:
                self.run_one(root, job, configs.pop(job.number))

    def run_one(self, root: Path, job: Job, config: DictConfig) -> None:
        """Run a job, unless too many have failed before it."""
        if hopeless := self.hopeless(root):
            if this_rank().rank == 0:
                Status(self.folder(root, job), job.overrides).end("stopped", hopeless)
            return
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        log.info("#%d : %s", job.number, " ".join(map(typed, job.overrides)))
        run_job(
            hydra_context=self.hydra_context, task_function=self.task_function, config=config,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip

    def folder(self, root: Path, job: Job) -> Path:
        """The folder of a job."""
        return root.absolute() / self.subdir / job.folder

    def placed(self, root: Path, job: Job, config: DictConfig) -> DictConfig:
        """Tell the configuration of a job its number and its folder."""
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = job.number
            # Fix the folder: resolved again, it would change with the dataset if the jobs differ in it.
            config.hydra.sweep.dir, config.hydra.sweep.subdir = str(root), str(Path(self.subdir) / job.folder)
        return config

    def hopeless(self, root: Path) -> str:
        """Why no further job should run, if `sweep.stop_after` jobs have failed with the same error; else ""."""
        limit = (self.config.get("sweep") or {}).get("stop_after")
        if not limit:
            return ""
        statuses = (read_status(self.folder(root, job)) for job in self.todo)
        errors = Counter(status["error"]["message"] for status in statuses if status.get("state") == "failed")
        return next((f"not run, because {n} jobs failed: {error}" for error, n in errors.items() if n >= limit), "")


class SubmititLauncher(BaseLauncher):
    """Common part of the launchers that start separate processes through submitit."""

    cluster = ""

    def submit(self, folder: Path, packs: Sequence[Pack], params: dict[str, Any]) -> list[str]:
        """Start one process group or cluster job per pack. Returns their ids. Raises RefexpError if one is refused."""
        import submitit

        if this_rank().starter == "torchrun":
            raise RefexpError(f"hydra/launcher={self.kind} starts ranks itself: run it with python, not torchrun.")
        given = {name: value for name, value in params.items() if value is not None}
        given["tasks_per_node"] = given.get("tasks_per_node") or given.get("gpus_per_node") or 1
        if not given.get("gpus_per_node"):
            given.pop("gpus_per_node", None)  # for 0 GPUs, SLURM would look for a node without GPUs
        init = {f"{self.cluster}_{name}": given.pop(name) for name in ("max_num_timeout",) if name in given}
        executor = submitit.AutoExecutor(folder=folder / ".submitit", cluster=self.cluster, **init)
        ids: list[str] = []
        try:
            executor.update_parameters(
                **{name if name in GENERAL else f"{self.cluster}_{name}": value for name, value in given.items()}
            )
            with no_outer_job(), executor.batch():
                jobs = [executor.submit(pack) for pack in packs]
            ids = [job.job_id for job in jobs]
            if self.cluster == "slurm":
                check_possible(ids)
        except Exception as error:
            if ids:
                cancel_slurm(ids)
            asked = ", ".join(f"{name}={value}" for name, value in given.items() if name != "setup")
            why = " ".join(line for line in str(error).splitlines() if "error:" in line) or first_line(error)
            raise RefexpError(f"{self.cluster} refused the job: {why}. hydra.launcher requested: {asked}") from None
        return ids

    def packs(self, groups: Sequence[Sequence[Job]], extra: Sequence[str] = ()) -> list[Pack]:
        todo = [job for group in groups for job in group]
        return [Pack(self.hydra_context, self.task_function, self.config, group, todo, extra) for group in groups]

    def wait(self, sweep: Sweep, settings: SweepSettings) -> None:
        """Wait until no job waits or runs. With `detach`, only print how to wait."""
        collect = f"refexp sweep collect {sweep.folder}"
        if settings.detach:
            print(f"submitted: {', '.join(sweep.job_ids())}. To wait for them: {collect}")
            return
        try:
            wait_for(sweep)
        except KeyboardInterrupt:
            cancel = f"refexp sweep cancel {sweep.folder}"
            print(f"\nthe jobs continue to run. To wait for them: {collect}. To stop them: {cancel}")
            raise


@contextmanager
def no_outer_job() -> Iterator[None]:
    """Within, hide what SLURM has set for the job that this process runs in, after `salloc`, say.

    sbatch hands the environment on, and srun would take the outer job's memory and tasks for requests.
    """
    names = [name for name in os.environ if name.startswith("SLURM_") and name not in OF_SITE]
    outer = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ |= outer


class LocalLauncher(SubmititLauncher):
    """Several jobs in parallel on this machine. They share the extraction through the store."""

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
    """SLURM cluster jobs: first the extraction, with GPUs, then the jobs of the sweep, without GPUs."""

    kind, cluster = "slurm", "slurm"

    def run(self, sweep: Sweep, todo: Sequence[Job], settings: SweepSettings) -> None:
        full, light = self.requests()
        groups = [todo[i : i + settings.pack] for i in range(0, len(todo), settings.pack)]
        staged = any(o.split("=")[0].lstrip("+") == "stage" for job in todo for o in job.overrides)
        try:
            if todo and settings.extract == "first" and not staged:
                extraction = self.extract_first(sweep, todo, full, settings.extract_jobs)
                # afterany, not afterok: even if the extraction fails, some jobs may have all their images in the store.
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
        """The SLURM parameters for jobs that extract, and for jobs that only ablate."""
        full = dict(self.params)
        lighter = full.pop("ablate", None) or {}
        mail = {name.replace("_", "-"): full.pop(name, None) for name in ("mail_user", "mail_type")}
        more = (full.get("additional_parameters") or {}) | {name: value for name, value in mail.items() if value}
        light = full | {name: value for name, value in lighter.items() if value is not None}
        return full | {"additional_parameters": dict(more)}, light | {"additional_parameters": dict(more)}

    def extract_first(self, sweep: Sweep, todo: Sequence[Job], params: dict[str, Any], count: int) -> list[str]:
        """Submit `count` cluster jobs that share the extraction of all jobs. Returns SLURM's ids, one for an array."""
        packs = [
            Pack(
                self.hydra_context, self.task_function, self.config, todo, todo,
                ["stage=extract"], f"{EXTRACT_FOLDER}/{i}",
            )
            for i in range(count)
        ]  # fmt: skip
        ids = self.submit(sweep.folder, packs, params | {"name": f"{params['name']}-extract"})
        sweep.extracting(ids)
        return list(dict.fromkeys(id_.split("_")[0] for id_ in ids))


def plain(config: DictConfig) -> dict[str, Any] | None:
    """The settings of a job, resolved. None if that fails: the job itself then says why."""
    with hydra_knows(config):
        try:
            return resolve(without_hydra(config))
        except RefexpError:
            return None


@contextmanager
def hydra_knows(config: DictConfig) -> Iterator[None]:
    """Within, `HydraConfig.get()` is that of a job which has been composed but does not run."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def folder_of(config: DictConfig) -> Path:
    """The sweep's folder. Ranks other than 0 write elsewhere (`silent_rank`), but they must choose the same jobs."""
    given = [o for o in config.hydra.overrides.hydra if o.startswith("hydra.sweep.dir=")]
    if this_rank().rank and len(given) > 1:
        config = copy.deepcopy(config)
        config.hydra.sweep.dir = OverridesParser.create().parse_override(given[-2]).value()
    return Path(str(config.hydra.sweep.dir)).absolute()


def choose(sweep: Sweep, jobs: Sequence[Job], only: list[int] | Literal["all", "unfinished"]) -> list[Job]:
    """Choose the jobs to run: all, those with the given numbers, or those that are not completed."""
    if only == "all":
        return list(jobs)
    if only == "unfinished":
        return [job for job in jobs if sweep.state(job) != "completed"]
    assert isinstance(only, list)
    numbers = [job.number for job in jobs]
    if unknown := [number for number in only if number not in numbers]:
        known = ", ".join(map(str, numbers))
        raise RefexpError(f"sweep.only: this command has no job {unknown[0]}. Its jobs in {sweep.folder} are {known}.")
    return [job for job in jobs if job.number in only]


def announce(sweep: Sweep, jobs: Sequence[Job], todo: Sequence[Job]) -> None:
    """Say what of a sweep is completed or will be replaced. Raises RefexpError if jobs of it still wait or run."""
    if not sweep.path.exists():
        return
    if alive := [f"#{record.job.number}" for record in survey(sweep, need_slurm=False) if record.alive]:
        which = ", ".join(alive)
        raise RefexpError(f"{sweep.folder}: {which} still wait or run. Collect or cancel them first: refexp sweep.")
    done = [job for job in jobs if sweep.state(job) == "completed"]
    log.info("%d of %d jobs are completed in %s; %d to run", len(done), len(jobs), sweep.folder, len(todo))
    if replaced := listed(f"#{job.number}" for job in done if job in todo):
        log.warning("the results of %s are replaced (sweep.only)", replaced)


def outcome(sweep: Sweep, job: Job) -> JobReturn:
    """The result of a job for Hydra: its objective. Reading the value of a failed job raises."""
    result = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
    if this_rank().rank == 0 and sweep.state(job) != "completed":
        result.status, result.return_value = JobStatus.FAILED, JobFailed(f"job {job.number}")
    elif (sweep.folder / job.folder / "metrics.json").exists():
        result.return_value = RunRecord.read(sweep.folder / job.folder).objective
    return result
