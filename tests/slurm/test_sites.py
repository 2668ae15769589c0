"""Sites as they are: preemption of every kind, several users, tools that are slow or fail, limits, hidden jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.slurm.conftest import ANNA, BEN, PYTHONPATH, Cluster, UserRun, as_user, own, wait_for
from tests.slurm.runs import (
    ESM2,
    ON_CPU,
    Expected,
    begin,
    check_grace,
    check_whole,
    logs,
    wait_for_dataset,
    write_proteins,
)

pytestmark = pytest.mark.slurm
LATER = ("--sbatch", '{"begin": "now+1hour"}')


@pytest.fixture
def proteins(tmp_path: Path) -> Path:
    return write_proteins(tmp_path / "proteins.fasta", 60)


def front(tmp_path: Path, program: str, text: str) -> dict[str, str]:
    """An environment in which a script of ours stands in front of one of Slurm's programs; $real is the real one."""
    folder = tmp_path / "front"
    folder.mkdir(exist_ok=True)
    (folder / program).write_text(f"#!/bin/bash\nreal=/usr/bin/{program}\n{text}\n")
    (folder / program).chmod(0o755)
    return {"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"}


def submissions(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(run_dir.glob("submissions/*.json"))]


def array_of(run_dir: Path) -> str:
    return next(str(one["job"]) for one in submissions(run_dir) if one["tasks"])


def gathers_of(run_dir: Path) -> list[str]:
    return [str(one["job"]) for one in submissions(run_dir) if not one["tasks"]]


# ---- 1: preemption in the ways in which sites do it


