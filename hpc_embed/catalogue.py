"""The commands that there are, and the settings that each takes."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_embed.config import (
    CheckSettings,
    CompletionSettings,
    DoctorSettings,
    ExportSettings,
    GatherSettings,
    ModelSettings,
    OutputSettings,
    PlanSettings,
    ReportSettings,
    RunSettings,
    StageSettings,
    StatusSettings,
    SubmitSettings,
    TaskSettings,
    VerifySettings,
    WorkSettings,
)
from hpc_embed.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Command:
    """A command: where its `run` is, and the settings it takes, in order."""

    name: str
    help: str
    settings: tuple[type, ...]

    @property
    def module(self) -> str:
        return f"hpc_embed.commands.{self.name.replace('-', '_')}"

    @property
    def positional(self) -> str | None:
        """The setting that arguments without a flag are for."""
        names: dict[type, str] = {
            PlanSettings: "fasta",
            ExportSettings: "dataset",
            VerifySettings: "model",
            CompletionSettings: "shell",
        }
        return next((names[kind] for kind in self.settings if kind in names), None)


COMMANDS = (
    Command(
        "plan",
        "Read FASTA, make the run folder, tell what the run will cost.",
        (RunSettings, PlanSettings, OutputSettings),
    ),
    Command(
        "local",
        "Plan, embed on this machine's GPUs or CPU, gather.",
        (RunSettings, PlanSettings, WorkSettings, GatherSettings, OutputSettings),
    ),
    Command(
        "run-task",
        "Embed some shards; what an array task calls.",
        (RunSettings, TaskSettings, WorkSettings, OutputSettings),
    ),
    Command(
        "submit",
        "Hand a planned run to Slurm: an array of tasks, then a gather.",
        (RunSettings, SubmitSettings, WorkSettings, GatherSettings, OutputSettings),
    ),
    Command(
        "gather",
        "Check every output, write the dataset; --check proves it again.",
        (RunSettings, GatherSettings, CheckSettings, OutputSettings),
    ),
    Command(
        "export",
        "Write the dataset as NumPy, HDF5, safetensors, text or faiss.",
        (ExportSettings, OutputSettings),
    ),
    Command("report", "Tell in one HTML file what a run did.", (RunSettings, ReportSettings, OutputSettings)),
    Command("status", "Tell how far a run is.", (RunSettings, StatusSettings, OutputSettings)),
    Command(
        "stage-model",
        "Download and pin a model for nodes without internet.",
        (StageSettings, OutputSettings),
    ),
    Command(
        "verify",
        "Compare our vectors with those of the reference implementation.",
        (VerifySettings, OutputSettings),
    ),
    Command("models", "List the models; --explain one checkpoint.", (ModelSettings, OutputSettings)),
    Command(
        "doctor",
        "Tell what this machine or Slurm site can do, and what it lacks.",
        (RunSettings, DoctorSettings, SubmitSettings, OutputSettings),
    ),
    Command("completion", "Print a script that completes commands and options on TAB.", (CompletionSettings,)),
)


def find_command(name: str) -> Command:
    """By its name; UsageError, with the nearest, for one that is none."""
    commands = {command.name: command for command in COMMANDS}
    if (dashed := name.replace("_", "-")) in commands:
        return commands[dashed]
    hint = did_you_mean(name, commands)
    raise UsageError(f"{name}: no such command.", remedy=f"{hint}Commands: {', '.join(commands)}.")
