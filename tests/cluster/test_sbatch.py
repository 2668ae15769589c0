"""What is asked of sbatch, by the scripts that it would get."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from hpc_embed.cluster.sbatch import check_options, gather_options, gres_of, id_in, our_command, task_options
from hpc_embed.cluster.script import job_script, plain_script
from hpc_embed.cluster.submit import dry_run_text, submit
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.flags import flags_of
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from tests.cluster.conftest import Fakes, planned
from tests.conftest import REPOSITORY

CLOSING = (REPOSITORY / "hpc_embed/cluster/requeue.sh").read_text()
SRUN = ["srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=$hpc_embed_cores", "--export=ALL", "--unbuffered"]
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
    """What srun runs."""
    line = next(line for line in script.splitlines() if line.startswith("srun "))
    words = shlex.split(line)
    assert words[: len(SRUN)] == SRUN
    return words[len(SRUN) :]


def first_lines(seconds: int) -> list[str]:
    return [
        "trap : TERM  # meant for the task; this script has something to do after it",
        "hpc_embed_cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}",
        f"export HPC_EMBED_STOP_AT=$(($(date +%s) + {seconds}))",
    ]


def last_lines(folder: Path, num_tries: int) -> list[str]:
    return [
        "export HPC_EMBED_SETTINGS=  # the command below says all; hpc-embed.yaml may have changed since",
        f"export HPC_EMBED_MAX_TRIES={num_tries}",
        f'export HPC_EMBED_WORD={folder}/"${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}_${{SLURM_ARRAY_TASK_ID:-0}}.word"',
        *(REPOSITORY / "hpc_embed/cluster/before_task.sh").read_text().splitlines(),
        "",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
    ]


# ---- the array


def test_an_array_asks_for_little_where_nothing_is_said(fakes: Fakes, layout: RunLayout) -> None:
    script = dry_run_text(planned(1, 1, 1), layout, SubmitSettings(), WorkSettings(), 3)
    assert options_of(script) == {
        "array": "0-2",
        "cpus-per-task": "4",
        "job-name": "hpc-embed",
        "nodes": "1",
        "ntasks": "1",
        "open-mode": "append",
        "output": f"{layout.logs}/TOKEN/%A_%a_0_log.out",
        "requeue": "",
        "signal": "USR2@90",
        "time": "240",
    }
    lines = [*first_lines(240 * 60 - 90), *last_lines(layout.logs / "TOKEN", 3)]
    assert "\n".join(["# setup", *lines, "srun"]) in script
    assert script.rstrip("\n").endswith(CLOSING.rstrip("\n"))
    assert command_of(script) == [
        *(sys.executable, "-P", "-m", "hpc_embed", "run-task", "--run-dir", str(layout.root), "--submission", "TOKEN"),
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
        "mem": "32G",
        "nodes": "1",
        "ntasks": "1",
        "open-mode": "append",
        "output": f"{layout.logs}/TOKEN/%A_%a_0_log.out",
        "partition": "gpu",
        "qos": "long",
        "requeue": "",
        "signal": "USR2@120",
        "time": "30",
    }
    setup = [*first_lines(30 * 60 - 120), "module load cuda", "ulimit -n 4096", *last_lines(layout.logs / "TOKEN", 5)]
    assert "\n".join(["# setup", *setup, "srun"]) in script
    assert command_of(script)[-3:] == ["--devices=0,1", "--max-tries=5", "--retry-failed"]


@pytest.mark.parametrize(
    ("num_shards", "per_task", "array"),
    [(1, 1, "0-0"), (0, 1, "0-0"), (7, 2, "0-3"), (8, 4, "0-1"), (9, 4, "0-2"), (2000, 1, "0-1000")],
)
def test_elements_of_the_first_array(
    num_shards: int, per_task: int, array: str, fakes: Fakes, layout: RunLayout
) -> None:
    settings = SubmitSettings(shards_per_task=per_task)
    assert options_of(dry_run_text(planned(1), layout, settings, WorkSettings(), num_shards))["array"] == array


def test_an_array_without_a_limit_has_all_its_elements_at_once(fakes: Fakes, layout: RunLayout) -> None:
    fakes.says("scontrol", "MaxArraySize = 4000001\n")
    script = dry_run_text(planned(1), layout, SubmitSettings(), WorkSettings(), 300_000)
    assert options_of(script)["array"] == "0-299999"


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
    return job_script(gather_options(settings, memory_mebibytes, waits_for), folder, settings, 3, ["true"])


def test_the_gather_job_is_sized_by_itself(fakes: Fakes, tmp_path: Path) -> None:
    script = gather_script(EVERYTHING, tmp_path, 2048, "7", "9")
    options = options_of(script)
    assert options.pop("output") == f"{tmp_path}/%j_0_log.out"
    assert options == {
        "account": "lab",
        "constraint": "a100|h100",
        "cpus-per-task": "2",
        "dependency": "afterany:7:9",
        "job-name": "my job-gather",
        "mail-user": "anna@lab",
        "mem": "3G",
        "nodes": "1",
        "ntasks": "1",
        "open-mode": "append",
        "partition": "gpu",
        "qos": "long",
        "requeue": "",
        "signal": "USR2@120",
        "time": "30",
    }
    assert "\n".join(["# setup", *first_lines(30 * 60 - 120), "module load cuda"]) in script


@pytest.mark.parametrize(
    ("mebibytes", "gibibytes", "memory"),
    [
        (2048, None, "3G"),
        (2049, None, "4G"),
        (512, None, "2G"),
        (1, None, "2G"),
        (1025, None, "3G"),
        (2048, 7, "7G"),
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


# ---- what sizes a task, and how many there are at once


@pytest.mark.parametrize("option", ["gpus", "gpus-per-task", "gpus-per-node", "gpus-per-socket"])
def test_gpus_that_are_asked_for_in_another_way_are_not_asked_for_twice(option: str) -> None:
    options = task_options("gpu:1", SubmitSettings(sbatch={option: "1"}), 1)
    assert (options[option], "gres" in options, options["ntasks"]) == ("1", False, "1")
    assert task_options("gpu:1", SubmitSettings(sbatch={"gpu-bind": "none"}), 1)["gres"] == "gpu:1"
    assert "gres" not in task_options("gpu:1", SubmitSettings(sbatch={"tres-per-task": "gres/gpu:2"}), 1)
    assert task_options("gpu:1", SubmitSettings(sbatch={"tres-per-task": "license/x"}), 1)["gres"] == "gpu:1"


def test_cores_by_the_gpu_are_instead_of_those_by_the_task() -> None:
    options = task_options("gpu:1", SubmitSettings(sbatch={"gpus-per-task": "1", "cpus-per-gpu": "6"}), 1)
    assert (options["cpus-per-gpu"], "cpus-per-task" in options) == ("6", False)


@pytest.mark.parametrize(
    ("limit", "theirs", "dependency"),
    [(0, "", None), (2, "", "afterany:7:8"), (2, "singleton", "afterany:7:8,singleton"), (0, "afterok:5", "afterok:5")],
)
def test_a_limit_of_tasks_holds_over_arrays_since_each_waits_for_the_others(
    limit: int, theirs: str, dependency: str | None, fakes: Fakes, layout: RunLayout
) -> None:
    fakes.says("scontrol", "MaxArraySize = 2\nClusterName = here\n")
    fakes.takes_jobs(first=7)
    options = {"dependency": theirs} if theirs else {}
    submit(
        planned(*[1] * 5),
        layout,
        SubmitSettings(array_parallelism=limit, sbatch=options),
        WorkSettings(),
        GatherSettings(),
    )
    arrays = [options_of(script) for script in fakes.scripts()[:3]]
    assert arrays[2].get("dependency") == dependency
    assert [each["array"] for each in arrays] == (
        [f"0-1%{limit}"] * 2 + [f"0-0%{limit}"] if limit else ["0-1", "0-1", "0-0"]
    )


# ---- sbatch's answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("804\n", "804"),
        ("804;cluster-1\n", "804"),
        ("price per job 3 EUR\n804\nhave a nice day\n", "804"),
        ("3\n804\n", ""),
        ("Submitted batch job 804\n", ""),
        ("", ""),
        ("-1\n", ""),
    ],
)
def test_an_id_is_known_by_its_form(answer: str, expected: str) -> None:
    assert id_in(answer) == expected


# ---- the command


def test_settings_as_flags() -> None:
    assert flags_of(WorkSettings()) == []
    assert flags_of(WorkSettings(devices="cpu", workers=1, piece_seconds=0.5, force_precision=True)) == [
        *("--devices=cpu", "--workers=1", "--piece-seconds=0.5", "--force-precision"),
    ]
    assert flags_of(GatherSettings(dtype="float16", wait_seconds=0.0)) == ["--dtype=float16", "--wait-seconds=0.0"]


def with_plan(layout: RunLayout, folder: Path | None = None) -> Plan:
    plan = planned(1, folder=str(folder) if folder else "")
    plan.write(layout.plan)
    return plan


def test_a_node_calls_this_python(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    assert our_command(SubmitSettings(), layout) == [sys.executable, "-P", "-m", "hpc_embed"]


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
    assert command_of(script)[:7] == [*command, "run-task"]


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
        "",
        "# Parameters",
        "#SBATCH --account=lab",
        "#SBATCH --array=0-3%2",
        "#SBATCH --constraint='a100|h100'",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --exclusive",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --job-name='my job'",
        "#SBATCH --mail-user=anna@lab",
        "#SBATCH --mem=32G",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={layout.logs}/%A_%a.log",
        "#SBATCH --partition=gpu",
        "#SBATCH --qos=long",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=30",
        "",
        "# setup",
        *first_lines(30 * 60 - 120),
        "module load cuda",
        "ulimit -n 4096",
        "first=$((SLURM_ARRAY_TASK_ID * 1))",
        "last=$((first + 0 < 3 ? first + 0 : 3))",
        *last_lines(layout.logs, 5),
        'srun --nodes=1 --ntasks=1 --cpus-per-task="$hpc_embed_cores" --export=ALL --unbuffered '
        f"{sys.executable} -P -m hpc_embed run-task --run-dir {layout.root} --devices=cpu --max-tries=5"
        ' --shards "$first-$last"',
        *("", "", "# teardown"),
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
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "4",
        "time": "240",
        "signal": "USR2@90",
        "open-mode": "append",
        "output": f"{layout.logs}/%A_%a.log",
        "requeue": "",
    }
