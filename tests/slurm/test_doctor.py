"""What `doctor` says of a site, and the rehearsal that a user runs on a new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.slurm.conftest import ANNA, Cluster, a_cluster, running_as
from tests.slurm.runs import ON_CPU, wait_for_dataset
from tests.slurm.test_sites import front

pytestmark = pytest.mark.slurm


def test_what_this_site_is(run: Run, cluster: Cluster) -> None:
    cluster.configure("gpu:GraceTime=20 PreemptMode=CANCEL", "PrivateData=jobs", "MaxArraySize=500")
    told = run("doctor", "--cluster").stdout
    print(f"\n{told}")
    found = {one["what"]: one["detail"] for one in json.loads(run("doctor", "--cluster", "--json").stdout)}
    assert found["Slurm"].startswith("22.05")
    assert found["array size"].startswith("500 elements")
    assert found["preemption"] == (
        "REQUEUE; Slurm or the batch script requeues a preempted task; a grace period opens with SIGTERM"
    )
    assert found["privacy"].startswith("users see their own jobs alone")
    assert found["accounting"] == "slurmdbd; enforced: none"
    assert found["partition gpu"] == "3 nodes, gpu:2, at most unlimited, preempted by CANCEL after 20 s"
    assert found["partition high"] == "3 nodes, gpu:2, at most unlimited, never preempted"
    assert "run folder" in found


def test_where_slurm_does_not_answer(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    away = front(
        tmp_path, "scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1"
    )
    told = run("doctor", "--cluster", env=away).stdout
    assert "scontrol failed: slurm_load_ctl_conf error: Unable to contact slurm controller" in told
    assert "run folder" in told


def test_a_rehearsal_on_a_site_that_works(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    told = run("doctor", "--rehearse", "--partition", "gpu").stdout
    print(f"\n{told}")
    steps = [line.split()[:2] for line in told.splitlines()]
    assert [word for word, *_ in steps] == ["ok"] * 9
    assert told.splitlines()[-1].split()[1] == "verdict"
    assert list(tmp_path.iterdir()) == [], "nothing is left of it"


def test_a_rehearsal_where_nodes_cannot_requeue(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    refused = front(tmp_path, "scontrol", '[ "$1" = requeue ] && { echo denied >&2; exit 1; }; exec $real "$@"')
    no_pauses = front(tmp_path, "sleep", '[ "$1" = 600 ] && exec /usr/bin/sleep 600; exit 0')
    told = run("doctor", "--rehearse", "--partition", "gpu", env={**refused, **no_pauses}, code=5).stdout
    assert "asked for another start and got none" in told
    assert next(tmp_path.glob("rehearsal-*/run/plan.json")).exists(), "it stays to be looked at"


def test_a_rehearsal_that_the_queue_does_not_start(run: Run, cluster: Cluster) -> None:
    options = ("--sbatch", '{"begin": "now+1hour"}', "--rehearse-minutes", "0.05")
    told = run("doctor", "--rehearse", "--partition", "gpu", *options, code=5).stdout
    assert "the queue did not start it in time (BeginTime); --rehearse-minutes gives more" in told
    assert cluster.queue() == [], "nothing of it is left in the queue"


def test_a_site_without_accounting(python_for_users: str, globins: Path, tmp_path: Path) -> None:
    with a_cluster(ACCOUNTING="no", NODES="1") as cluster:
        run = running_as(ANNA, cluster, tmp_path, python_for_users)
        run("plan", globins, "--num-shards", 3)
        (tmp_path / "embed-run/shards/shard-00001.parquet").write_bytes(b"not Parquet")
        run("submit", *ON_CPU, "--no-gather")
        run("status", "--watch", "--watch-seconds", 1, code=6)
        assert "2 done, 1 failed" in run("status").stdout, "the failure is on record without an accounting"
        found = {one["what"]: one["is_well"] for one in json.loads(run("doctor", "--cluster", "--json").stdout)}
        assert found["accounting"] is False
        run("plan", globins, "--run-dir", "whole", "--num-shards", 2)
        run("submit", "--run-dir", "whole", *ON_CPU)
        wait_for_dataset(cluster, tmp_path / "whole")
