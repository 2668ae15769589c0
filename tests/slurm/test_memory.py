"""A cluster that holds tasks to their memory (cgroups), where the machine allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.slurm.conftest import Cluster, a_cluster, wait_for
from tests.slurm.runs import ESM2, OFTEN, ON_CPU, logs, pieces, wait_for_dataset, write_proteins

pytestmark = pytest.mark.slurm
MEMORY_CONTROLLER = Path("/sys/fs/cgroup/memory")
HOG = """\
import os, sys
if "run-task" in sys.argv and not os.path.exists({marker!r}):
    open({marker!r}, "w").close()
    if {fork} or os.fork() == 0:
        hog = bytearray(3 << 30)
"""
"""sitecustomize.py: the first start of a task, or a child of it, takes more than the task may have."""


@pytest.fixture(scope="module")
def whole_cluster() -> Iterator[Cluster]:
    trial = MEMORY_CONTROLLER / "hpc-embed-trial"
    with suppress(OSError):
        trial.mkdir()
        (trial / "memory.limit_in_bytes").write_text("1000000")
        trial.rmdir()
        with a_cluster(CGROUP="yes", NODES="1") as cluster:
            yield cluster
        return
    pytest.skip("needs a memory cgroup (version 1) that root may write; this machine has none")


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Cluster:
    return whole_cluster


def hog(tmp_path: Path, in_child: bool) -> dict[str, str]:
    folder = tmp_path / "hog"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOG.format(marker=str(tmp_path / "hogged"), fork=not in_child))
    return {"PYTHONPATH": f"{folder}:{os.environ['HOG_PATH']}"}


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.slurm.conftest import PYTHONPATH

    monkeypatch.setenv("HOG_PATH", PYTHONPATH)


def test_an_out_of_memory_kill_of_a_child_does_not_cost_the_requeue(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    proteins = write_proteins(tmp_path / "proteins.fasta", 60)
    run("plan", proteins, *ESM2, "--run-dir", "run", "--num-shards", 1)
    environment = hog(tmp_path, in_child=True)
    run("submit", "--run-dir", "run", *ON_CPU, *OFTEN, "--memory-gibibytes", 2, env=environment)
    wait_for(lambda: len(pieces(tmp_path / "run")) >= 4, 90)
    cluster.ask("scancel", "--signal=USR2", "--name=hpc-embed")
    wait_for_dataset(cluster, tmp_path / "run")
    text = logs(tmp_path / "run")
    assert "oom_kill" in text.lower() or "out of memory" in text.lower(), text
    assert "start 2" in text


def test_a_task_that_runs_out_of_memory_names_the_flag(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--run-dir", "run", "--num-shards", 1)
    run(
        "submit", "--run-dir", "run", *ON_CPU, "--memory-gibibytes", 1, "--no-gather", env=hog(tmp_path, in_child=False)
    )
    wait_for(lambda: not cluster.queue(), 60)
    wait_for(lambda: "--memory-gibibytes" in run("status", "--run-dir", "run").stdout, 20)
