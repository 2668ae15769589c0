"""Every setting of `submit`, from the line that is typed to the parser of the command that a node runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from hpc_embed import cli
from hpc_embed.catalogue import find_command
from hpc_embed.cli import make_parser, settings_of
from hpc_embed.cluster.script import template
from hpc_embed.cluster.submit import submit
from hpc_embed.config import GatherSettings, RunSettings, SubmitSettings, WorkSettings
from hpc_embed.flags import flag, flags_of
from hpc_embed.run.layout import RunLayout
from tests.cluster.conftest import Fakes, planned
from tests.conftest import REPOSITORY

WORK = WorkSettings(
    devices="0,1",
    workers=3,
    token_budget=512,
    piece_seconds=0.5,
    max_tries=5,
    weights_copy="/scratch/a b's $TMPDIR",
    retry_failed=True,
    force_precision=True,
    proof=False,
)
GATHER = GatherSettings(
    dtype="float16",
    layout="shards",
    part_mebibytes=7,
    memory_mebibytes=8,
    gather_threads=2,
    wait_seconds=0.0,
    mixed_precision=True,
    report=False,
)
SUBMIT = SubmitSettings(
    partition="gpu",
    account="0123",
    qos="long",
    constraint="a100&nvlink",
    gres="gpu:a100:1",
    gpus=0,
    cpus_per_task=8,
    memory_gibibytes=32,
    time_minutes=30,
    array_parallelism=2,
    shards_per_task=3,
    signal_seconds=120,
    job_name="my 'own' job",
    sbatch={"mail-user": "anna@lab", "exclusive": "", "nice": "5"},
    setup=("module load cuda", "echo 'a b'; true"),
    image="/images/our.sif",
    bind=("/data:/data", "/a b"),
    gather=False,
    gather_partition="cpu",
    gather_memory_gibibytes=3,
    take_over=True,
    dry_run=True,
    print_script=True,
)


@pytest.fixture
def told(fakes: Fakes, tmp_path: Path) -> Callable[[str], list[str]]:
    """The words that a script gives to srun, when bash runs it as Slurm would."""
    said = tmp_path / "said"
    fakes.does("srun", f"printf '%s\\0' \"$@\" >{said}")

    def run(script: str, *arguments: str, **variables: str) -> list[str]:
        (tmp_path / "job.sh").write_text(script)
        ids = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_ON_NODE": "2"}
        environment = {"PATH": os.environ["PATH"], **ids, **variables}
        subprocess.run(["bash", str(tmp_path / "job.sh"), *arguments], env=environment, cwd=tmp_path, check=True)
        return said.read_text().split("\0")[:-1]

    return run


def parsed(words: list[str], name: str) -> list[object]:
    """The settings of the command `name`, as its own parser reads the words behind it."""
    command = find_command(name)
    return settings_of(command, make_parser(command).parse_line(words[words.index(name) + 1 :]))


@pytest.mark.parametrize("settings", [WORK, GATHER, SUBMIT], ids=lambda settings: type(settings).__name__)
def test_no_setting_is_left_out_here(settings: object) -> None:
    defaults = type(settings)()
    same = [each.name for each in fields(settings) if getattr(settings, each.name) == getattr(defaults, each.name)]  # type: ignore[arg-type]
    assert not same, "give them a value that is no default"


@pytest.mark.parametrize("settings", [WORK, GATHER, SUBMIT], ids=lambda settings: type(settings).__name__)
def test_each_setting_alone_comes_out_as_it_went_in(settings: object) -> None:
    command = find_command("submit")
    for name, value in vars(settings).items():
        namespace = make_parser(command).parse_line([flag(name, value)])
        came = next(each for each in settings_of(command, namespace) if type(each) is type(settings))
        assert came == type(settings)(**{name: value})


def test_a_task_gets_the_settings_that_were_submitted(
    fakes: Fakes, layout: RunLayout, told: Callable[..., list[str]]
) -> None:
    submit(planned(1, 1), layout, SubmitSettings(), WORK, GATHER)
    array, gather = fakes.scripts()
    words = told(array)
    where, _, work, _ = parsed(words, "run-task")
    assert where == RunSettings(run_dir=str(layout.root))
    assert work == WORK
    assert parsed(told(gather), "gather")[:2] == [RunSettings(run_dir=str(layout.root)), GATHER]


@pytest.mark.parametrize("option", ["--dry-run", "--print-script"])
def test_a_printed_script_says_what_was_typed(
    option: str, fakes: Fakes, layout: RunLayout, told: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    planned(1, 1).write(layout.plan)
    assert cli.main(["submit", "--run-dir", str(layout.root), option, *flags_of(WORK), *flags_of(GATHER)]) == 0
    words = told(capsys.readouterr().out)
    assert parsed(words, "run-task")[2] == WORK
    assert ("1-1" in words) is (option == "--print-script")


def test_the_template_of_the_repository_passes_settings_on(told: Callable[..., list[str]]) -> None:
    without_blanks = WorkSettings(**{**vars(WORK), "weights_copy": "/scratch"})
    words = told(
        template(), "embed-run", "2", HPC_EMBED="hpc-embed", HPC_EMBED_OPTIONS=" ".join(flags_of(without_blanks))
    )
    where, task, work, _ = parsed(words, "run-task")
    assert (where, getattr(task, "shards", ""), work) == (RunSettings(), "2-3", without_blanks)


def test_the_template_in_the_repository_is_the_one_that_is_written() -> None:
    assert (REPOSITORY / "slurm/array.sbatch").read_text() == template(), "run `make docs`"
