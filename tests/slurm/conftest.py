"""A real Slurm for the tests, brought up once and taken down whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "ip", "nsenter", "unshare")
REQUIRED = "HPC_EMBED_REQUIRE_SLURM"
"""Set by continuous integration: there a missing Slurm is a failure and no reason to skip."""


class Cluster:
    """Three nodes of two fake GPUs each; partition `high` preempts `gpu`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}

    def do(self, verb: str, *arguments: object) -> None:
        """One command of cluster.sh."""
        log = self.folder.with_name("cluster.log")
        with log.open("ab") as output:
            command = ["bash", str(SCRIPT), verb, str(self.folder), *map(str, arguments)]
            done = subprocess.run(command, stdout=output, stderr=output, check=False, timeout=120)
        assert done.returncode == 0, log.read_text()

    def ask(self, *command: str) -> str:
        """Output of a Slurm command."""
        environment = {**os.environ, **self.env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def queue(self) -> list[str]:
        """`state name node` of every array element or job that waits or runs."""
        return self.ask("squeue", "--noheader", "--array", "--format=%T %j %N").splitlines()

    def running(self) -> list[str]:
        """Those that run."""
        return [line for line in self.queue() if line.startswith("RUNNING")]

    def reset(self) -> None:
        """No jobs, every node back."""
        self.ask("scancel", "--full", "--user=root")
        for node in (1, 2, 3):
            self.do("heal", node)
            self.do("poweron", node)
        wait_for(lambda: not self.queue(), 60)
        wait_for(
            lambda: self.ask("sinfo", "--noheader", "-p", "gpu", "--states=idle", "--format=%D").strip() == "3", 60
        )


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    """Wait until a condition holds; says which where it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            import inspect

            raise AssertionError(f"waited {seconds} s in vain for: {inspect.getsource(condition).strip()}")
        time.sleep(0.2)


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    reason = f"needs Slurm on this machine: {', '.join(missing)} missing" if missing else ""
    if os.geteuid() != 0:
        reason = "needs root, to make network namespaces"
    if reason:
        assert not os.environ.get(REQUIRED), reason
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hpc-embed-slurm-"))
    folder.chmod(0o755)  # munge refuses a socket that others cannot reach
    cluster = Cluster(folder / "cluster")
    try:
        cluster.do("up")
        yield cluster
    finally:
        cluster.do("down")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, idle before and after."""
    yield whole_cluster
    whole_cluster.reset()
