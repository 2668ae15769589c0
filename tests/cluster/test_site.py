"""What is told of a site, by what its own scontrol and sinfo print."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.cluster import site, slurm
from hpc_embed.cluster.site import describe_site, file_system
from hpc_embed.cluster.slurm import max_array_size
from tests.cluster.conftest import Fakes

PARTITIONS = (
    "PartitionName=gpu AllowGroups=ALL Default=YES GraceTime=20 MaxTime=1-00:00:00 Nodes=node[1-3] PreemptMode=CANCEL"
    " State=UP TotalCPUs=24 TotalNodes=3 DefMemPerNode=UNLIMITED\n"
    "PartitionName=cpu AllowGroups=ALL Default=NO GraceTime=0 MaxTime=UNLIMITED Nodes=node4 PreemptMode=OFF"
    " State=DOWN TotalCPUs=8 TotalNodes=1\n"
)


def told(fakes: Fakes, configuration: str, what: str, partitions: str = "") -> tuple[bool, str]:
    (fakes.folder / "partitions").write_text(partitions)
    (fakes.folder / "configuration").write_text(configuration)
    answer = '{ [ "$*" = "show config" ] && cat "${0%/*}/configuration"; }'
    fakes.does("scontrol", f'{answer} || {{ [ "$*" = "show partition --oneliner" ] && cat "${{0%/*}}/partitions"; }}')
    found = {one.what: one for one in describe_site(fakes.folder)}
    return found[what].is_well, found[what].detail


@pytest.mark.parametrize(
    ("version", "is_well"),
    [
        ("22.05.8", True),
        ("20.11.0", True),
        ("20.10.9", False),
        ("19.05.1", False),
        ("25.11.2", True),
        ("25.12.0", False),
        ("26.05.0", False),
        ("unheard-of", True),
    ],
)
def test_releases_whose_manuals_were_not_read_are_looked_at(version: str, is_well: bool, fakes: Fakes) -> None:
    well, detail = told(fakes, f"SLURM_VERSION           = {version}\n", "Slurm")
    assert (well, detail) == (is_well, version + ("" if is_well else "; made for 20.11 to 25.11: rehearse first"))


def test_a_site_that_does_not_tell_its_release(fakes: Fakes) -> None:
    assert told(fakes, "", "Slurm") == (True, "unknown")


@pytest.mark.parametrize(
    ("configuration", "size"),
    [
        ("MaxArraySize = 500\n", 500),
        ("MaxArraySize = 4000001\n", 4_000_001),
        ("", 1001),
        ("MaxArraySize = n/a\n", 1001),
    ],
)
def test_the_largest_array_is_the_sites_or_slurms_own(configuration: str, size: int, fakes: Fakes) -> None:
    well, detail = told(fakes, configuration, "array size")
    assert (well, detail.partition(";")[0]) == (True, f"{size:,} elements at most")
    slurm.site_configuration.cache_clear()
    assert max_array_size() == size


@pytest.mark.parametrize(
    ("kind", "mode", "parameters", "detail"),
    [
        ("preempt/none", "OFF", "", "none"),
        ("preempt/none", "REQUEUE", "", "none"),
        ("preempt/partition_prio", "OFF", "", "none"),
        (
            "preempt/partition_prio",
            "REQUEUE",
            "(null)",
            "REQUEUE; Slurm or the batch script requeues a preempted task; a grace period opens with SIGTERM",
        ),
        (
            "preempt/qos",
            "CANCEL",
            "idle_on_node_suspend,preempt_send_user_signal",
            "CANCEL; with a grace period the batch script requeues a preempted task; without one, submit again;"
            " a grace period opens with SIGUSR2",
        ),
        (
            "preempt/partition_prio",
            "SUSPEND,GANG",
            "",
            "SUSPEND,GANG; a preempted task waits on its node, and goes on; a grace period opens with SIGTERM",
        ),
        ("preempt/qos", "NEW", "", "NEW; ; a grace period opens with SIGTERM"),
    ],
    ids=["none", "none-by-type", "none-by-mode", "requeue", "cancel", "suspend", "unknown"],
)
def test_what_preemption_means_here(kind: str, mode: str, parameters: str, detail: str, fakes: Fakes) -> None:
    lines = f"PreemptMode = {mode}\nPreemptType = {kind}\nSlurmctldParameters = {parameters}\n"
    assert told(fakes, lines, "preemption") == (True, detail)


@pytest.mark.parametrize("configuration", ["", "PreemptMode = REQUEUE\n", "PreemptType = preempt/qos\n"])
def test_without_a_word_about_preemption_there_is_none(configuration: str, fakes: Fakes) -> None:
    assert told(fakes, configuration, "preemption") == (True, "none")


@pytest.mark.parametrize(
    ("configuration", "detail"),
    [
        ("JobRequeue = 0\n", "off by default (JobRequeue=0); our tasks ask for it"),
        ("JobRequeue = 1\n", "on by default"),
        ("", "on by default"),
    ],
)
def test_requeueing_by_default(configuration: str, detail: str, fakes: Fakes) -> None:
    assert told(fakes, configuration, "requeue") == (True, detail)


@pytest.mark.parametrize(
    ("private", "words"), [("jobs,users", "users see their own jobs alone"), ("none", "jobs of others are seen")]
)
def test_privacy(private: str, words: str, fakes: Fakes) -> None:
    well, detail = told(fakes, f"PrivateData = {private}\n", "privacy")
    assert (well, detail.partition(":")[0]) == (True, words)


@pytest.mark.parametrize(
    ("configuration", "is_well", "detail"),
    [
        ("", False, "none; "),
        ("AccountingStorageType = accounting_storage/none\n", False, "none; "),
        ("AccountingStorageType = (null)\n", False, "none; "),
        ("AccountingStorageType = \n", False, "none; "),
        ("AccountingStorageType = accounting_storage/slurmdbd\n", True, "slurmdbd; enforced: none"),
        (
            "AccountingStorageEnforce = associations,limits\nAccountingStorageType = accounting_storage/slurmdbd\n",
            True,
            "slurmdbd; enforced: associations,limits",
        ),
    ],
)
def test_accounting(configuration: str, is_well: bool, detail: str, fakes: Fakes) -> None:
    well, text = told(fakes, configuration, "accounting")
    assert (well, text[: len(detail)]) == (is_well, detail)


def test_partitions_with_their_gpus_limits_and_preemption(fakes: Fakes) -> None:
    fakes.does("sinfo", 'case "$*" in *=gpu*) printf "gpu:a100:2(S:0-1)\\n gpu:a100:2\\ngpu:t4:1\\nfpga:1\\n" ;; esac')
    assert told(fakes, "", "partition gpu", PARTITIONS) == (
        True,
        "3 nodes, gpu:a100:2, gpu:t4:1, at most 1-00:00:00, preempted by CANCEL after 20 s",
    )
    assert told(fakes, "", "partition cpu", PARTITIONS) == (
        False,
        "down; 1 nodes, no GPUs, at most unlimited, never preempted",
    )
    assert fakes.calls("sinfo")[:2] == [
        "--noheader --partition=gpu --format=%G",
        "--noheader --partition=cpu --format=%G",
    ]


def test_a_partition_of_which_little_is_told(fakes: Fakes) -> None:
    fakes.says("sinfo", "(null)\n")
    assert told(fakes, "", "partition odd", "PartitionName=odd\n") == (
        True,
        "? nodes, no GPUs, at most unlimited, never preempted",
    )


def test_what_is_told_and_in_which_order(fakes: Fakes) -> None:
    fakes.says("sinfo", "")
    fakes.says("scontrol", "PartitionName=odd\n")
    assert [one.what for one in describe_site(fakes.folder)] == [
        *("Slurm", "array size", "preemption", "requeue", "privacy", "accounting", "partition odd", "run folder"),
    ]


@pytest.mark.parametrize(
    ("kind", "is_well", "words"),
    [
        ("nfs4", True, "on nfs4, which nodes share; a file made on one node can be invisible on another for a minute"),
        ("lustre", True, "on lustre, which nodes share"),
        ("tmpfs", False, "on tmpfs: of this machine alone; choose --run-dir elsewhere"),
        ("ext4", True, "on ext4; make sure that nodes see it (--rehearse shows)"),
    ],
)
def test_the_storage_of_the_run_folder(
    kind: str, is_well: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def file_system_of(folder: Path) -> str:
        asked.append(folder)
        return kind

    monkeypatch.setattr(site, "file_system_of", file_system_of)
    assert file_system(tmp_path) == ("run folder", is_well, f"{tmp_path} {words}")
    assert file_system(tmp_path / "not" / "yet there") == ("run folder", is_well, f"{tmp_path} {words}")
    assert asked == [tmp_path, tmp_path]
