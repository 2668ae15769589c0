"""What is asked of sbatch, by the scripts that it would get."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from hpc_embed.cluster.sbatch import check_options, flags_of, gather_executor, gres_of, our_command, script_text
from hpc_embed.cluster.script import plain_script
from hpc_embed.cluster.submit import dry_run_text
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from tests.cluster.conftest import Fakes, planned
from tests.conftest import REPOSITORY

CLOSING = (REPOSITORY / "hpc_embed/cluster/requeue.sh").read_text()
ESM2 = "esm2_t6_8M"
EVERYTHING = SubmitSettings(
    partition="gpu",
    account="lab",
    qos="long",
    constraint="a100|h100",
    gpus=2,
    cpus_per_task=8,
    memory_gibibytes=32,
    time_minutes=30,
    array_parallelism=2,
    signal_seconds=120,
    job_name="my job",
    sbatch={"mail_user": "anna@lab", "--exclusive": ""},
    setup=("module load cuda", "ulimit -n 4096"),
)


def options_of(script: str) -> dict[str, str]:
    """What a script asks of sbatch; empty for an option without a value."""
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script, flags=re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in lines}


def command_of(script: str) -> list[str]:
    line = next(line for line in script.splitlines() if line.startswith("srun "))
    return shlex.split(line)


def opening(folder: Path, num_tries: int, seconds: int) -> list[str]:
    return [
        "export HPC_EMBED_SETTINGS=  # the command below says all; hpc-embed.yaml may have changed since",
        f"export HPC_EMBED_MAX_TRIES={num_tries}",
        f'export HPC_EMBED_WORD={folder}/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}_${{SLURM_ARRAY_TASK_ID:-0}}.word"',
        f"export HPC_EMBED_STOP_AT=$(($(date +%s) + {seconds}))",
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"',
        "trap : TERM  # meant for the task; this script has something to do after it",
    ]


# ---- the array


def test_an_array_asks_for_little_where_nothing_is_said(fakes: Fakes, layout: RunLayout) -> None:
    script = dry_run_text(planned(1, 1, 1), layout, SubmitSettings(), WorkSettings(), 3)
    assert options_of(script) == {
        "array": "0-2%3",
        "cpus-per-task": "4",
        "job-name": "hpc-embed",
        "nodes": "1",
        "open-mode": "append",
        "output": f"{layout.logs}/TOKEN/%A_%a_0_log.out",
        "requeue": "",
        "signal": "USR2@90",
        "time": "240",
    }
    lines = opening(layout.logs / "TOKEN", 3, 240 * 60 - 90)
    assert "\n".join(["# setup", *lines, ""]) in script
    assert script.rstrip("\n").endswith(CLOSING.rstrip("\n"))
    assert command_of(script) == [
        *("srun", "--unbuffered", "--output", f"{layout.logs}/TOKEN/%A_%a_%t_log.out"),
        *(sys.executable, "-m", "hpc_embed", "run-task", "--run-dir", str(layout.root), "--submission", "TOKEN"),
    ]


def test_all_that_is_said_reaches_sbatch(fakes: Fakes, layout: RunLayout) -> None:
    work = WorkSettings(devices="0,1", max_tries=5, retry_failed=True)
    script = dry_run_text(planned(1, 1, 1, 1, model=ESM2), layout, EVERYTHING, work, 4)
    assert options_of(script) == {
        "account": "lab",
        "array": "0-3%2",
        "constraint": "a100|h100",
        "cpus-per-task": "8",
        "exclusive": "",
        "gres": "gpu:2",
        "job-name": "my job",
        "mail-user": "anna@lab",
        "mem": "32GB",
        "nodes": "1",
        "open-mode": "append",
        "output": f"{layout.logs}/TOKEN/%A_%a_0_log.out",
        "partition": "gpu",
        "qos": "long",
        "requeue": "",
        "signal": "USR2@120",
        "time": "30",
    }
    setup = [*opening(layout.logs / "TOKEN", 5, 30 * 60 - 120), "module load cuda", "ulimit -n 4096"]
    assert "\n".join(["# setup", *setup, ""]) in script
    assert command_of(script)[-3:] == ["--devices=0,1", "--max-tries=5", "--retry-failed=true"]


@pytest.mark.parametrize(
    ("num_shards", "per_task", "array"),
    [(1, 1, "0-0%1"), (0, 1, "0-0%1"), (7, 2, "0-3%4"), (8, 4, "0-1%2"), (9, 4, "0-2%3"), (2000, 1, "0-1000%1001")],
)
def test_elements_of_the_first_array(
    num_shards: int, per_task: int, array: str, fakes: Fakes, layout: RunLayout
) -> None:
    settings = SubmitSettings(shards_per_task=per_task)
    assert options_of(dry_run_text(planned(1), layout, settings, WorkSettings(), num_shards))["array"] == array


def test_an_array_without_a_limit_has_all_its_elements_at_once(fakes: Fakes, layout: RunLayout) -> None:
    fakes.says("scontrol", "MaxArraySize = 4000001\n")
    script = dry_run_text(planned(1), layout, SubmitSettings(), WorkSettings(), 300_000)
    assert options_of(script)["array"] == "0-299999%300000"


@pytest.mark.parametrize(
    ("model", "gres", "gpus", "expected"),
    [
        (ESM2, None, None, "gpu:1"),
        (ESM2, None, 0, None),
        (ESM2, None, 4, "gpu:4"),
        (ESM2, "gpu:a100:1", 4, "gpu:a100:1"),
        ("aa_composition", None, None, None),
        ("aa_composition", None, 1, "gpu:1"),
    ],
)
def test_gpus_of_a_task(model: str, gres: str | None, gpus: int | None, expected: str | None) -> None:
    assert gres_of(planned(1, model=model), SubmitSettings(gres=gres, gpus=gpus)) == expected


def test_a_run_folder_with_blanks_and_quotes_is_one_word(fakes: Fakes, tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "it's a run")
    for script in (
        dry_run_text(planned(1), layout, SubmitSettings(), WorkSettings(), 1),
        plain_script(planned(1), layout, SubmitSettings(), WorkSettings()),
    ):
        assert str(layout.root) in command_of(script)
        assert options_of(script)["output"].startswith(f"{layout.root}/logs/")
        word = next(line for line in script.splitlines() if line.startswith("export HPC_EMBED_WORD="))
        assert shlex.split(word)[1].startswith(f"HPC_EMBED_WORD={layout.root}/logs/")


@pytest.mark.parametrize("missing", ["sbatch", "srun"])
def test_without_slurm_there_is_no_submitting(
    missing: str, fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fakes.folder))
    (fakes.folder / missing).unlink()
    with pytest.raises(EnvironmentFault, match="no Slurm machine"):
        dry_run_text(planned(1), layout, SubmitSettings(), WorkSettings(), 1)


# ---- options that are refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SubmitSettings(time_minutes=1, signal_seconds=60), "not before the time limit of 1 min"),
        (SubmitSettings(time_minutes=2, signal_seconds=121), "not before the time limit of 2 min"),
        (SubmitSettings(sbatch={"time": "5"}), "--sbatch time: has a flag of its own. Use --time-minutes"),
        (SubmitSettings(sbatch={"--cpus_per_task": "5"}), "--sbatch cpus-per-task: has a flag of its own"),
        (SubmitSettings(sbatch={"nice": "5", "array": "0-3"}), "--sbatch array: is set by submit itself"),
        (SubmitSettings(sbatch={"no_requeue": ""}), "--sbatch no-requeue: is set by submit itself"),
        (SubmitSettings(sbatch={"n": "5"}), "--sbatch n: not the long name of an option"),
        (SubmitSettings(sbatch={"Nice": "5"}), "--sbatch Nice: not the long name of an option"),
        (SubmitSettings(sbatch={"nice=5 --array": "5"}), "not the long name of an option"),
        (SubmitSettings(sbatch={"comment": "a\nb"}), "--sbatch: holds a line break"),
        (SubmitSettings(setup=("true", "a\rb")), "--setup: holds a line break"),
        (SubmitSettings(bind=("a\0b",)), "--bind: holds a line break"),
        (SubmitSettings(job_name="a\nb"), "--job-name: holds a line break"),
        (SubmitSettings(gather_partition="a\nb"), "--gather-partition: holds a line break"),
    ],
)
def test_options_that_would_break_a_script_are_refused(
    settings: SubmitSettings, words: str, fakes: Fakes, layout: RunLayout
) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        check_options(layout, settings)
    with pytest.raises(UsageError):
        plain_script(planned(1), layout, settings, WorkSettings())
    with pytest.raises(UsageError):
        dry_run_text(planned(1), layout, settings, WorkSettings(), 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("per%cent", "reads % in a path as a pattern"), ("back\\slash", "as an escape"), ("a\nb", "holds a line break")],
)
def test_run_folders_that_slurm_would_read_otherwise_are_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        check_options(RunLayout(tmp_path / name), SubmitSettings())


@pytest.mark.parametrize(
    "settings",
    [
        SubmitSettings(),
        SubmitSettings(time_minutes=1, signal_seconds=59),
        SubmitSettings(sbatch={"--mail_user": "anna@lab", "nice": "5", "tmp": "20G"}),
        SubmitSettings(setup=("echo 'a b'; true",), bind=("/data:/data",)),
    ],
)
def test_other_options_are_not(settings: SubmitSettings, layout: RunLayout) -> None:
    check_options(layout, settings)


# ---- the gather job


def gather_script(settings: SubmitSettings, folder: Path, memory_mebibytes: int = 2048, *waits_for: str) -> str:
    return script_text(gather_executor(settings, folder, memory_mebibytes, waits_for), ["true"], 1)


def test_the_gather_job_is_sized_by_itself(fakes: Fakes, tmp_path: Path) -> None:
    script = gather_script(EVERYTHING, tmp_path, 2048, "7", "9")
    options = options_of(script)
    del options["array"], options["output"]
    assert options == {
        "account": "lab",
        "constraint": "a100|h100",
        "cpus-per-task": "2",
        "dependency": "afterany:7:9",
        "job-name": "my job-gather",
        "mail-user": "anna@lab",
        "mem": "3GB",
        "nodes": "1",
        "open-mode": "append",
        "partition": "gpu",
        "qos": "long",
        "requeue": "",
        "signal": "USR2@120",
        "time": "30",
    }
    assert "\n".join(["# setup", *opening(tmp_path, 3, 30 * 60 - 120), "module load cuda"]) in script


@pytest.mark.parametrize(
    ("mebibytes", "gibibytes", "memory"),
    [
        (2048, None, "3GB"),
        (2049, None, "4GB"),
        (512, None, "2GB"),
        (1, None, "2GB"),
        (1025, None, "3GB"),
        (2048, 7, "7GB"),
    ],
)
def test_memory_of_the_gather_job(
    mebibytes: int, gibibytes: int | None, memory: str, fakes: Fakes, tmp_path: Path
) -> None:
    settings = SubmitSettings(gather_memory_gibibytes=gibibytes)
    assert options_of(gather_script(settings, tmp_path, mebibytes))["mem"] == memory


@pytest.mark.parametrize(
    ("partition", "own", "expected"),
    [("gpu", "cpu", "cpu"), ("gpu", None, "gpu"), (None, "cpu", "cpu"), (None, None, None)],
)
def test_partition_of_the_gather_job(
    partition: str | None, own: str | None, expected: str | None, fakes: Fakes, tmp_path: Path
) -> None:
    settings = SubmitSettings(partition=partition, gather_partition=own)
    assert options_of(gather_script(settings, tmp_path)).get("partition") == expected


@pytest.mark.parametrize(
    ("arrays", "theirs", "dependency"),
    [
        ([], "", None),
        (["7"], "", "afterany:7"),
        (["7"], "singleton", "afterany:7,singleton"),
        ([], "afterok:5?afterok:6", "afterok:5?afterok:6"),
        (["7"], "afterok:5?afterok:6", "afterany:7"),
    ],
)
def test_what_the_gather_job_waits_for(
    arrays: list[str], theirs: str, dependency: str | None, fakes: Fakes, tmp_path: Path
) -> None:
    settings = SubmitSettings(sbatch={"dependency": theirs} if theirs else {})
    assert options_of(gather_script(settings, tmp_path, 2048, *arrays)).get("dependency") == dependency


@pytest.mark.parametrize(
    "name", ["gpus-per-task", "mem-per-cpu", "nodes", "exclusive", "tres-per-task", "threads-per-core"]
)
def test_what_sizes_a_task_is_not_for_the_gather_job(name: str, fakes: Fakes, layout: RunLayout) -> None:
    settings = SubmitSettings(sbatch={name: "7", "nice": "5"})
    task = options_of(dry_run_text(planned(1), layout, settings, WorkSettings(), 1))
    gather = options_of(gather_script(settings, layout.logs))
    assert (task[name], task["nice"]) == ("7", "5")
    assert (gather.get(name), gather["nice"]) == ("1" if name == "nodes" else None, "5")


# ---- the command


def test_settings_as_flags() -> None:
    assert flags_of(WorkSettings()) == []
    assert flags_of(WorkSettings(devices="cpu", workers=1, piece_seconds=0.5, force_precision=True)) == [
        *("--devices=cpu", "--workers=1", "--piece-seconds=0.5", "--force-precision=true"),
    ]
    assert flags_of(GatherSettings(dtype="float16", wait_seconds=0.0)) == ["--dtype=float16", "--wait-seconds=0.0"]


def with_plan(layout: RunLayout, folder: Path | None = None) -> Plan:
    plan = planned(1, folder=str(folder) if folder else "")
    plan.write(layout.plan)
    return plan


def test_a_node_calls_this_python(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    assert our_command(SubmitSettings(), layout) == [sys.executable, "-m", "hpc_embed"]


def test_an_image_sees_the_run_folder_the_weights_and_where_they_are_links_to(
    layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "our.sif").touch()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / "0f").touch()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "0f")
    with_plan(layout, tmp_path / "snapshot")
    assert our_command(SubmitSettings(image="our.sif", bind=("/data",)), layout) == [
        *("apptainer", "run", "--nv", "--bind", str(layout.root), "--bind", f"{tmp_path}/blobs"),
        *("--bind", f"{tmp_path}/snapshot", "--bind", "/data", f"{tmp_path}/our.sif"),
    ]


def test_from_within_an_image_the_nodes_run_that_image(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/this.sif")
    with_plan(layout)
    command = ["apptainer", "run", "--nv", "--bind", str(layout.root), "/images/this.sif"]
    assert our_command(SubmitSettings(), layout) == command
    script = plain_script(planned(1), layout, SubmitSettings(), WorkSettings())
    assert command_of(script)[1:8] == [*command, "run-task"]


def test_an_image_that_is_not_there_is_refused(
    layout: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/this.sif")
    with_plan(layout)
    with pytest.raises(UsageError, match="no such image"):
        our_command(SubmitSettings(image=str(tmp_path / "no.sif")), layout)


# ---- the plain script


def test_a_plain_script_from_its_first_to_its_last_line(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    settings, work = EVERYTHING, WorkSettings(devices="cpu", max_tries=5)
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name='my job'",
        "#SBATCH --array=0-3%2",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=long",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=32G",
        "#SBATCH --time=30",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={layout.logs}/%A_%a.log",
        "#SBATCH --mail-user=anna@lab",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        "",
        *opening(layout.logs, 5, 30 * 60 - 120),
        "module load cuda",
        "ulimit -n 4096",
        "first=$((SLURM_ARRAY_TASK_ID * 1))",
        "last=$((first + 0 < 3 ? first + 0 : 3))",
        f"srun {sys.executable} -m hpc_embed run-task --run-dir {layout.root} --devices=cpu --max-tries=5"
        ' --shards "$first-$last"',
    ]
    assert plain_script(planned(1, 1, 1, 1), layout, settings, work) == "\n".join(lines) + "\n" + CLOSING


@pytest.mark.parametrize(
    ("num_shards", "per_task", "largest", "array", "last"),
    [
        (4, 1, "1001", "0-3", "last=$((first + 0 < 3 ? first + 0 : 3))"),
        (5, 2, "1001", "0-2", "last=$((first + 1 < 4 ? first + 1 : 4))"),
        (5, 1, "2", "0-1", "last=$((first + 2 < 4 ? first + 2 : 4))"),
        (4, 1, "2", "0-1", "last=$((first + 1 < 3 ? first + 1 : 3))"),
        (4, 3, "2", "0-1", "last=$((first + 2 < 3 ? first + 2 : 3))"),
    ],
)
def test_shards_of_the_elements_of_a_plain_script(
    num_shards: int, per_task: int, largest: str, array: str, last: str, fakes: Fakes, layout: RunLayout
) -> None:
    fakes.says("scontrol", f"MaxArraySize = {largest}\n")
    plan = planned(*[1] * num_shards)
    script = plain_script(plan, layout, SubmitSettings(shards_per_task=per_task), WorkSettings())
    assert options_of(script)["array"] == array
    assert last in script.splitlines()


def test_a_plain_script_asks_for_nothing_that_was_not_said_and_needs_no_slurm(
    layout: RunLayout, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fakes.folder / "nowhere"))
    script = plain_script(planned(*[1] * 1002), layout, SubmitSettings(), WorkSettings())
    assert options_of(script) == {
        "job-name": "hpc-embed",
        "array": "0-500",
        "ntasks": "1",
        "cpus-per-task": "4",
        "time": "240",
        "signal": "USR2@90",
        "open-mode": "append",
        "output": f"{layout.logs}/%A_%a.log",
        "requeue": "",
    }
