"""What sbatch is asked for: options checked beforehand, one table of them for every kind of script; and its answer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_embed.cluster.environment import environment
from hpc_embed.cluster.slurm import reason_of
from hpc_embed.config import SubmitSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.progress import note
from hpc_embed.registry import find_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan

OUR_IMAGE = "APPTAINER_CONTAINER"
"""Set by Apptainer to the image that this very process runs in."""
OWN_FLAGS = {
    "partition": "--partition",
    "account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "gres": "--gres",
    "cpus-per-task": "--cpus-per-task",
    "mem": "--memory-gibibytes",
    "time": "--time-minutes",
    "job-name": "--job-name",
    "signal": "--signal-seconds",
}
OURS = {
    *("array", "output", "error", "input", "wrap", "parsable", "test-only", "wait", "ntasks", "open-mode"),
    *("requeue", "no-requeue", "clusters", "export-file"),
}
FOR_TASKS_ONLY = ("gpu", "gres", "mem", "cpus", "ntasks", "nodes", "exclusive", "tres", "cores", "sockets", "threads")
"""Beginnings of options that size a task; the gather job has a size of its own."""
ANSWER = re.compile(r"(\d+)(;[\w.-]+)?")
"""What `sbatch --parsable` prints: the job's id, and its cluster where there are several."""
QUEUE_IS_FULL = "sleeping and retrying"
"""sbatch's word where the site has as many jobs as it takes (MaxJobCount): it tries again for two minutes."""


class Refused(EnvironmentFault):
    """sbatch did not take a job, and says why."""


def refuse_without_slurm() -> None:
    """EnvironmentFault where there is nothing to submit to."""
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise EnvironmentFault(
            "sbatch is not on PATH: this is no Slurm machine.",
            remedy="Submit from a login node, or use `hpc-embed local`.",
        )


def check_options(layout: RunLayout, settings: SubmitSettings) -> None:
    """Raise UsageError for what would break a batch script or what we promise of one."""
    for character, meaning in (("%", "a pattern"), ("\\", "an escape")):
        if character in str(layout.root.resolve()):
            raise UsageError(
                f"--run-dir {layout.root.resolve()}: Slurm reads {character} in a path as {meaning}.",
                remedy="Choose another.",
            )
    if settings.signal_seconds >= 60 * settings.time_minutes:
        raise UsageError(
            f"--signal-seconds {settings.signal_seconds}: not before the time limit of {settings.time_minutes} min.",
            remedy="Give fewer seconds, or more --time-minutes.",
        )
    for name in sbatch_options(settings):
        if name in OWN_FLAGS:
            raise UsageError(f"--sbatch {name}: has a flag of its own.", remedy=f"Use {OWN_FLAGS[name]}.")
        if name in OURS:
            raise UsageError(f"--sbatch {name}: is set by submit itself.", remedy="Leave it out.")
        if not re.fullmatch(r"[a-z][a-z-]+", name):
            raise UsageError(f"--sbatch {name}: not the long name of an option.", remedy="See man sbatch.")
    texts = {"--sbatch": list(settings.sbatch.values()), "--setup": settings.setup, "--bind": settings.bind}
    named = {f"--{name.replace('_', '-')}": [str(value)] for name, value in vars(settings).items()}
    for flag, values in {**named, **texts, "--run-dir": [str(layout.root)]}.items():
        if any(re.search(r"[\n\r\0]", value) for value in values):
            raise UsageError(f"{flag}: holds a line break.", remedy="Leave it out.")


def sbatch_options(settings: SubmitSettings) -> dict[str, str]:
    """--sbatch by long names with dashes."""
    return {name.lstrip("-").replace("_", "-"): value for name, value in settings.sbatch.items()}


def task_options(
    gres: str | None, settings: SubmitSettings, num_elements: int, after: Sequence[str] = ()
) -> dict[str, str]:
    """Of an array of tasks, by long names; empty for one without a value. It waits for the jobs `after`."""
    theirs = sbatch_options(settings)
    limit = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    return _said(
        {
            **_options_of_every_job(settings),
            "array": f"0-{num_elements - 1}{limit}",
            "job-name": settings.job_name,
            "partition": settings.partition,
            "gres": None if any(_sizes_gpus(name, value) for name, value in theirs.items()) else gres,
            "cpus-per-task": None if "cpus-per-gpu" in theirs else str(settings.cpus_per_task),
            "mem": f"{settings.memory_gibibytes}G" if settings.memory_gibibytes else None,
            **theirs,
            "dependency": _dependency(after, theirs),
        }
    )


