"""The texts of batch scripts, all of one make: those of `submit`, those that are printed, and slurm/array.sbatch.

submitit writes them down. A task runs our own command line rather than one of submitit's pickles: nothing that somebody
else could exchange in a shared run folder is ever unpickled, and host and image need not have the same Python.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import submitit

from hpc_embed.cluster.array_task import STOP_VARIABLE, WORD_VARIABLE
from hpc_embed.cluster.environment import with_defaults_of_the_shell
from hpc_embed.cluster.sbatch import check_options, gres_of, our_command, task_options
from hpc_embed.cluster.slurm import DEFAULT_MAX_ARRAY_SIZE, max_array_size
from hpc_embed.config import SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault
from hpc_embed.flags import flags_of
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

TEMPLATE_NOTES = """
# Embeds a planned run, one array element per bundle of shards, without submitit. Written by `make docs`.
#
#   sbatch --partition=gpu --array=0-63 slurm/array.sbatch embed-run [SHARDS_PER_TASK]
#
# `hpc-embed plan` tells the number of shards; --array goes from 0 to shards / SHARDS_PER_TASK - 1, rounded up.
# Elements whose shards are done end at once, so the same line again does what is missing.
# `hpc-embed submit --print-script` writes such a script with every number filled in.
# To run in an image: HPC_EMBED="apptainer run --nv --bind $PWD hpc_embed.sif" before sbatch. More settings, as
# --devices=0,1: HPC_EMBED_OPTIONS.
"""
SRUN = 'srun --nodes=1 --ntasks=1 --cpus-per-task="$hpc_embed_cores" --export=ALL --unbuffered'
"""One task that has all of the job and our variables, whatever the shell that submits is set up with."""


class Script(NamedTuple):
    """What tells one batch script from another."""

    options: Mapping[str, str]
    """Of sbatch, by long names; empty for one without a value."""
    folder: str
    """Where tasks leave their last word, as the shell spells it."""
    setup: Sequence[str]
    max_tries: int
    seconds: int | None
    """After which a start stops by itself; None where the time limit is not known."""
    command: str
    """As the shell reads it."""

    def text(self) -> str:
        """The whole of it."""
        executor = _Executor(folder="/")
        executor.update_parameters(
            setup=[*self._first_lines(), *self.setup, *self._last_lines()],
            teardown=_lines_of("requeue.sh"),
            stderr_to_stdout=True,
            use_srun=False,
            additional_parameters={name.replace("-", "_"): value or True for name, value in self.options.items()},
        )
        executor.parameters["wckey"] = None  # submitit's own, which a site may not know
        text: str = executor._make_submission_file_text(f"{SRUN} {self.command}", "")
        return text + "\n"

    def _first_lines(self) -> list[str]:
        lines = [
            "trap : TERM  # meant for the task; this script has something to do after it",
            "hpc_embed_cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}",
        ]
        if self.seconds is not None:
            lines.append(f"export {STOP_VARIABLE}=$(($(date +%s) + {self.seconds}))")
        return lines

    def _last_lines(self) -> list[str]:
        """After the lines of a user: what the task and the closing lines need to know."""
        job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}"
        return [
            "export HPC_EMBED_SETTINGS=  # the command below says all; hpc-embed.yaml may have changed since",
            f"export HPC_EMBED_MAX_TRIES={self.max_tries}",
            f'export {WORD_VARIABLE}={self.folder}/"{job}.word"',
            *_lines_of("before_task.sh"),
        ]


class _Executor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Writes scripts also where there is no Slurm, inside an image say."""

    @classmethod
    def affinity(cls) -> int:
        return 2


def _lines_of(name: str) -> list[str]:
    return files("hpc_embed.cluster").joinpath(name).read_text(encoding="utf-8").splitlines()


def job_script(
    options: Mapping[str, str], folder: Path, settings: SubmitSettings, max_tries: int, command: Sequence[str]
) -> str:
    """The script of an array or of a gather job whose logs lie in `folder`."""
    log = "%A_%a_0_log.out" if "array" in options else "%j_0_log.out"
    seconds = 60 * settings.time_minutes - settings.signal_seconds
    log_options = {"output": f"{folder}/{log}"}
    words = shlex.join(command)
    return Script(
        {**options, **log_options}, shlex.quote(str(folder)), settings.setup, max_tries, seconds, words
    ).text()


def plain_script(plan: Plan, layout: RunLayout, settings: SubmitSettings, work: WorkSettings) -> str:
    """A script whose task i embeds shards i * n to i * n + n - 1, those that are done left out by run-task."""
    settings = with_defaults_of_the_shell(settings)
    check_options(layout, settings)
    try:
        size = max_array_size()
    except EnvironmentFault:  # printed inside an image, say
        size = DEFAULT_MAX_ARRAY_SIZE
    num_shards = len(plan.shards)
    per_task = max(settings.shards_per_task, -(-num_shards // size))
    folder = layout.logs.resolve()
    arguments = ["run-task", "--run-dir", str(layout.root.resolve()), *flags_of(work)]
    return Script(
        options={
            **task_options(gres_of(plan, settings), settings, -(-num_shards // per_task)),
            "output": f"{folder}/%A_%a.log",
        },
        folder=shlex.quote(str(folder)),
        setup=[
            *settings.setup,
            f"first=$((SLURM_ARRAY_TASK_ID * {per_task}))",
            f"last=$((first + {per_task - 1} < {num_shards - 1} ? first + {per_task - 1} : {num_shards - 1}))",
        ],
        max_tries=work.max_tries,
        seconds=60 * settings.time_minutes - settings.signal_seconds,
        command=f'{shlex.join([*our_command(settings, layout), *arguments])} --shards "$first-$last"',
    ).text()


def template() -> str:
    """slurm/array.sbatch, for whoever writes scripts by hand."""
    options = task_options("gpu:1", SubmitSettings(), 1)
    del options["array"]
    text = Script(
        options={**options, "output": "slurm-%A_%a.out"},
        folder='"$run_dir/logs"',
        setup=[
            "run_dir=${1:?usage: sbatch --array=0-N slurm/array.sbatch RUN_DIR [SHARDS_PER_TASK]}",
            "per_task=${2:-1}",
            "program=${HPC_EMBED:-hpc-embed}",
            "first=$((SLURM_ARRAY_TASK_ID * per_task))",
        ],
        max_tries=WorkSettings().max_tries,
        seconds=None,
        command=(
            '$program run-task --run-dir "$run_dir" --shards "$first-$((first + per_task - 1))" ${HPC_EMBED_OPTIONS:-}'
        ),
    ).text()
    return text.replace("#!/bin/bash\n", f"#!/bin/bash{TEMPLATE_NOTES}", 1)
