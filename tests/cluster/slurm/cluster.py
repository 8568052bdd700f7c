"""A real SLURM on this machine, for tests: two virtual nodes with two fake GPUs each.

    make slurm                                # once, as root: installs Debian's packages
    python tests/cluster/slurm/cluster.py up DIR      # starts it and prints the line that makes a shell use it
    python tests/cluster/slurm/cluster.py down DIR

Root is needed (slurmd starts jobs as their users). Nothing outside DIR is touched; without cgroups memory and GPUs are
counted, but not enforced.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge (as root; or: make slurm)"
NODES = ("n1", "n2")
GPUS = 2
CPUS = 8


def why_not() -> str | None:
    """What keeps this machine from running the cluster, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no SLURM here ({', '.join(missing)} missing); get it with: {INSTALL}"
    return None if os.geteuid() == 0 else "SLURM's daemons need root here"


class Cluster:
    """munged, slurmctld and one slurmd a node, all below `root`."""

    def __init__(self, root: Path) -> None:
        self.root, self.config = root.absolute(), root.absolute() / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to use this cluster."""
        return {"SLURM_CONF": str(self.config)}

    def up(self) -> None:
        """Start everything and return when the nodes are idle. Raises RuntimeError with the logs' place."""
        for folder in ("state", "log", "munge", *(f"spool-{node}" for node in NODES)):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "munge").chmod(0o755)
        self._write_config()
        key = self.root / "munge/key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(128))
        self._start(
            "munged", "--force", f"--key-file={key}", f"--socket={self.root}/munge/socket",
            f"--pid-file={self.root}/munged.pid", f"--log-file={self.root}/log/munged.log",
            f"--seed-file={self.root}/munge/seed",
        )  # fmt: skip
        self._start("slurmctld", "-f", str(self.config))
        for node in NODES:
            self._start("slurmd", "-f", str(self.config), "-N", node)
        self._wait_for_nodes()

    def down(self) -> None:
        """Cancel what runs and stop the daemons, as far as they have started."""
        with suppress(subprocess.TimeoutExpired):
            self.run("scancel", "--user=root", check=False)
        for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
            file = self.root / f"{name}.pid"
            if file.exists() and file.read_text().strip():
                stop(int(file.read_text()))
            file.unlink(missing_ok=True)

    def run(self, *command: str, check: bool = True) -> str:
        """A SLURM command's output."""
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, timeout=60, check=check
        )
        return done.stdout

    def _start(self, *command: str) -> None:
        done = subprocess.run(command, env=os.environ | self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} did not start: {done.stderr.strip()}; logs are in {self.root / 'log'}")

    def _wait_for_nodes(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if len(self.run("sinfo", "-hN", "-t", "idle", check=False).split("\n")) > len(NODES):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the nodes are not idle after 90 s; logs are in {self.root / 'log'}")

    def _write_config(self) -> None:
        host = socket.gethostname().split(".")[0]
        port, *node_ports = free_ports(1 + len(NODES))
        memory = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20 * 0.8)
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs={CPUS} "
            f"RealMemory={memory} Gres=gpu:{GPUS}"
            for node, node_port in zip(NODES, node_ports, strict=True)
        )
        self.config.write_text(f"""\
ClusterName=refexp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self.root}/munge/socket
StateSaveLocation={self.root}/state
SlurmdSpoolDir={self.root}/spool-%n
SlurmctldPidFile={self.root}/slurmctld.pid
SlurmdPidFile={self.root}/slurmd-%n.pid
SlurmctldLogFile={self.root}/log/slurmctld.log
SlurmdLogFile={self.root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=512
ReturnToService=2
KillWait=3
MailProg=/bin/true
# Debian's defaults cost seconds a job
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=1
GresTypes=gpu
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10
""")
        # GPUs that are files: null devices would need mknod, and no job here opens them.
        devices = [self.root / f"gpu{i}" for i in range(GPUS)]
        for device in devices:
            device.touch()
        (self.root / "gres.conf").write_text(f"Name=gpu File={self.root}/gpu[0-{GPUS - 1}]\n")
        (self.root / "cgroup.conf").write_text("CgroupAutomount=no\n")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, from below those that the system gives to whoever asks for any."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(10000, 19999)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found


def stop(pid: int) -> None:
    """Ask a daemon to end, then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for _ in range(50):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            time.sleep(0.1)


def main() -> int:
    """`up DIR` or `down DIR`."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        print(__doc__)
        return 2
    problem = why_not()
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    cluster = Cluster(Path(sys.argv[2]))
    if sys.argv[1] == "down":
        cluster.down()
        return 0
    cluster.up()
    print(f"export SLURM_CONF={cluster.config}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
