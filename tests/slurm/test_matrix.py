"""What is long: the rest of the matrix of docs/slurm.md, by `make slurm-matrix`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.slurm.conftest import ANNA, Cluster, a_cluster, running_as, wait_for
from tests.slurm.runs import (
    OFTEN,
    ON_CPU,
    Expected,
    begin,
    check_grace,
    check_time_limit,
    check_whole,
    logs,
    wait_for_dataset,
    write_proteins,
)

pytestmark = [pytest.mark.slurm, pytest.mark.matrix]
GRACE = {
    "defaults": [],
    "grace": ["gpu:GraceTime=20"],
    "grace and user signal": ["gpu:GraceTime=20", "SlurmctldParameters=preempt_send_user_signal"],
    "cancel with grace": ["gpu:GraceTime=20 PreemptMode=CANCEL"],
}


@pytest.fixture
def proteins(tmp_path: Path) -> Path:
    return write_proteins(tmp_path / "proteins.fasta", 60)


def test_preempted_without_grace_slurm_requeues(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    run_dir = begin(run, proteins, tmp_path)
    cluster.occupy()
    wait_for_dataset(cluster, run_dir, what="preemption")
    assert re.search(r"start [2-9]", logs(run_dir)), "it was requeued"
    check_whole(proteins, run_dir, expected)


def test_a_cut_and_healed_link_makes_twins_that_do_no_harm(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    run_dir = begin(run, proteins, tmp_path)
    node = cluster.running()[0][-1]
    cluster.do("cut", node)
    wait_for(lambda: re.search(r"start 2", logs(run_dir)), 90)
    cluster.do("heal", node)
    wait_for_dataset(cluster, run_dir, what="cut and healed link")
    check_whole(proteins, run_dir, expected)


@pytest.mark.parametrize(
    ("profile", "sign"),
    [("grace and user signal", "stopped by SIGUSR2"), ("cancel with grace", "stopped by SIGTERM")],
)
def test_preempted_with_grace(
    profile: str, sign: str, run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    check_grace(GRACE[profile], sign, run, cluster, proteins, tmp_path, expected)


@pytest.mark.parametrize("settings", GRACE.values(), ids=list(GRACE))
def test_cancelled_is_never_taken_for_preempted(
    settings: list[str], run: Run, cluster: Cluster, proteins: Path, tmp_path: Path
) -> None:
    cluster.configure(*settings)
    run_dir = begin(run, proteins, tmp_path, "--no-gather")
    cluster.ask("scancel", f"--user={ANNA}")
    wait_for(lambda: not cluster.queue(), 60)
    wait_for(lambda: "was cancelled" in run("status", "--run-dir", run_dir).stdout, 30)
    assert "start 2" not in logs(run_dir)
    assert (
        "2 shards submitted"
        in run("submit", "--run-dir", run_dir, *ON_CPU, "--sbatch", '{"begin": "now+1hour"}').stdout
    )


def test_suspended_for_a_more_important_job_a_task_goes_on_afterwards(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    shared = "OverSubscribe=FORCE:1"
    cluster.configure("PreemptMode=SUSPEND,GANG", f"gpu:PreemptMode=SUSPEND {shared}", f"high:{shared}")
    run_dir = begin(run, proteins, tmp_path)
    for _ in range(3):
        whole_node = ("--partition=high", "--nodes=1", "--ntasks=8", "--output=/dev/null")
        cluster.ask("sbatch", *whole_node, "--wrap=sleep 8")
    wait_for(lambda: "SUSPENDED" in " ".join(cluster.queue()), 30)
    assert "suspended" in run("status", "--run-dir", run_dir).stdout
    wait_for_dataset(cluster, run_dir)
    assert "start 2" not in logs(run_dir)
    check_whole(proteins, run_dir, expected)


def test_the_controller_dies_and_comes_back(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    run_dir = begin(run, proteins, tmp_path)
    cluster.do("restart")
    wait_for_dataset(cluster, run_dir, what="controller restart")
    check_whole(proteins, run_dir, expected)


@pytest.fixture(scope="module")
def without_accounting() -> Iterator[Cluster]:
    with a_cluster(ACCOUNTING="no", NODES="3") as cluster:
        yield cluster


@pytest.fixture
def plain(without_accounting: Cluster, tmp_path: Path, python_for_users: str) -> Iterator[Run]:
    yield running_as(ANNA, without_accounting, tmp_path, python_for_users)
    without_accounting.reset()


def test_without_accounting_preempted(
    plain: Run,
    without_accounting: Cluster,
    proteins: Path,
    tmp_path: Path,
    expected: Expected,
) -> None:
    run_dir = begin(plain, proteins, tmp_path)
    without_accounting.occupy()
    wait_for_dataset(without_accounting, run_dir)
    assert re.search(r"start [2-9]", logs(run_dir))
    check_whole(proteins, run_dir, expected)


def test_without_accounting_a_time_limit(
    plain: Run,
    without_accounting: Cluster,
    proteins: Path,
    tmp_path: Path,
    expected: Expected,
) -> None:
    check_time_limit(plain, without_accounting, proteins, tmp_path, expected)


def test_without_accounting_cancelled_then_submitted_again(
    plain: Run,
    without_accounting: Cluster,
    proteins: Path,
    tmp_path: Path,
    expected: Expected,
) -> None:
    run_dir = begin(plain, proteins, tmp_path)
    without_accounting.ask("scancel", f"--user={ANNA}")
    wait_for(lambda: not without_accounting.queue(), 60)
    assert "2 begun" in plain("status", "--run-dir", run_dir).stdout
    plain("submit", "--run-dir", run_dir, *ON_CPU, *OFTEN)
    wait_for_dataset(without_accounting, run_dir)
    check_whole(proteins, run_dir, expected)


def test_without_accounting_a_node_is_lost(
    plain: Run,
    without_accounting: Cluster,
    proteins: Path,
    tmp_path: Path,
    expected: Expected,
) -> None:
    run_dir = begin(plain, proteins, tmp_path)
    without_accounting.do("poweroff", without_accounting.running()[0][-1])
    wait_for_dataset(without_accounting, run_dir)
    check_whole(proteins, run_dir, expected)
