"""Where each worker of a node runs: the one GPU that it sees, and the cores beside that GPU. Found without torch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from hpc_embed.cluster.kernel_cache import choose_kernel_cache

VARIABLES = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Those that narrow the GPUs of a process; on AMD's the first two count within what the last one leaves."""
ENTRY = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Names of one setting, of torch since 2.9 and before."""
EXPANDABLE = "expandable_segments:True"
"""Batches of many sizes leave gaps in memory else."""
PCI = Path("/sys/bus/pci/devices")
KFD = Path("/sys/class/kfd/kfd/topology/nodes")
"""AMD's GPUs, and the processors beside them, which have the id 0."""
SECONDS_OF_A_QUESTION = 60


class Place(NamedTuple):
    """A worker's share of a node."""

    device: int | str
    """A GPU's number among those that we see, or `cpu`."""
    variable: str = ""
    entry: str = ""
    """What the variable is set to, so that the process sees this one GPU: CUDA shows one MIG instance at most."""
    cores: frozenset[int] | None = None
    """None for all that this process has."""

    def enter(self) -> int | str:
        """Narrow this process to its share, before it imports torch; the device's name from here on."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)  # torch and OpenMP take so many threads
        if not self.variable:
            return self.device
        os.environ[self.variable] = self.entry
        choose_kernel_cache()
        if not any(name in os.environ for name in ALLOCATOR):
            os.environ.update(dict.fromkeys(ALLOCATOR, EXPANDABLE))
        return 0


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as the entries of their variable: what it lists, up to the first that is
    none, as CUDA reads it; where none is set, what nvidia-smi lists, MIG instances instead of their GPU; else AMD's."""
    return _found()[1]


def places_of(devices: Sequence[int | str]) -> list[Place]:
    """A place for each worker; the cores beside a GPU are shared out among the workers on GPUs there."""
    if all(device == "cpu" for device in devices):
        return [Place(device) for device in devices]
    variable, gpus = _found()
    if len(devices) == 1:
        return [Place(devices[0], variable, gpus[int(devices[0])])]  # all cores are its own
    buses, ours = _buses(), frozenset(os.sched_getaffinity(0))
    beside = [_cores_beside(buses.get(gpus[int(device)]), ours) for device in devices]
    return [
        Place(device, variable, gpus[int(device)], cores)
        for device, cores in zip(devices, _shares(beside), strict=True)
    ]


def _shares(beside: list[frozenset[int]]) -> list[frozenset[int] | None]:
    """Of the cores beside each GPU, those of its worker alone; None where there are fewer cores than workers."""
    shares: list[frozenset[int] | None] = []
    for number, cores in enumerate(beside):
        rank, of = beside[:number].count(cores), beside.count(cores)
        ordered = sorted(cores)
        mine = ordered[len(ordered) * rank // of : len(ordered) * (rank + 1) // of]
        shares.append(frozenset(mine) or None)
    return shares


def _found() -> tuple[str, list[str]]:
    """The variable, and its entries."""
    for variable in VARIABLES:
        if variable in os.environ:
            entries = [entry.strip() for entry in os.environ[variable].split(",")]
            return variable, list(takewhile(ENTRY.fullmatch, entries))
    if of_nvidia := _listed_by_nvidia():
        return "CUDA_VISIBLE_DEVICES", of_nvidia
    return "HIP_VISIBLE_DEVICES", [str(index) for index in range(_num_amd_gpus())]


def _listed_by_nvidia() -> list[str]:
    gpus: list[list[str]] = []
    for line in _ask("nvidia-smi", "-L").splitlines():
        if line.startswith("GPU "):
            gpus.append([])
        elif gpus and (instance := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            gpus[-1].append(instance[1])
    return [entry for index, instances in enumerate(gpus) for entry in instances or [str(index)]]


def _num_amd_gpus() -> int:
    ids = [_read(path) for path in KFD.glob("*/gpu_id")]
    return sum(each not in ("", "0") for each in ids)


def _buses() -> dict[str, str]:
    """NVIDIA's GPUs, by number and by UUID: where sysfs has them. It writes four digits where nvidia-smi has eight."""
    rows = _ask("nvidia-smi", "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader").splitlines()
    fields = [[part.strip() for part in row.split(",")] for row in rows]
    whole = [row for row in fields if len(row) == 3]
    return {name: bus.lower().removeprefix("0000") for index, uuid, bus in whole for name in (index, uuid)}


def _cores_beside(bus: str | None, ours: frozenset[int]) -> frozenset[int]:
    """Those of ours on the GPU's NUMA node; all of ours where nothing tells."""
    near = _cores(_read(PCI / bus / "local_cpulist")) if bus else frozenset()
    return near & ours or ours


def _cores(listed: str) -> frozenset[int]:
    """Of Linux's spelling, 0-3,8."""
    ranges = [part.partition("-") for part in listed.split(",") if part]
    return frozenset(core for first, _, last in ranges for core in range(int(first), int(last or first) + 1))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _ask(*command: str) -> str:
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_OF_A_QUESTION)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout
