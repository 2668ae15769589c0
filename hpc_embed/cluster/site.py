"""What a Slurm site is, and what that means for a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.slurm import ask, hides_jobs, max_array_size, site_configuration
from hpc_embed.run.mounts import CACHING, NODE_OWN, SHARED, file_system_of

OLDEST, NEWEST = (20, 11), (25, 11)
"""Releases whose manuals were read for what we pass and parse; the tests run on the one that Debian has."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    is_well: bool
    detail: str


def describe_site(run_dir: Path) -> list[Finding]:
    """All that matters of this site; EnvironmentFault where Slurm does not answer."""
    configuration = site_configuration()
    return [
        _version(configuration),
        Finding("array size", True, f"{max_array_size():,} elements at most; submit makes as many arrays as it takes"),
        _preemption(configuration),
        _requeue(configuration),
        _private(),
        _accounting(configuration),
        *_partitions(),
        file_system(run_dir),
    ]


def _version(configuration: dict[str, str]) -> Finding:
    text = configuration.get("SLURM_VERSION", "unknown")
    found = re.match(r"(\d+)\.(\d+)", text)
    release = (int(found.group(1)), int(found.group(2))) if found else OLDEST
    is_known = OLDEST <= release <= NEWEST
    known = f"{OLDEST[0]}.{OLDEST[1]:02d} to {NEWEST[0]}.{NEWEST[1]:02d}"
    return Finding("Slurm", is_known, f"{text}" + ("" if is_known else f"; made for {known}: rehearse first"))


def _preemption(configuration: dict[str, str]) -> Finding:
    mode = configuration.get("PreemptMode", "OFF")
    if configuration.get("PreemptType", "preempt/none").endswith("none") or mode == "OFF":
        return Finding("preemption", True, "none")
    has_signal = "preempt_send_user_signal" in configuration.get("SlurmctldParameters", "")
    sign = "SIGUSR2" if has_signal else "SIGTERM"
    meaning = {
        "REQUEUE": "Slurm or the batch script requeues a preempted task",
        "CANCEL": "with a grace period the batch script requeues a preempted task; without one, submit again",
        "SUSPEND": "a preempted task waits on its node, and goes on",
    }.get(mode.split(",")[0], "")
    return Finding("preemption", True, f"{mode}; {meaning}; a grace period opens with {sign}")


def _requeue(configuration: dict[str, str]) -> Finding:
    if configuration.get("JobRequeue", "1") == "0":
        return Finding("requeue", True, "off by default (JobRequeue=0); our tasks ask for it")
    return Finding("requeue", True, "on by default")


def _private() -> Finding:
    if hides_jobs():
        return Finding(
            "privacy", True, "users see their own jobs alone: submit asks before it takes over another's run"
        )
    return Finding("privacy", True, "jobs of others are seen: several users can share a run")


def _accounting(configuration: dict[str, str]) -> Finding:
    kind = configuration.get("AccountingStorageType", "accounting_storage/none").rpartition("/")[2]
    if kind in ("none", "(null)", ""):
        return Finding("accounting", False, "none; status cannot tell how an ended task ended, all else works")
    limits = configuration.get("AccountingStorageEnforce", "none")
    return Finding("accounting", True, f"{kind}; enforced: {limits}")


def _partitions() -> Iterator[Finding]:
    for line in ask("scontrol", "show", "partition", "--oneliner").splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        name = facts.get("PartitionName", "")
        preempt = (
            f"preempted by {facts['PreemptMode']}" if facts.get("PreemptMode", "OFF") != "OFF" else "never preempted"
        )
        grace = f" after {facts['GraceTime']} s" if facts.get("GraceTime", "0") != "0" else ""
        limit = facts.get("MaxTime", "UNLIMITED")
        gpus = ", ".join(sorted(set(_gres(name)))) or "no GPUs"
        is_up = facts.get("State", "UP") == "UP"
        detail = f"{facts.get('TotalNodes', '?')} nodes, {gpus}, at most {limit.lower()}, {preempt}{grace}"
        yield Finding(f"partition {name}", is_up, detail if is_up else f"{facts['State'].lower()}; {detail}")


def _gres(partition: str) -> list[str]:
    lines = ask("sinfo", "--noheader", f"--partition={partition}", "--format=%G").splitlines()
    return [line.strip().partition("(")[0] for line in lines if line.strip().startswith("gpu")]


def file_system(folder: Path) -> Finding:
    """The file system that a run folder is or would be on, and whether nodes are likely to see it."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    kind = file_system_of(place)
    if kind in SHARED:
        advice = "; a file made on one node can be invisible on another for a minute" if kind in CACHING else ""
        return Finding("run folder", True, f"{place} on {kind}, which nodes share{advice}")
    if kind in NODE_OWN:
        return Finding("run folder", False, f"{place} on {kind}: of this machine alone; choose --run-dir elsewhere")
    return Finding("run folder", True, f"{place} on {kind}; make sure that nodes see it (--rehearse shows)")
