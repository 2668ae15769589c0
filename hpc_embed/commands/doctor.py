"""`hpc-embed doctor`: what this machine, or this Slurm site, can do, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hpc_embed import __version__
from hpc_embed.cluster.environment import environment
from hpc_embed.cluster.rehearsal import rehearse
from hpc_embed.cluster.site import Finding, describe_site, file_system
from hpc_embed.commands.printing import print_json, print_table, table_text
from hpc_embed.config import DoctorSettings, OutputSettings, RunSettings, SubmitSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.progress import note
from hpc_embed.units import format_bytes

PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "tokenizers",
    "submitit",
    "pyarrow",
    "biopython",
    "jsonargparse",
)
PROBE = "import json; from hpc_embed.engine.device import facts; print(json.dumps(facts()))"


def run(where: RunSettings, settings: DoctorSettings, slurm: SubmitSettings, output: OutputSettings) -> int:
    """Print what was found. The exit code is 0, since nothing here stops every kind of run, but for a rehearsal's."""
    if settings.rehearse:
        name = f"rehearsal-{time.strftime('%Y%m%d-%H%M%S')}"
        steps = rehearse(Path(where.run_dir).absolute().parent / name, slurm, settings.rehearse_minutes)
        findings = list(_told(steps, output.json))
        if output.json:
            print_json([finding._asdict() for finding in findings])
        return 0 if findings[-1].is_well else EnvironmentFault.exit_code
    findings = _site(Path(where.run_dir)) if settings.cluster else _machine()
    if output.json:
        print_json([finding._asdict() for finding in findings])
    else:
        rows = [("ok" if f.is_well else "look", f.what, f.detail) for f in findings]
        print_table(("", "what", "detail"), rows)
    return 0


def _told(steps: Iterator[Finding], as_json: bool) -> Iterator[Finding]:
    """Print each step as it comes, since the queue may take its time; as news where the result is JSON."""
    stream = sys.stderr if as_json else sys.stdout
    for step in steps:
        row = ("ok" if step.is_well else "FAILED", step.what, step.detail)
        text = table_text((), [row], stream, widths=(6, 12))
        if as_json:
            note(text)
        else:
            print(text, flush=True)
        yield step


def _site(run_dir: Path) -> list[Finding]:
    try:
        return describe_site(run_dir)
    except EnvironmentFault as error:
        return [Finding("Slurm", False, str(error)), file_system(run_dir)]


def _machine() -> list[Finding]:
    return [
        _python(),
        *_pythonpath(),
        *map(_package, PACKAGES),
        *_devices(),
        _cores(),
        *map(_program, ("sbatch", "sacct", "apptainer")),
        _cache(),
    ]


def _python() -> Finding:
    return Finding("hpc-embed", True, f"{__version__}, Python {platform.python_version()} at {sys.executable}")


def _pythonpath() -> Iterator[Finding]:
    """It stands before this Python's own packages."""
    path = os.environ.get("PYTHONPATH", "")
    if path and "" in path.split(os.pathsep):
        yield Finding("PYTHONPATH", False, f"{path}: its empty entry is the working folder, whose files Python runs")
    elif path:
        yield Finding("PYTHONPATH", True, f"{path}, before the packages of this Python: are they for it?")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        needs_torch_extra = name in ("torch", "transformers", "safetensors", "tokenizers")
        return Finding(name, False, "pip install 'hpc-embed[torch]'" if needs_torch_extra else "pip install hpc-embed")


def _devices() -> list[Finding]:
    """Asked in a process of its own, so that this one stays without torch."""
    if importlib.util.find_spec("torch") is None:
        return [Finding("devices", False, "torch is needed to use a GPU; composition models need none")]
    command = [sys.executable, "-P", "-c", PROBE]
    probe = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    if probe.returncode:
        return [Finding("devices", False, (probe.stderr.strip().splitlines() or ["the probe failed"])[-1])]
    return [Finding(name, is_well, detail) for name, is_well, detail in json.loads(probe.stdout)]


def _cores() -> Finding:
    memory = format_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return Finding("machine", True, f"{len(os.sched_getaffinity(0))} cores for us, {memory} of memory")


def _program(name: str) -> Finding:
    path = shutil.which(name)
    purpose = "to run from an image" if name == "apptainer" else "to submit; not needed for hpc-embed local"
    return Finding(name, path is not None, path or f"not on PATH; needed {purpose}")


def _cache() -> Finding:
    from huggingface_hub import constants

    offline = ", offline" if constants.HF_HUB_OFFLINE else ""
    return Finding("hub cache", Path(constants.HF_HUB_CACHE).is_dir(), f"{constants.HF_HUB_CACHE}{offline}")