def gather_options(settings: SubmitSettings, memory_mebibytes: int, after: Sequence[str]) -> dict[str, str]:
    """Of the gather job, which runs once these arrays have ended, whatever became of them."""
    theirs = {name: value for name, value in sbatch_options(settings).items() if not name.startswith(FOR_TASKS_ONLY)}
    return _said(
        {
            **_options_of_every_job(settings),
            "job-name": f"{settings.job_name}-gather",
            "partition": settings.gather_partition or settings.partition,
            "cpus-per-task": "2",
            "mem": f"{settings.gather_memory_gibibytes or _gather_gibibytes(memory_mebibytes)}G",
            **theirs,
            "dependency": _dependency(after, theirs),
        }
    )


def _options_of_every_job(settings: SubmitSettings) -> dict[str, str | None]:
    return {
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "nodes": "1",
        "ntasks": "1",
        "time": str(settings.time_minutes),
        "signal": f"USR2@{settings.signal_seconds}",
        "requeue": "",
    }


def _said(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


def _sizes_gpus(name: str, value: str) -> bool:
    return name.startswith("gpus") or (name.startswith("tres-per-") and "gpu" in value)


def _dependency(jobs: Sequence[str], theirs: Mapping[str, str]) -> str | None:
    """`?` joins with or, and the two kinds of joining do not mix: a gather's arrays wait for theirs in any case."""
    ours = "afterany:" + ":".join(jobs) if jobs else ""
    wanted = theirs.get("dependency", "")
    joined = [text for text in (ours, wanted) if text]
    return (ours if ours and "?" in wanted else ",".join(joined)) or None


def _gather_gibibytes(memory_mebibytes: int) -> int:
    """Memory of the gather job: what gather may hold, and for Parquet's buffers, the index and Python."""
    return -(-memory_mebibytes // 1024) + 1


def gres_of(plan: Plan, settings: SubmitSettings) -> str | None:
    """The GPUs of one task: --gres, --gpus, or what the model needs."""
    if settings.gres:
        return settings.gres
    num_gpus = settings.gpus if settings.gpus is not None else int(find_model(plan.model.registry_name).has_weights)
    return f"gpu:{num_gpus}" if num_gpus else None


def hand_in(script: Path) -> str:
    """Submit a batch script; Slurm's id, empty where the answer holds none. Raises Refused, with sbatch's own words."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as answer:
        sbatch = subprocess.Popen(
            ["sbatch", "--parsable", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(),
        )
        complaints = _complaints(sbatch)
        if sbatch.wait():
            raise Refused(f"sbatch refused: {reason_of(complaints)}.")
        answer.seek(0)
        return id_in(answer.read())


def _complaints(sbatch: subprocess.Popen[str]) -> str:
    """All that it prints on standard error, until it ends; a queue that is full is told while sbatch waits."""
    assert sbatch.stderr is not None
    lines: list[str] = []
    with sbatch.stderr:
        for line in sbatch.stderr:
            if QUEUE_IS_FULL in line and not any(QUEUE_IS_FULL in before for before in lines):
                note("Slurm takes no more jobs just now; sbatch tries again for two minutes …")
            lines.append(line)
    return "".join(lines)


def id_in(answer: str) -> str:
    """The only line in the form of an id, empty where there are none or several: a site's sbatch may print its news."""
    found = [match[1] for line in answer.splitlines() if (match := ANSWER.fullmatch(line.strip()))]
    return found[0] if len(found) == 1 else ""


def our_command(settings: SubmitSettings, layout: RunLayout) -> list[str]:
    """hpc-embed as a node calls it: this Python, or the image with all that a task must see."""
    if not settings.image and OUR_IMAGE not in os.environ:
        return [sys.executable, "-P", "-m", "hpc_embed"]
    image = Path(settings.image or os.environ[OUR_IMAGE]).absolute()
    if settings.image and not image.exists():
        raise UsageError(f"--image {settings.image}: no such image.", remedy="Give the path of hpc_embed.sif.")
    binds = [str(layout.root.resolve()), *_weight_folders(read_plan(layout.plan)), *settings.bind]
    return ["apptainer", "run", "--nv", *(word for bind in binds for word in ("--bind", bind)), str(image)]


def _weight_folders(plan: Plan) -> list[str]:
    """The checkpoint's folder, and those that its files are links to, as in the hub cache."""
    if not plan.model.folder:
        return []
    folder = Path(plan.model.folder)
    return sorted({str(folder), *(str(path.resolve().parent) for path in folder.iterdir())})
