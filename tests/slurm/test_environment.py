"""What people's shells are set up with, and jobs that submit jobs: on a real Slurm, by an ordinary user."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.slurm.conftest import ANNA, PYTHONPATH, Cluster, a_cluster, as_user, own, running_as, wait_for
from tests.slurm.runs import ON_CPU, logs, wait_for_dataset
from tests.slurm.test_sites import LATER, array_of, front, gathers_of

pytestmark = pytest.mark.slurm
OF_SBATCH = {
    "SBATCH_ARRAY_INX": "0-0",
    "SBATCH_PARTITION": "high",
    "SBATCH_TIMELIMIT": "7",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_JOB_NAME": "x",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_ERROR": "/dev/null",
    "SBATCH_INPUT": "/nowhere",
    "SBATCH_OPEN_MODE": "truncate",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_SIGNAL": "TERM@1",
    "SBATCH_GRES": "gpu:2",
    "SBATCH_GPUS_PER_TASK": "2",
    "SBATCH_CPUS_PER_GPU": "3",
    "SBATCH_MEM_PER_CPU": "77",
    "SBATCH_EXCLUSIVE": "1",
    "SBATCH_OVERCOMMIT": "1",
    "SBATCH_THREADS_PER_CORE": "2",
    "SBATCH_DELAY_BOOT": "5",
}
OF_A_JOB = {
    "SLURM_JOB_ID": "4294967",
    "SLURM_JOBID": "4294967",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_CPUS_PER_TASK": "64",
    "SLURM_MEM_PER_CPU": "77",
    "SLURM_MEM_PER_NODE": "78",
    "SLURM_MEM_PER_GPU": "79",
    "SLURM_GPUS": "9",
    "SLURM_GPUS_PER_TASK": "2",
    "SLURM_CPUS_PER_GPU": "3",
    "SLURM_TRES_PER_TASK": "cpu:5",
    "SLURM_JOB_NODELIST": "node9",
    "SLURM_NNODES": "3",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_CPU_BIND": "map_cpu:99",
    "SLURM_DISTRIBUTION": "arbitrary",
    "SLURM_HINT": "nomultithread",
    "SLURM_THREADS_PER_CORE": "2",
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_RESTART_COUNT": "9",
    "SLURM_OVERCOMMIT": "1",
    "SLURM_WORKING_DIR": "/nowhere",
    "SLURM_UMASK": "0777",
    "CUDA_VISIBLE_DEVICES": "7",
}
OF_SQUEUE = {
    "SQUEUE_PARTITION": "high",
    "SQUEUE_USERS": "root",
    "SQUEUE_ACCOUNT": "none",
    "SQUEUE_QOS": "none",
    "SQUEUE_NAMES": "x",
    "SQUEUE_LICENSES": "x",
    "SQUEUE_STATES": "suspended",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_FORMAT2": "jobid",
    "SQUEUE_SORT": "x",
    "SQUEUE_ARRAY": "0",
    "SQUEUE_CLUSTERS": "elsewhere",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_EXIT_ERROR": "0",
    "SCANCEL_INTERACTIVE": "1",
    "SCANCEL_PARTITION": "high",
    "SCANCEL_NAME": "x",
    "SACCT_FORMAT": "jobid",
    "SINFO_PARTITION": "none",
    "SINFO_FORMAT": "%i",
    "SCONTROL_ALL": "0",
}
ALL = {**OF_SBATCH, **OF_A_JOB, **OF_SQUEUE}
ONE_BY_ONE = [pytest.param({name: value}, id=name, marks=pytest.mark.matrix) for name, value in ALL.items()]
TOGETHER = [
    pytest.param(OF_SBATCH, id="of sbatch"),
    pytest.param(OF_A_JOB, id="of a job"),
    pytest.param(OF_SQUEUE, id="of squeue"),
]


def facts_of(cluster: Cluster, job: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+(?:/\w+)?)=(\S*)", cluster.ask("scontrol", "show", "job", job)))


@pytest.mark.parametrize("variables", [*TOGETHER, *ONE_BY_ONE])
def test_what_is_set_in_a_shell_changes_no_job_and_hides_none(
    variables: dict[str, str], run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 3)
    submit = ("submit", *ON_CPU, *LATER, "--time-minutes", 11, "--cpus-per-task", 2)
    assert "3 shards submitted" in run(*submit, env=variables).stdout
    array, gather = array_of(tmp_path / "embed-run"), gathers_of(tmp_path / "embed-run")[0]
    assert "3 queued" in run("status", env=variables).stdout
    assert "0 shards submitted; 3 queued" in run(*submit, env=variables).stdout, "nothing twice"
    facts = facts_of(cluster, array)
    assert facts["ArrayTaskId"] == "0-2"
    expected = {"JobName": "hpc-embed", "Partition": "gpu", "TimeLimit": "00:11:00", "Requeue": "1", "NumTasks": "1"}
    expected |= {"NumNodes": "1-1", "CPUs/Task": "2", "MinMemoryNode": "0", "NumCPUs": "2"}
    assert {name: facts[name] for name in expected} == expected
    assert "/logs/" in facts["StdOut"]
    assert "TresPerNode" not in facts
    assert "TresPerTask" not in facts
    assert facts_of(cluster, gather)["JobName"] == "hpc-embed-gather"
    cluster.ask("scancel", array, gather)
    wait_for(lambda: not cluster.queue(), 30)
    wait_for(lambda: "was cancelled" in run("status", env=variables).stdout, 20)


def test_with_all_of_it_a_run_is_whole_and_a_task_is_requeued(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    """Also where a set-up line sets it: `module load slurm` does."""
    run("plan", globins, "--num-shards", 2)
    told = {
        **OF_SQUEUE,
        **{name: value for name, value in OF_A_JOB.items() if not re.search("JOB|ARRAY|RESTART", name)},
    }
    exports = "export " + " ".join(f"{name}={value}" for name, value in told.items())
    # the first start is killed as Python is before its handlers stand: whether to requeue is asked of squeue
    once = f'if mkdir {tmp_path}/first 2>/dev/null; then srun() {{ command srun bash -c "kill -USR2 \\$\\$"; }}; fi'
    run("submit", *ON_CPU, "--memory-gibibytes", 1, "--setup", json.dumps([exports, once]), env=ALL)
    wait_for_dataset(cluster, tmp_path / "embed-run")
    text = logs(tmp_path / "embed-run")
    assert sorted(re.findall(r"task \d+_(\d), start (\d)", text)) in (
        [("0", "1"), ("1", "2")],
        [("0", "2"), ("1", "1")],
    )
    assert not re.search("requested than permitted|exclusive|Unable to create step", text)
    assert not re.search(r"CUDA_VISIBLE_DEVICES=\d", text), "those of another job"


def test_a_sites_defaults_hold_where_nothing_is_typed_and_are_told(run: Run, cluster: Cluster, globins: Path) -> None:
    run("plan", globins)
    shell = {"SBATCH_PARTITION": "high", "SBATCH_ARRAY_INX": "5"}
    done = run("submit", *LATER, "--no-gather", env=shell)
    assert "taken from the environment: SBATCH_PARTITION=high\n" in done.stderr
    assert "not taken from the environment: SBATCH_ARRAY_INX; " in done.stderr
    assert cluster.ask("squeue", "--noheader", "--format=%P %K").split() == ["high", "0"]


def test_the_cluster_that_is_chosen_in_the_shell_is_the_one(run: Run, cluster: Cluster, globins: Path) -> None:
    run("plan", globins)
    assert "1 shards submitted" in run("submit", *ON_CPU, *LATER, env={"SLURM_CLUSTERS": "hpcembed"}).stdout
    assert "1 queued" in run("status", env={"SLURM_CLUSTERS": "hpcembed"}).stdout
    assert "1 queued" in run("status", env={"SBATCH_CLUSTERS": "hpcembed"}).stdout
    assert "Slurm was not asked" in run("status", env={"SBATCH_CLUSTERS": "elsewhere"}).stdout
    assert "a run belongs to one cluster" in run("submit", *ON_CPU, env={"SLURM_CLUSTERS": "a,b"}, code=2).stderr


# ---- jobs that submit jobs


@pytest.mark.parametrize("way", ["submit", "printed"])
def test_a_job_that_is_submitted_from_a_job_is_like_any_other(
    way: str, run: Run, cluster: Cluster, globins: Path, tmp_path: Path, python_for_users: str
) -> None:
    run("plan", globins, "--num-shards", 2)
    program = f"{python_for_users} -m hpc_embed"
    options = "--partition gpu --devices cpu --workers 1 --cpus-per-task 1 --memory-gibibytes 1 --no-gather"
    line = f"{program} submit {options}"
    if way == "printed":
        line = f"{line} --print-script >{tmp_path}/job.sh; sbatch {tmp_path}/job.sh"
    own(tmp_path)
    outer = ["--ntasks=4", "--cpus-per-task=2", "--mem-per-cpu=50", "--gpus-per-task=1", "--threads-per-core=1"]
    words = ["sbatch", "--nodes=2", f"--chdir={tmp_path}", "--job-name=outer", "--output=outer.log", *outer]
    command = as_user(
        ANNA, [*words, f"--wrap={line}"], {**cluster.env, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    )
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    wait_for(lambda: (tmp_path / "outer.log").exists() and not cluster.queue(), 60)
    assert "2 done" in run("status").stdout, (tmp_path / "outer.log").read_text()
    logs_of_tasks = [
        path.read_text() for path in tmp_path.glob("embed-run/logs/**/*.*") if path.suffix in (".out", ".log")
    ]
    assert [text.count(", start 1, ") for text in logs_of_tasks] == [1, 1], "no twins"
    assert "CUDA_VISIBLE_DEVICES=," in logs_of_tasks[0]
    assert not re.search("error|conflict|requested than permitted", "".join(logs_of_tasks))


# ---- --export=NONE


@pytest.mark.parametrize(
    "way", ["variable", "line", *(pytest.param(way, marks=pytest.mark.matrix) for way in ("option", "plain"))]
)
def test_a_tasks_own_variables_and_its_word_travel_where_a_site_exports_nothing(
    way: str, run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 1)
    later_start = f'export PYTHONPATH={PYTHONPATH}; [ -n "$SLURM_RESTART_COUNT" ] || export HPC_EMBED_STOP_AT=0'
    options = ["submit", *ON_CPU, "--setup", json.dumps([later_start]), "--max-tries", 2]
    if way == "option":
        options += ["--sbatch", '{"export": "NONE"}']
    if way in ("variable", "option"):
        run(*options, env={"SBATCH_EXPORT": "NONE"} if way == "variable" else {})
    else:
        script = run(*options, "--print-script").stdout
        (tmp_path / "job.sh").write_text(script.replace("#SBATCH", "#SBATCH --export=NONE\n#SBATCH", way == "line"))
        own(tmp_path)
        words = ["sbatch", *(["--export=NONE"] if way == "plain" else []), str(tmp_path / "job.sh")]
        subprocess.run(as_user(ANNA, words, cluster.env), cwd=tmp_path, check=True, capture_output=True)
    wait_for(lambda: not cluster.queue(), 60)
    text = "".join(
        path.read_text() for path in tmp_path.glob("embed-run/logs/**/*.*") if path.suffix in (".out", ".log")
    )
    assert "the time for this start was over before it began" in text, "what the script says reaches the task"
    assert ", start 2, " in text
    assert "1 done" in run("status").stdout
    assert not list(tmp_path.glob("embed-run/logs/**/*.word")), "the word was read"


# ---- sizes of a task


@pytest.mark.parametrize(
    ("options", "num_gpus"),
    [
        pytest.param({"gpus-per-task": "2"}, 2, marks=pytest.mark.matrix),
        ({"gpus-per-task": "1", "cpus-per-gpu": "3"}, 1),
        pytest.param({"gpus": "1"}, 1, marks=pytest.mark.matrix),
    ],
)
def test_gpus_can_be_asked_for_by_the_task_and_cores_by_the_gpu(
    options: dict[str, str], num_gpus: int, run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 1)
    run("submit", *ON_CPU, "--gpus", 1, "--no-gather", "--sbatch", json.dumps(options), "--setup", '["nproc"]')
    wait_for(lambda: not cluster.queue(), 60)
    text = logs(tmp_path / "embed-run")
    devices = re.findall(r"CUDA_VISIBLE_DEVICES=([\d,]+), 1 shards", text)
    assert [len(found.split(",")) for found in devices] == [num_gpus], text
    job = array_of(tmp_path / "embed-run")
    facts = facts_of(cluster, job)
    assert facts["NumCPUs"] == ("3" if "cpus-per-gpu" in options else "4")
    assert "1 done" in run("status").stdout


# ---- answers of sbatch, numbers of others


@pytest.mark.parametrize(
    "answer",
    [
        'echo "price per job 3 EUR"; echo 3; $real "$@"',
        *(pytest.param(way, marks=pytest.mark.matrix) for way in ('$real "$@"; echo "bye"', '$real "${@:2}"')),
    ],
)
def test_an_sbatch_that_prints_its_own_news_is_understood(
    answer: str, run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2)
    run("submit", *ON_CPU, *LATER, env=front(tmp_path, "sbatch", answer))
    queued = set(cluster.ask("squeue", "--noheader", "--format=%F").split())
    assert {array_of(tmp_path / "embed-run"), *gathers_of(tmp_path / "embed-run")} == queued
    assert "2 queued" in run("status").stdout


def test_a_strangers_array_that_has_our_number_for_one_element_is_passed_over(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 1)
    run("submit", *ON_CPU, *LATER, "--no-gather")
    cluster.ask("scancel", array_of(tmp_path / "embed-run"))
    cluster.ask("sbatch", "--parsable", "--output=/dev/null", "--array=0-1", "--wrap=sleep 60")
    wait_for(lambda: len(cluster.running()) == 2, 30)
    array, own_number = next(
        line.split()
        for line in cluster.ask("squeue", "-hr", "--format=%F %A").splitlines()
        if len(set(line.split())) == 2
    )
    path = next(tmp_path.glob("embed-run/submissions/*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": own_number}))
    assert array in cluster.ask("squeue", "-h", f"--jobs={own_number}", "--format=%F"), "so Slurm answers"
    assert "1 missing" in run("status").stdout
    assert "1 shards submitted" in run("submit", *ON_CPU, *LATER).stdout


# ---- limits, and folders that nodes do not see


def test_a_limit_of_tasks_holds_over_all_arrays_of_a_run(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    cluster.configure("MaxArraySize=3")
    run("plan", globins, "--num-shards", 7)
    run("submit", *ON_CPU, "--array-parallelism", 2, "--setup", '["sleep 2"]')
    most = 0

    def is_gathered() -> bool:
        nonlocal most
        most = max(most, len([line for line in cluster.running() if "gather" not in line]))
        return (tmp_path / "embed-run/dataset.json").exists()

    wait_for(is_gathered, 120)
    assert most == 2


@pytest.mark.matrix  # Slurm forgets jobs that have ended once a minute
def test_a_site_that_takes_no_more_jobs_is_waited_for_and_told(
    python_for_users: str, globins: Path, tmp_path: Path
) -> None:
    with a_cluster(ACCOUNTING="no", NODES="1") as cluster:
        cluster.configure("MaxJobCount=4", "MinJobAge=2")
        run = running_as(ANNA, cluster, tmp_path, python_for_users)
        run("plan", globins, "--num-shards", 2)
        hour = ("--begin=now+1hour", "--array=0-2", "--wrap=true")
        full = cluster.ask("sbatch", "--parsable", "--output=/dev/null", *hour)
        timer = threading.Timer(5, cluster.ask, ("scancel", full.strip()))
        timer.start()
        done = run("submit", *ON_CPU, *LATER, "--no-gather")
        timer.join()
        assert "2 shards submitted" in done.stdout
        assert "Slurm takes no more jobs just now; sbatch tries again for two minutes" in done.stderr


def test_a_run_folder_that_nodes_cannot_write_is_named_as_the_cause(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 1)
    run("submit", *ON_CPU, "--no-gather", "--sbatch", '{"begin": "now+3"}')
    for folder in tmp_path.glob("embed-run/logs/*"):
        folder.rename(tmp_path / "elsewhere")
    wait_for(lambda: not cluster.queue(), 60)
    wait_for(lambda: "failed (exit code" in run("status").stdout or "could not" in run("status").stdout, 30)
    assert "is the run folder on storage that nodes share?" in run("status").stdout
