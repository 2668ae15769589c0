"""A real Slurm for the tests, brought up once and taken down whatever happens; its users are no roots."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.conftest import REPOSITORY, Run

SCRIPT = Path(__file__).parent / "cluster.sh"
PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "sbatch", "ip", "nsenter", "unshare", "runuser")
REQUIRED = "HPC_EMBED_REQUIRE_SLURM"
"""Set by continuous integration: there a missing Slurm is a failure and no reason to skip."""
GROUP, ANNA, BEN = "hpce-lab", "hpce-anna", "hpce-ben"
PYTHONPATH = f"{REPOSITORY}:{sysconfig.get_paths()['purelib']}"
HELD = ("HPC_EMBED_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""What holds this process to an instruction set, and is to hold its jobs: their bits are compared with its own."""


class Cluster:
    """Three nodes of two fake GPUs each; partition `high` preempts `gpu`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.environment = environment
        self.is_as_it_was = True

    def do(self, verb: str, *arguments: object) -> None:
        """One command of cluster.sh."""
        log = self.folder.with_name("cluster.log")
        with log.open("ab") as output:
            command = ["bash", str(SCRIPT), verb, str(self.folder), *map(str, arguments)]
            environment = {**os.environ, **self.environment}
            done = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False, timeout=120)
        assert done.returncode == 0, log.read_text()

    def configure(self, *settings: str) -> None:
        """Slurm's defaults but for these settings, until the end of the test."""
        self.do("configure", *settings)
        self.is_as_it_was = not settings

    def ask(self, *command: str) -> str:
        """Output of a Slurm command, asked by root."""
        environment = {**os.environ, **self.env}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def queue(self) -> list[str]:
        """`state name node` of every array element or job that waits or runs."""
        return self.ask("squeue", "--noheader", "--array", "--format=%T %j %N").splitlines()

    def running(self) -> list[str]:
        """Those that run."""
        return [line for line in self.queue() if line.startswith("RUNNING")]

    def occupy(self, nodes: int = 3, seconds: float = 3, partition: str = "high") -> None:
        """Somebody more important takes whole nodes."""
        for _ in range(nodes):
            self.ask(
                *("sbatch", f"--partition={partition}", "--exclusive", "--nodes=1", "--output=/dev/null"),
                f"--wrap=sleep {seconds}",
            )

    def reset(self) -> None:
        """No jobs, every node back, Slurm's defaults."""
        jobs = self.ask("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.ask("scancel", "--quiet", "--full", *jobs)
        for node in (1, 2, 3):
            self.do("heal", node)
            self.do("poweron", node)
        wait_for(lambda: not self.queue(), 60)
        if not self.is_as_it_was:
            self.configure()
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


def need(reason: str) -> None:
    """Skip for this reason, but fail in continuous integration."""
    if reason:
        assert not os.environ.get(REQUIRED), reason
        pytest.skip(reason)


@contextmanager
def a_cluster(**environment: str) -> Iterator[Cluster]:
    """A cluster of its own, taken down at the end."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    need(f"needs Slurm on this machine: {', '.join(missing)} missing" if missing else "")
    need("needs root, to make network namespaces" if os.geteuid() != 0 else "")
    folder = Path(tempfile.mkdtemp(prefix="hpc-embed-slurm-"))
    folder.chmod(0o755)  # munge refuses a socket that others cannot reach
    cluster = Cluster(folder / "cluster", **environment)
    try:
        cluster.do("up")
        yield cluster
    finally:
        cluster.do("down")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def users() -> Iterator[tuple[str, str]]:
    """Two ordinary users of one group, gone again afterwards."""
    need("needs root, to make users" if os.geteuid() != 0 else "")
    made = []
    with suppress(KeyError):
        grp.getgrnam(GROUP)
        subprocess.run(["groupdel", "--force", GROUP], check=True)
    subprocess.run(["groupadd", GROUP], check=True)
    for name in (ANNA, BEN):
        with suppress(KeyError):
            pwd.getpwnam(name)
            subprocess.run(["userdel", name], check=True)
        subprocess.run(["useradd", "--no-create-home", "--home-dir", "/", "--groups", GROUP, name], check=True)
        made.append(name)
    yield ANNA, BEN
    for name in made:
        subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        subprocess.run(["userdel", name], check=False, capture_output=True)
    subprocess.run(["groupdel", GROUP], check=False)


@pytest.fixture(scope="session")
def python_for_users(users: tuple[str, str]) -> str:
    """A Python of this version that other users than root may run: not every one lies where they can reach it."""
    same = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/{same}", f"/usr/local/bin/{same}"):
        command = as_user(users[0], [program, "-c", "import hpc_embed, pyarrow"], {"PYTHONPATH": PYTHONPATH})
        if subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0:
            return program
    need(f"needs a {same} that other users than root can run, in /usr/bin say")
    raise AssertionError


def as_user(name: str, command: list[str], environment: dict[str, str]) -> list[str]:
    """The command run by a user, with nothing of root's environment but HELD and what is given."""
    held = {key: os.environ[key] for key in HELD if key in os.environ}
    words = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/", "LOGNAME": name, "USER": name, **held, **environment}
    return ["runuser", "-u", name, "--", "env", "-i", *(f"{key}={value}" for key, value in words.items()), *command]


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    with a_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, idle before and after."""
    yield whole_cluster
    whole_cluster.reset()


@pytest.fixture
def tmp_path(users: tuple[str, str]) -> Iterator[Path]:
    """A folder that the users reach, as a group's project folder is: setgid, all of it the group's."""
    folder = Path(tempfile.mkdtemp(prefix="hpc-embed-project-"))
    os.chown(folder, pwd.getpwnam(ANNA).pw_uid, grp.getgrnam(GROUP).gr_gid)
    folder.chmod(0o2770)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


UserRun = Callable[[str], Run]


@pytest.fixture
def run_as(cluster: Cluster, tmp_path: Path, python_for_users: str) -> UserRun:
    """`run_as("hpce-ben")("status", code=4)`: a command of hpc-embed, by that user, in the project folder."""

    return lambda name: running_as(name, cluster, tmp_path, python_for_users)


def running_as(name: str, cluster: Cluster, folder: Path, python: str) -> Run:
    """A user's way to run hpc-embed on a cluster, in a folder."""

    def call(*arguments: object, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
        own(folder)
        umask = options.pop("umask", "022")
        environment: dict[str, str] = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment |= {**cluster.env, **options.pop("env", {})}  # type: ignore[dict-item]
        words = [python, "-m", "hpc_embed", *map(str, arguments)]
        command = as_user(name, ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *words], environment)
        keywords = {"cwd": folder, "capture_output": True, "text": True, "timeout": 300, **options}
        done = subprocess.run(command, check=False, **keywords)  # type: ignore[call-overload]
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert isinstance(done, subprocess.CompletedProcess)
        return done

    return call


def own(folder: Path) -> None:
    """Give Anna what the test, as root, has put into the project folder."""
    anna, group = pwd.getpwnam(ANNA).pw_uid, grp.getgrnam(GROUP).gr_gid
    for path in (folder, *folder.rglob("*")):
        with suppress(FileNotFoundError):
            if path.lstat().st_uid == 0:
                os.chown(path, anna, group, follow_symlinks=False)


@pytest.fixture
def run(run_as: UserRun) -> Run:
    """As everywhere, but by an ordinary user."""
    return run_as(ANNA)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], NDArray[np.float32]]:
    """The vectors that `local` gives for a file, each file embedded once."""

    @cache
    def of(content: bytes) -> NDArray[np.float32]:
        folder = tmp_path_factory.mktemp("expected")
        (folder / "in.fasta").write_bytes(content)
        command = [
            sys.executable,
            "-m",
            "hpc_embed",
            "local",
            "in.fasta",
            "--model",
            "esm2_t6_8M:untrained",
            "--workers",
            "2",
        ]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True)
        table = pq.read_table(folder / "embed-run/dataset")
        return np.stack(table["embedding"].to_numpy(zero_copy_only=False))

    return lambda path: of(path.read_bytes())
