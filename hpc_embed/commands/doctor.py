"""`hpc-embed doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hpc_embed import __version__
from hpc_embed.commands.printing import print_json, print_table
from hpc_embed.config import OutputSettings

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


class Finding(NamedTuple):
    """One line of the doctor's."""

    what: str
    is_well: bool
    detail: str


def run(output: OutputSettings) -> int:
    """Print what was found; the exit code is 0, since nothing here stops every kind of run."""
    findings = [
        _python(),
        *map(_package, PACKAGES),
        *_devices(),
        _cores(),
        *map(_program, ("sbatch", "sacct", "apptainer")),
        _cache(),
    ]
    if output.json:
        print_json([finding._asdict() for finding in findings])
    else:
        rows = [("ok" if f.is_well else "missing", f.what, f.detail) for f in findings]
        print_table(("", "what", "detail"), rows)
    return 0


def _python() -> Finding:
    return Finding("hpc-embed", True, f"{__version__}, Python {platform.python_version()} at {sys.executable}")


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
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if probe.returncode:
        return [Finding("devices", False, (probe.stderr.strip().splitlines() or ["the probe failed"])[-1])]
    return [Finding(name, is_well, detail) for name, is_well, detail in json.loads(probe.stdout)]


def _cores() -> Finding:
    gibibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return Finding("machine", True, f"{len(os.sched_getaffinity(0))} cores for us, {gibibytes:.0f} GiB of memory")


def _program(name: str) -> Finding:
    path = shutil.which(name)
    purpose = "to run from an image" if name == "apptainer" else "to submit; not needed for hpc-embed local"
    return Finding(name, path is not None, path or f"not on PATH; needed {purpose}")


def _cache() -> Finding:
    from huggingface_hub import constants

    offline = ", offline" if constants.HF_HUB_OFFLINE else ""
    return Finding("hub cache", Path(constants.HF_HUB_CACHE).is_dir(), f"{constants.HF_HUB_CACHE}{offline}")
