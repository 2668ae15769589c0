"""The devices that workers run on, found without torch."""

from __future__ import annotations

import os

from hpc_embed.cluster.places import visible_gpus
from hpc_embed.config import WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.model import Model

AUTO = "auto"
CPU = "cpu"
BYTES_PER_PARAMETER = 4
COPIES_IN_MEMORY = 2
"""The checkpoint's and the encoder's own."""
SHARE_OF_MEMORY = 0.7


def choose_devices(settings: WorkSettings, model: Model) -> list[int | str]:
    """One entry per worker process: GPU indices, or `cpu` several times.

    Raises UsageError for what is no list of GPUs, EnvironmentFault for a GPU that is not there.
    """
    named = settings.devices not in (AUTO, CPU)
    try:
        indices = [int(entry) for entry in settings.devices.split(",")] if named else []
    except ValueError as error:
        raise UsageError(
            f"--devices {settings.devices}: not a list of GPUs.", remedy="Say auto, cpu, or 0,1."
        ) from error
    if settings.devices == CPU or not model.has_weights:
        return [CPU] * _num_cpu_workers(settings, model)
    num_gpus = len(visible_gpus())
    if not named:
        return list(range(num_gpus)) or [CPU] * _num_cpu_workers(settings, model)
    if missing := [index for index in indices if not 0 <= index < num_gpus]:
        raise EnvironmentFault(
            f"--devices {settings.devices}: no GPU {missing[0]} here, {num_gpus} visible.",
            remedy="Choose among these, or --devices cpu.",
        )
    return list(indices)


def threads_per_worker(devices: list[int | str]) -> int | None:
    """Cores shared out among CPU workers; None where a GPU's are those beside it."""
    if devices[0] != CPU:
        return None
    return max(1, len(os.sched_getaffinity(0)) // len(devices))


def _num_cpu_workers(settings: WorkSettings, model: Model) -> int:
    if settings.workers:
        return int(settings.workers)
    num_cores = len(os.sched_getaffinity(0))
    if not model.num_parameters:
        return num_cores
    weights = model.num_parameters * BYTES_PER_PARAMETER * COPIES_IN_MEMORY
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(num_cores, int(SHARE_OF_MEMORY * free / weights)))
