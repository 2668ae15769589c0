"""What sbatch is asked for, through submitit's executor: options checked beforehand, its answer taken whole.

A task runs our own command line rather than one of submitit's pickles: nothing that somebody else could exchange in a
shared run folder is ever unpickled, and host and image need not have the same Python.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from importlib.resources import files
from pathlib import Path

import submitit

from hpc_embed.cluster.array_task import STOP_VARIABLE, WORD_VARIABLE
from hpc_embed.cluster.slurm import reason_of
from hpc_embed.config import SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.registry import find_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan

UNLIMITED = 1_000_000
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


class Refused(EnvironmentFault):
    """sbatch did not take a job, and says why."""


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


def array_executor(plan: Plan, settings: SubmitSettings, work: WorkSettings, folder: Path) -> submitit.SlurmExecutor:
    """An executor for array tasks whose script and logs lie in `folder`."""
    return _executor(
        settings,
        folder,
        work.max_tries,
        partition=settings.partition,
        job_name=settings.job_name,
        cpus_per_task=settings.cpus_per_task,
        mem=f"{settings.memory_gibibytes}GB" if settings.memory_gibibytes else None,
        gres=gres_of(plan, settings),
        array_parallelism=settings.array_parallelism or UNLIMITED,
        options=sbatch_options(settings),
    )


def gather_executor(
    settings: SubmitSettings, folder: Path, memory_mebibytes: int, waits_for: Sequence[str]
) -> submitit.SlurmExecutor:
    """An executor for the gather job, which runs once these arrays have ended, whatever became of them."""
    options = {name: value for name, value in sbatch_options(settings).items() if not name.startswith(FOR_TASKS_ONLY)}
    theirs = options.pop("dependency", "")
    ours = "afterany:" + ":".join(waits_for) if waits_for else ""
    joined = [text for text in (ours, theirs) if text]
    return _executor(
        settings,
        folder,
        WorkSettings().max_tries,
        partition=settings.gather_partition or settings.partition,
        job_name=f"{settings.job_name}-gather",
        cpus_per_task=2,
        mem=f"{settings.gather_memory_gibibytes or _gather_gibibytes(memory_mebibytes)}GB",
        # `?` joins with or, and the two kinds of joining do not mix; the arrays wait for theirs in any case
        dependency=(ours if ours and "?" in theirs else ",".join(joined)) or None,
        options=options,
    )


def _gather_gibibytes(memory_mebibytes: int) -> int:
    """Memory of the gather job: what gather may hold, and for Parquet's buffers, the index and Python."""
    return -(-memory_mebibytes // 1024) + 1


def gres_of(plan: Plan, settings: SubmitSettings) -> str | None:
    """The GPUs of one task: --gres, --gpus, or what the model needs."""
    if settings.gres:
        return settings.gres
    num_gpus = settings.gpus if settings.gpus is not None else int(find_model(plan.model.registry_name).has_weights)
    return f"gpu:{num_gpus}" if num_gpus else None


def _executor(
    settings: SubmitSettings, folder: Path, max_tries: int, options: Mapping[str, str], **more: object
) -> submitit.SlurmExecutor:
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise EnvironmentFault(
            "sbatch is not on PATH: this is no Slurm machine.",
            remedy="Submit from a login node, or use `hpc-embed local`.",
        )
    executor = submitit.SlurmExecutor(folder=folder)
    parameters: dict[str, object] = {
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time_minutes,
        "signal_delay_s": settings.signal_seconds,
        "setup": [*opening_lines(settings, folder, max_tries), *settings.setup],
        "teardown": closing_lines(),
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {"requeue": True, **{name: value or True for name, value in options.items()}},
        **more,
    }
    executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    executor.parameters["wckey"] = None  # submitit's own, which a site may not know
    return executor


def opening_lines(settings: SubmitSettings, folder: Path, max_tries: int) -> list[str]:
    """First lines of every batch script: what the task and the closing lines need to know."""
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}"
    seconds = 60 * settings.time_minutes - settings.signal_seconds
    return [
        "export HPC_EMBED_SETTINGS=  # the command below says all; hpc-embed.yaml may have changed since",
        f"export HPC_EMBED_MAX_TRIES={max_tries}",
        f'export {WORD_VARIABLE}={shlex.quote(str(folder))}/"{job}.word"',
        f"export {STOP_VARIABLE}=$(($(date +%s) + {seconds}))",
        # from 22.05 to 23.02 srun takes no notice of the job's own number of cores
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
        "trap : TERM  # meant for the task; this script has something to do after it",
    ]


def closing_lines() -> list[str]:
    """Last lines of every batch script: requeue the task where it has more to do."""
    return files("hpc_embed.cluster").joinpath("requeue.sh").read_text(encoding="utf-8").splitlines()


def hand_in(executor: submitit.SlurmExecutor, command: Sequence[str], num_elements: int | None) -> str:
    """Submit one job, or an array of so many elements; Slurm's id. Raises Refused, with sbatch's own words."""
    if num_elements is not None:
        executor.parameters["map_count"] = num_elements
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            job = executor._submit_command(shlex.join(command))
    except submitit.core.utils.FailedJobError as error:
        raise Refused(f"sbatch refused: {reason_of(str(error))}.") from error
    return str(job.job_id)


def script_text(executor: submitit.SlurmExecutor, command: Sequence[str], num_elements: int) -> str:
    """The very script that `hand_in` gives to sbatch."""
    executor.parameters["map_count"] = num_elements
    text: str = executor._make_submission_file_text(shlex.join(command), "dry-run")
    return text


def our_command(settings: SubmitSettings, layout: RunLayout) -> list[str]:
    """hpc-embed as a node calls it: this Python, or the image with all that a task must see."""
    if not settings.image and OUR_IMAGE not in os.environ:
        return [sys.executable, "-m", "hpc_embed"]
    image = Path(settings.image or os.environ[OUR_IMAGE]).absolute()
    if settings.image and not image.exists():
        raise UsageError(f"--image {settings.image}: no such image.", remedy="Give the path of hpc_embed.sif.")
    binds = [str(layout.root.resolve()), *_weight_folders(read_plan(layout.plan)), *settings.bind]
    return ["apptainer", "run", "--nv", *(word for bind in binds for word in ("--bind", bind)), str(image)]


def flags_of(settings: object) -> list[str]:
    """Settings as flags, those at their default left out."""
    default = type(settings)()
    changed = {name: value for name, value in vars(settings).items() if value != getattr(default, name)}
    texts = {name: "true" if value is True else str(value) for name, value in changed.items()}
    return [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]


def _weight_folders(plan: Plan) -> list[str]:
    """The checkpoint's folder, and those that its files are links to, as in the hub cache."""
    if not plan.model.folder:
        return []
    folder = Path(plan.model.folder)
    return sorted({str(folder), *(str(path.resolve().parent) for path in folder.iterdir())})
