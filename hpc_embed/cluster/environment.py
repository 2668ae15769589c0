"""The environment of the programs that we start: what a shell is set up with does not reach them by accident.

Slurm's tools read options from variables, which rank above the `#SBATCH` lines of a script: SBATCH_ARRAY_INX leaves
elements out, SQUEUE_USERS hides jobs. A shell inside a job has those of that job, and sbatch hands them on to the next
one. Python takes modules from the working folder.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hpc_embed.config import SubmitSettings
from hpc_embed.errors import UsageError
from hpc_embed.progress import note

OPTIONS = re.compile(
    r"(SLURM|SLURMD|SRUN|S(BATCH|ALLOC|QUEUE|ACCT|ACCTMGR|CONTROL|CANCEL|INFO|TAT|PRIO|SHARE|DIAG))_\w+"
)
"""Variables that Slurm's tools read, or that Slurm sets in a job."""
TO_REACH_SLURM = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
OF_A_JOB = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
"""Set by Slurm inside a job, to GPUs that another job does not have."""
CLUSTERS = ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")
DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_WCKEY": "wckey",
}
"""Who pays and where it runs, which a site's profile may say for those who type nothing."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Python then takes no modules from the working folder, where a random.py of somebody else's may lie."""
HERE = str(Path(__file__).parents[2])


def environment(ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For every program that we start."""
    kept = {name: value for name, value in ours.items() if not OPTIONS.fullmatch(name) or name in TO_REACH_SLURM}
    if "SLURM_JOB_ID" in ours:
        kept = {name: value for name, value in kept.items() if name not in OF_A_JOB}
    if cluster := chosen_cluster(ours):
        kept["SLURM_CLUSTERS"] = cluster
    path = [entry for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry]  # an empty one is the folder
    if not sys.flags.safe_path and sys.path[:1] == [HERE]:  # `python -m hpc_embed` in a checkout that is not installed
        path.insert(0, HERE)
    return {**kept, SAFE_PATH: "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def chosen_cluster(ours: Mapping[str, str] = os.environ) -> str:
    """The cluster that this shell's Slurm tools are told to use; empty for that of slurm.conf."""
    return next((ours[name] for name in CLUSTERS if ours.get(name)), "")


def with_defaults_of_the_shell(settings: SubmitSettings, ours: Mapping[str, str] = os.environ) -> SubmitSettings:
    """Take what DEFAULTS say where nobody has typed it; the other variables of sbatch are left out, and named."""
    if re.search(r",|^all$", cluster := chosen_cluster(ours)):
        raise UsageError(
            f"SLURM_CLUSTERS={cluster}: a run belongs to one cluster.", remedy="Name one: export SLURM_CLUSTERS=NAME."
        )
    taken, left_out = [], []
    for variable in sorted(name for name in ours if name.startswith("SBATCH_") and name not in CLUSTERS and ours[name]):
        name, value = DEFAULTS.get(variable, ""), ours[variable]
        if not name:
            left_out.append(variable)
        elif not _is_typed(name, settings):
            settings = _with(settings, name, value)
            taken.append(f"{variable}={value}")
    if taken:
        note(f"taken from the environment: {', '.join(taken)}")
    if left_out:
        note(f"not taken from the environment: {', '.join(left_out)}; give options, or --sbatch, instead")
    return settings


def _is_typed(name: str, settings: SubmitSettings) -> bool:
    return getattr(settings, name, None) is not None or name in {each.lstrip("-") for each in settings.sbatch}


def _with(settings: SubmitSettings, name: str, value: str) -> SubmitSettings:
    if hasattr(settings, name):
        return replace(settings, **{name: value})  # type: ignore[arg-type]
    return replace(settings, sbatch={**settings.sbatch, name: value})