def test_a_task_preempted_with_grace_publishes_and_is_requeued(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    check_grace(["gpu:GraceTime=20"], "stopped by SIGTERM", run, cluster, proteins, tmp_path, expected)


def test_preemption_that_cancels_at_once_is_seen_and_submitted_again(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path
) -> None:
    cluster.configure("gpu:PreemptMode=CANCEL")
    run_dir = begin(run, proteins, tmp_path)
    cluster.occupy(seconds=1)
    wait_for(lambda: not [line for line in cluster.queue() if "hpc-embed" in line and "gather" not in line], 30)
    wait_for(lambda: "was preempted and not requeued" in run("status", "--run-dir", run_dir).stdout, 30)
    status = json.loads(run("status", "--run-dir", run_dir, "--json").stdout)
    assert {shard["state"] for shard in status["shards"]} == {"failed"}
    assert "2 shards submitted" in run("submit", "--run-dir", run_dir, *ON_CPU, *LATER).stdout


def test_a_suspended_task_is_called_so_and_goes_on(
    run: Run,
    cluster: Cluster,
    proteins: Path,
    tmp_path: Path,
    expected: Expected,
) -> None:
    run_dir = begin(run, proteins, tmp_path)
    step = cluster.ask("scontrol", "show", "step", f"{array_of(run_dir)}_0.0")
    assert re.search(r"CPUs=4\b", step), "the task has all the cores of its job"
    cluster.ask("scontrol", "suspend", array_of(run_dir))
    status = json.loads(run("status", "--run-dir", run_dir, "--json").stdout)
    assert {(shard["state"], shard["reason"][:4]) for shard in status["shards"]} == {("suspended", "node")}
    assert "0 shards submitted; 2 queued" in run("submit", "--run-dir", run_dir, *ON_CPU).stdout
    cluster.ask("scontrol", "resume", array_of(run_dir))
    wait_for_dataset(cluster, run_dir)
    check_whole(proteins, run_dir, expected)


# ---- 2 and 10: several users


def test_two_users_share_a_run(run_as: UserRun, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    anna, ben, run_dir = run_as(ANNA), run_as(BEN), tmp_path / "embed-run"
    anna("plan", globins, "--num-shards", 3, umask="002")
    anna("submit", *ON_CPU, *LATER, umask="002")
    assert "3 queued" in ben("status").stdout
    assert "0 shards submitted; 3 queued" in ben("submit", *ON_CPU, umask="002").stdout
    alias = {"LOGNAME": "somebody-else", "USER": "somebody-else"}
    assert "0 shards submitted; 3 queued" in anna("submit", *ON_CPU, env=alias, umask="002").stdout
    cluster.ask("scancel", array_of(run_dir))
    cluster.ask("scancel", *gathers_of(run_dir))
    wait_for(lambda: not cluster.queue(), 30)
    assert "3 shards submitted" in ben("submit", *ON_CPU, umask="002").stdout
    wait_for_dataset(cluster, run_dir)
    assert {one["user"] for one in submissions(run_dir)} == {ANNA, BEN}
    assert "dataset: gathered" in anna("status").stdout
    for folder in (run_dir / "logs").iterdir():
        assert not folder.stat().st_mode & 0o022, "its batch scripts are for its submitter alone to write"


def test_a_user_without_rights_gets_a_sentence(
    run_as: UserRun, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    anna, ben = run_as(ANNA), run_as(BEN)
    anna("plan", globins)
    anna("submit", *ON_CPU, *LATER)
    (tmp_path / "annas").mkdir()
    for command in (("submit", *ON_CPU), ("plan", globins, "--run-dir", "annas")):
        error = ben(*command, code=5).stderr
        assert re.fullmatch(rf"hpc-embed: .*: permission denied \(.* belongs to {ANNA}\)\. docs/slurm\.md .*\n", error)
    (tmp_path / "embed-run/plan.json").chmod(0o600)
    assert "plan.json: permission denied" in ben("status", code=5).stderr


def test_a_user_without_a_name_can_submit(
    cluster: Cluster, globins: Path, tmp_path: Path, python_for_users: str
) -> None:
    tmp_path.chmod(0o777)
    words = {"PATH": "/usr/bin:/bin", "PYTHONPATH": PYTHONPATH, "HOME": "/", **cluster.env}
    for arguments in (["plan", str(globins)], ["status"]):
        command = [python_for_users, "-m", "hpc_embed", *arguments]
        nameless = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "env", "-i"]
        nameless += [f"{key}={value}" for key, value in words.items()]
        done = subprocess.run([*nameless, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, "bug" in done.stderr) == (0, False), done.stderr
    submit = [*nameless, python_for_users, "-m", "hpc_embed", "submit", *map(str, ON_CPU)]
    done = subprocess.run(submit, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 5), done.stderr  # Slurm itself may refuse a uid that it does not know
    assert "bug" not in done.stderr


def test_where_other_users_jobs_are_hidden_submit_asks_first(
    run_as: UserRun, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    cluster.configure("PrivateData=jobs")
    anna, ben, run_dir = run_as(ANNA), run_as(BEN), tmp_path / "embed-run"
    anna("plan", globins, "--num-shards", 2, umask="002")
    anna("submit", *ON_CPU, *LATER, umask="002")
    status = ben("status").stdout
    assert f"job {array_of(run_dir)} of {ANNA}, which this site hides from you" in status
    assert "failed" not in status
    error = ben("submit", *ON_CPU, code=4, umask="002").stderr
    assert f"{ANNA} submitted these shards as job {array_of(run_dir)}" in error
    assert "--take-over" in error
    assert "2 shards submitted" in ben("submit", *ON_CPU, *LATER, "--take-over", umask="002").stdout


def test_damaged_submission_files_stop_nobody(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--num-shards", 2)
    run("submit", *ON_CPU, *LATER)
    run_dir = tmp_path / "embed-run"
    path = next(path for path in run_dir.glob("submissions/*.json") if json.loads(path.read_text())["tasks"])
    job = array_of(run_dir)
    path.write_text("")
    assert "not a whole submission" in run("status").stdout
    error = run("submit", *ON_CPU, code=4).stderr
    assert f"Its job {job} is still in the queue" in error
    cluster.ask("scancel", job)
    wait_for(lambda: not [line for line in cluster.queue() if "gather" not in line], 30)
    done = run("submit", *ON_CPU, *LATER)
    assert "2 shards submitted" in done.stdout
    assert "it is passed over" in done.stderr


# ---- 3 and 9: slow answers, ^C


def test_tasks_that_start_before_sbatch_has_answered(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    slow = front(tmp_path, "sbatch", 'said=$($real "$@"); code=$?; sleep 4; echo "$said"; exit $code')
    run("plan", globins, "--num-shards", 2)
    run("submit", *ON_CPU, env=slow)
    wait_for_dataset(cluster, tmp_path / "embed-run")
    assert "2 shards: 2 done" in run("status").stdout


def test_ctrl_c_during_sbatch_leaves_nothing_unknown(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path, python_for_users: str
) -> None:
    run("plan", globins, "--num-shards", 2)
    slow = front(tmp_path, "sbatch", 'said=$($real "$@"); code=$?; sleep 8; echo "$said"; exit $code')
    own(tmp_path)
    words = [python_for_users, "-m", "hpc_embed", "submit", *map(str, [*ON_CPU, *LATER])]
    environment = {**cluster.env, **slow, "PYTHONPATH": PYTHONPATH}
    command = as_user(ANNA, words, environment)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: cluster.queue(), 30)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert f"Queued already: {array_of(tmp_path / 'embed-run')}." in error
    assert "0 shards submitted; 2 queued" in run("submit", *ON_CPU).stdout


def test_an_array_whose_submit_was_killed_is_found_again(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2)
    killed = front(tmp_path, "sbatch", '$real "$@" >/dev/null; kill -KILL $PPID')
    run("submit", *ON_CPU, *LATER, env=killed, code=137)
    assert [one["job"] for one in submissions(tmp_path / "embed-run")] == [""]
    assert "2 queued" in run("status").stdout
    done = run("submit", *ON_CPU).stdout
    assert "0 shards submitted; 2 queued" in done
    assert "gather job" in done


def test_a_queue_that_does_not_answer(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--num-shards", 2)
    run("submit", *ON_CPU, *LATER)
    failing = front(
        tmp_path, "squeue", "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"
    )
    assert (
        "Slurm was not asked: squeue failed: slurm_load_jobs error: Socket timed out"
        in run("status", env=failing).stdout
    )
    error = run("submit", *ON_CPU, env=failing, code=5).stderr
    assert error.count("\n") == 1
    assert len(cluster.queue()) == 3, "nothing twice"


# ---- 5: signals before anybody listens


def test_a_signal_while_python_starts_costs_one_start(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 1)
    # a task that is killed by the signal in its first start, as Python is before its handlers stand
    marker = tmp_path / "first"
    once = f'if [ ! -e {marker} ]; then touch {marker}; srun() {{ command srun bash -c "kill -USR2 \\$\\$"; }}; fi'
    run("submit", *ON_CPU, "--setup", json.dumps([once]))
    wait_for_dataset(cluster, tmp_path / "embed-run")
    assert "start 2" in logs(tmp_path / "embed-run")


def test_starts_that_finish_nothing_are_bounded(run: Run, cluster: Cluster, globins: Path, tmp_path: Path) -> None:
    run("plan", globins, "--num-shards", 1)
    always = 'srun() { command srun bash -c "kill -USR2 \\$\\$"; }'
    run("submit", *ON_CPU, "--setup", json.dumps([always]), "--max-tries", 2, "--no-gather")
    wait_for(lambda: not cluster.queue(), 60)
    assert "2 starts finished no window: not requeued" in logs(tmp_path / "embed-run")
    assert not list(tmp_path.glob("embed-run/logs/*/*.idle"))


def test_a_set_up_that_outlasts_the_signal_ends_in_time(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, *ESM2, "--num-shards", 1)
    run(
        *("submit", *ON_CPU, "--time-minutes", 1, "--signal-seconds", 58, "--max-tries", 2, "--no-gather"),
        *("--setup", '["sleep 5"]'),
    )
    wait_for(lambda: not cluster.queue(), 90)
    text = logs(tmp_path / "embed-run")
    assert text.count("the time for this start was over before it began") == 2
    assert "2 starts finished no window: not requeued" in text
    assert "Traceback" not in text


def test_a_signal_not_before_the_limit_is_refused(run: Run, cluster: Cluster, globins: Path) -> None:
    run("plan", globins)
    error = run("submit", *ON_CPU, "--time-minutes", 1, code=2).stderr
    assert "--signal-seconds 90: not before the time limit of 1 min" in error


# ---- 7: the gather job


def test_a_gather_job_refused_is_told_and_made_up_for(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2)
    error = run("submit", *ON_CPU, *LATER, "--gather-partition", "nowhere", code=5).stderr
    assert error.count("\n") == 1
    job = array_of(tmp_path / "embed-run")
    assert f"the gather job was not taken, while arrays {job} are queued and will run: sbatch refused: " in error
    assert "invalid partition specified: nowhere" in error
    first = run("submit", *ON_CPU).stdout
    assert "0 shards submitted; 2 queued" in first
    gather = gathers_of(tmp_path / "embed-run")[0]
    assert f"gather job {gather}" in first
    assert "gather job" not in run("submit", *ON_CPU).stdout, "one is alive"
    cluster.ask("scancel", gather)
    assert "gather job" in run("submit", *ON_CPU).stdout


def test_the_gather_job_has_memory_of_its_own_and_none_of_the_tasks_options(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins)
    options = '{"begin": "now+1hour", "exclusive": "", "mem-per-cpu": "7", "dependency": "singleton"}'
    run("submit", *ON_CPU, "--gpus", 1, "--sbatch", options, "--gather-memory-gibibytes", 3, "--memory-mebibytes", 768)
    array, gather = array_of(tmp_path / "embed-run"), gathers_of(tmp_path / "embed-run")[0]
    show = dict(re.findall(r"(\w+)=(\S+)", cluster.ask("scontrol", "show", "job", gather)))
    assert (show["MinMemoryNode"], show["OverSubscribe"]) == ("3G", "OK")
    assert show["Dependency"].startswith(f"afterany:{array}_")
    script = cluster.ask("scontrol", "write", "batch_script", gather, "-")
    assert f"--dependency=afterany:{array},singleton\n" in script
    assert "gres" not in show.get("TresPerNode", "")
    assert "--memory-mebibytes=768" in script


# ---- 8 and 11: options and quoting


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--sbatch", '{"array": "0-3"}'), "--sbatch array: is set by submit itself"),
        (("--sbatch", '{"output": "x"}'), "--sbatch output: is set by submit itself"),
        (("--sbatch", '{"error": "x"}'), "--sbatch error: is set by submit itself"),
        (("--sbatch", '{"time": "5"}'), "--sbatch time: has a flag of its own. Use --time-minutes"),
        (("--job-name", "a\nb"), "--job-name: holds a line break"),
        (("--sbatch", '{"mail-user": "a\\nb"}'), "--sbatch: holds a line break"),
    ],
)
def test_options_that_would_break_the_script_are_refused(
    options: tuple[str, str], reason: str, run: Run, cluster: Cluster, globins: Path
) -> None:
    run("plan", globins)
    assert reason in run("submit", *ON_CPU, *options, code=2).stderr
    assert reason in run("submit", *ON_CPU, *options, "--print-script", code=2).stderr
    assert cluster.queue() == []


@pytest.mark.parametrize("name", ["back\\slash", "per%cent"])
def test_folders_whose_names_slurm_reads_as_patterns_are_refused(
    name: str, run: Run, cluster: Cluster, globins: Path
) -> None:
    run("plan", globins, "--run-dir", name)
    assert "Slurm reads" in run("submit", *ON_CPU, "--run-dir", name, code=2).stderr


def test_names_with_blanks_and_quotes_reach_slurm_whole(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2, "--run-dir", "it's a run")
    name = 'my "own" job'
    options = ("--run-dir", "it's a run", *ON_CPU, "--job-name", name)
    script = run("submit", *options, "--print-script").stdout
    (tmp_path / "job.sh").write_text(script)
    own(tmp_path)
    subprocess.run(as_user(ANNA, ["sbatch", "--hold", str(tmp_path / "job.sh")], cluster.env), cwd="/", check=True)
    run("submit", *options, *LATER)
    names = cluster.ask("squeue", "--noheader", "--format=%j").splitlines()
    assert sorted(names) == [name, name, f"{name}-gather"]


# ---- 12: smaller things


def test_sbatchs_own_reason_is_told_with_what_was_accepted(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 4)
    cluster.configure("AccountingStorageEnforce=limits", "MaxArraySize=3")
    accounts = ("sacctmgr", "--immediate")
    cluster.ask(*accounts, "add", "account", "lab", "cluster=hpcembed")
    try:
        cluster.ask(*accounts, "add", "user", ANNA, "account=lab", "cluster=hpcembed", "MaxSubmitJobs=3")
        wait_for(lambda: ANNA in cluster.ask("scontrol", "show", "assoc_mgr", "flags=assoc"), 20)
        error = run("submit", *ON_CPU, *LATER, code=5).stderr
        assert error.count("\n") == 1
        assert "AssocMaxSubmitJobLimit" in error
        assert f"Queued already: {array_of(tmp_path / 'embed-run')}." in error
        assert "--shards-per-task" in error
        assert "3 queued, 1 missing" in run("status").stdout
    finally:
        cluster.ask("scancel", f"--user={ANNA}")
        wait_for(lambda: not cluster.queue(), 30)
        # the accounting may still take jobs for active that have just ended
        delete = (*accounts, "delete", "user", ANNA)
        wait_for(lambda: not subprocess.run(delete, env={**os.environ, **cluster.env}, check=False).returncode, 30)
        cluster.ask(*accounts, "delete", "account", "lab")


def test_watching_ends_where_nothing_is_at_work_any_more(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2)
    (tmp_path / "embed-run/shards/shard-00001.parquet").write_bytes(b"not Parquet")
    run("submit", *ON_CPU)
    watch = ("status", "--watch", "--watch-seconds", 1)
    assert "1 done, 1 failed" in run(*watch, code=6, timeout=90).stdout
    looks = [json.loads(line) for line in run(*watch, "--json", code=6).stdout.splitlines()]
    assert len(looks) == 2
    assert all(look["is_over"] for look in looks)


def test_another_job_that_came_to_the_same_id_is_none_of_ours(
    run: Run, cluster: Cluster, globins: Path, tmp_path: Path
) -> None:
    run("plan", globins, "--num-shards", 2)
    run("submit", *ON_CPU, *LATER, "--no-gather")
    path = next(tmp_path.glob("embed-run/submissions/*.json"))
    cluster.ask("scancel", array_of(tmp_path / "embed-run"))
    other = cluster.ask("sbatch", "--parsable", "--output=/dev/null", "--array=0-1", "--wrap=sleep 60").strip()
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": other}))
    wait_for(lambda: len(cluster.running()) == 2, 30)
    assert "2 missing" in run("status").stdout
    assert "2 shards submitted" in run("submit", *ON_CPU, *LATER).stdout


def test_tasks_whose_run_folder_has_moved_do_not_end_well(
    run: Run, cluster: Cluster, proteins: Path, tmp_path: Path
) -> None:
    run_dir = begin(run, proteins, tmp_path, "--no-gather", shards=1)
    job = array_of(run_dir)
    run_dir.rename(tmp_path / "moved")
    wait_for(lambda: not cluster.queue(), 90)
    wait_for(lambda: "RUNNING" not in cluster.ask("sacct", "-nXP", f"--jobs={job}", "--format=State"), 20)
    assert cluster.ask("sacct", "-nXP", f"--jobs={job}", "--format=State") == "FAILED\n"
    done = run("status", "--run-dir", "moved").stdout
    assert "its task failed" in done
    assert f"{run_dir} is not there any more. Put it back, or submit again" in logs(tmp_path / "moved")
    assert not list(run_dir.rglob("*")), "no second run folder grew at the old place"
