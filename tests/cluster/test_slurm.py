"""What is made of Slurm's answers, with scripts in the place of its commands; tests/slurm asks the real ones."""

from __future__ import annotations

import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from hpc_embed.cluster import slurm
from hpc_embed.cluster.slurm import Element, format_ranges, parse_ranges, reason_of
from hpc_embed.cluster.submission import Submission, new_submission, read_submission, read_submissions
from hpc_embed.cluster.whereabouts import Endings, whereabouts
from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.run.layout import RunLayout
from tests.cluster.conftest import Fakes
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "hpc_embed/cluster/requeue.sh"


def submitted(layout: RunLayout, job: str, *tasks: list[int], **facts: object) -> Submission:
    submission = Submission(**{**vars(new_submission(tasks, "hpc-embed", "here")), "job": job, **facts})
    submission.write(layout)
    return submission


def script(layout: RunLayout, submission: Submission) -> str:
    return f"{layout.logs / submission.token}/.submission_file_1.sh"


# ---- the queue


def test_live_elements_are_told_from_those_that_have_ended(fakes: Fakes) -> None:
    lines = [
        "7|0|RUNNING|None|node1|/a|b.sh",
        "7|1|PENDING|Priority||/a.sh",
        "7|2|SUSPENDED|None|node2|/a.sh",
        *(f"7|{index}|{word}|None|node1|/a.sh" for index, word in enumerate(("PREEMPTED", "NODE_FAIL", "FAILED"), 3)),
        "8|N/A|COMPLETING|None|node3|/a.sh",
    ]
    fakes.says("squeue", "\n".join(["a|site's|own|news", *lines, "and | more"]) + "\n")
    assert slurm.live_elements(["7", "8"]) == [
        Element("7", 0, "RUNNING", "node1", "/a|b.sh"),
        Element("7", 1, "PENDING", "Priority", "/a.sh"),
        Element("7", 2, "SUSPENDED", "node2", "/a.sh"),
        Element("8", 0, "COMPLETING", "node3", "/a.sh"),
    ]
    options = "--noheader --array --states=all {} --format=%F|%K|%T|%r|%N|%o"
    assert fakes.calls("squeue") == [options.format("--jobs=7,8")], "whose jobs they are is another question"
    slurm.elements_of_user(1000)
    assert fakes.calls("squeue")[1:] == [options.format("--user=1000")]


def test_forgotten_jobs_are_no_fault_and_other_failures_are(fakes: Fakes) -> None:
    fakes.says("squeue", "", 1, "slurm_load_jobs error: Invalid job id specified\n")
    assert slurm.live_elements(["7"]) == []
    fakes.says("squeue", "", 1, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(EnvironmentFault, match="Unable to contact slurm controller"):
        slurm.live_elements(["7"])


def test_out_of_memory_stands_on_the_step_alone(fakes: Fakes) -> None:
    lines = [
        "7_0|FAILED|1:0|hpc-embed|here|2026-01-01T00:00:00",
        "7_0.batch|FAILED|1:0|batch|here|2026-01-01T00:00:00",
        "7_0.0|OUT_OF_MEMORY|0:125|python|here|2026-01-01T00:00:00",
        "7_1|CANCELLED by 1000|0:0|hpc-embed|here|Unknown",
        "7_[2-3%4]|PENDING|0:0|hpc-embed|here|2026-01-01T00:00:00",
    ]
    fakes.says("sacct", "\n".join(lines) + "\n")
    ended = slurm.ended_elements(["7"])
    assert [(element.task, element.state) for element in ended] == [
        (0, "OUT_OF_MEMORY"),
        (1, "CANCELLED"),
        (2, "PENDING"),
        (3, "PENDING"),
    ]
    assert ended[1].submitted == 0.0
    assert ended[0] == Element("7", 0, "OUT_OF_MEMORY", "1:0", "", "hpc-embed", "here", ended[0].submitted)
    assert fakes.calls("sacct") == [
        "--noheader --parsable2 --jobs=7 --format=JobID,State,ExitCode,JobName,Cluster,Submit"
    ]


def test_jobs_without_elements_or_a_state_are_told_as_they_are(fakes: Fakes) -> None:
    lines = ["8|COMPLETED|0:0|n|c|Unknown", "8.0|OUT_OF_MEMORY|0:125|n|c|Unknown", "8.0.1|RUNNING|0:0|n|c|Unknown"]
    fakes.says(
        "sacct", "\n".join([*lines, "9_4||0:0|n|c|Unknown", "a site's news", "9_[0-9,...]|PENDING|0:0|n|c|Unknown"])
    )
    assert [each[:3] for each in slurm.ended_elements(["8", "9"])] == [("8", 0, "OUT_OF_MEMORY"), ("9", 4, "UNKNOWN")]
    assert "--jobs=8,9 " in fakes.calls("sacct")[0]
    (fakes.folder / "sacct").unlink()
    assert slurm.ended_elements(["8"]) == []


def test_a_site_without_accounting_tells_nothing_of_the_end(fakes: Fakes) -> None:
    fakes.says("sacct", "", 1, "Slurm accounting storage is disabled\n")
    assert slurm.ended_elements(["7"]) == []


@pytest.mark.parametrize(
    ("private", "hides"),
    [("none", False), ("jobs", True), ("accounts,jobs,users", True), ("accounts", False)],
)
def test_hidden_jobs_are_a_setting_of_the_site(private: str, hides: bool, fakes: Fakes) -> None:
    fakes.says("scontrol", f"PrivateData             = {private}\n")
    assert slurm.hides_jobs() is hides


def test_ranges_and_back() -> None:
    assert parse_ranges("0-3,7,9-10") == [0, 1, 2, 3, 7, 9, 10]
    assert format_ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"
    assert format_ranges([]) == ""


def test_ranges_beyond_any_plan_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "MAX_SHARDS", 10)
    assert parse_ranges("0-9") == list(range(10))
    for text in ("10", "3-10", "0-5,0-4", "1-x", "-3", ""):
        with pytest.raises(ValueError, match=r"beyond 10 shards|more than 10 shards|no number or range"):
            parse_ranges(text)


def test_all_that_sbatch_says_in_one_line() -> None:
    text = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates policy.\n"
    assert reason_of(text) == "AssocMaxSubmitJobLimit; Batch job submission failed: Job violates policy"
    assert reason_of("sbatch: error: XX left no room X\n") == "XX left no room X"
    assert reason_of(" \n") == "no reason given"


# ---- whose elements they are


def test_elements_with_our_number_and_another_script_are_not_ours(fakes: Fakes, layout: RunLayout) -> None:
    ours = submitted(layout, "7", [0, 1], [2])
    fakes.says("squeue", f"7|0|RUNNING|None|node1|/home/other/job.sh\n7|1|RUNNING|None|node1|{script(layout, ours)}\n")
    assert set(whereabouts(layout).alive) == {2}


def test_ended_elements_of_another_name_time_or_cluster_are_not_ours(fakes: Fakes, layout: RunLayout) -> None:
    submissions = [submitted(layout, job, [index]) for index, job in enumerate("5678")]
    lines = [
        "5_0|FAILED|1:0|hpc-embed|here|2099-01-01T00:00:00",
        "6_0|FAILED|1:0|other|here|2099-01-01T00:00:00",
        "7_0|FAILED|1:0|hpc-embed|there|2099-01-01T00:00:00",
        "8_0|FAILED|1:0|hpc-embed|here|2001-01-01T00:00:00",
    ]
    fakes.says("sacct", "\n".join(lines) + "\n")
    assert set(Endings().by_shard(submissions, range(4))) == {0}


def test_a_clock_ten_minutes_ahead_makes_no_stranger_of_an_element(fakes: Fakes, layout: RunLayout) -> None:
    submission = submitted(layout, "5", [0], submitted=datetime.fromisoformat("2026-01-01T12:10:00").timestamp())
    fakes.says("sacct", "5_0|FAILED|1:0|hpc-embed|here|2026-01-01T12:00:00\n")
    assert set(Endings().by_shard([submission], [0])) == {0}


def test_elements_of_another_array_that_slurm_answers_with_are_passed_over(fakes: Fakes, layout: RunLayout) -> None:
    """Asked for 805, which is the own number of an element of 804, squeue answers with all of that."""
    ours = submitted(layout, "805", [0])
    fakes.says("squeue", f"804|0|RUNNING|None|node1|/home/other/job.sh\n804|1|RUNNING|None|n|{script(layout, ours)}\n")
    fakes.says("sacct", "804_1|FAILED|1:0|hpc-embed|here|2099-01-01T00:00:00\n")
    assert whereabouts(layout).alive == {}
    assert Endings().by_shard([ours], [0]) == {}


def test_an_ending_is_asked_for_once_and_only_where_it_is_wanted(fakes: Fakes, layout: RunLayout) -> None:
    submissions = [submitted(layout, "7", [0, 1], [2]), submitted(layout, "8", [3]), submitted(layout, "9", [3])]
    lines = ["7_0|FAILED|1:0", "7_1|RUNNING|0:0", "8_0|FAILED|1:0"]
    fakes.says("sacct", "".join(f"{line}|hpc-embed|here|2099-01-01T00:00:00\n" for line in lines))
    endings = Endings()
    assert endings.by_shard(submissions, []) == {}
    assert fakes.calls("sacct") == []
    assert [set(endings.by_shard(submissions, [1])) for _ in range(3)] == [{1}] * 3
    assert len(fakes.calls("sacct")) == 1, "what has ended stays so"
    assert [endings.by_shard(submissions, [2])[2].state for _ in range(2)] == ["RUNNING"] * 2
    assert len(fakes.calls("sacct")) == 3
    assert endings.by_shard(submissions, [3])[3].job == "8", "until the accounting knows the newest"
    assert [call.split()[2] for call in fakes.calls("sacct")] == ["--jobs=7"] * 3 + ["--jobs=9"]


def test_an_array_without_an_answer_is_looked_up_by_its_token(fakes: Fakes, layout: RunLayout) -> None:
    lost = submitted(layout, "", [3])
    fakes.says("squeue", f"9|0|PENDING|None||{script(layout, lost)}\n")
    where = whereabouts(layout)
    assert [one.job for one in where.submissions] == ["9"]
    assert set(where.alive) == {3}
    assert read_submission(layout, lost.token).job == "9", "written down, so that it is looked up once"
    assert f"--user={os.getuid()}" in fakes.calls("squeue")[0]


def test_another_users_array_counts_as_hidden_only_where_jobs_are_hidden_and_it_is_not_seen(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    theirs = submitted(layout, "7", [0], user_id=1, user="anna")
    assert whereabouts(layout).hidden == []
    fakes.says("scontrol", "PrivateData = jobs\n")
    slurm.site_configuration.cache_clear()
    assert whereabouts(layout).hidden == [theirs]
    assert whereabouts(layout).hides(0) == theirs
    fakes.says("squeue", f"7|0|PENDING|None||{script(layout, theirs)}\n")
    assert whereabouts(layout).hidden == [], "an operator sees all the same"


@pytest.mark.parametrize("content", ["", "{}", '{"tasks": 3}', "[]", '{"tasks": ["x"]}', "\x00"])
def test_a_damaged_submission_is_a_sentence(content: str, fakes: Fakes, layout: RunLayout) -> None:
    submitted(layout, "7", [0])
    (layout.submissions / "20260101-000000-00000000.json").write_text(content)
    whole, damaged = read_submissions(layout)
    assert (len(whole), [one.token for one in damaged]) == (1, ["20260101-000000-00000000"])
    with pytest.raises(RunConflict, match="not a whole submission"):
        read_submission(layout, "20260101-000000-00000000")


def test_the_newest_submission_of_a_shard_counts(fakes: Fakes, layout: RunLayout) -> None:
    old = submitted(layout, "7", [0, 1], token="20260101-000000-00000000")
    new = submitted(layout, "8", [1], token="20260102-000000-00000000")
    fakes.says("squeue", f"8|0|PENDING|None||{script(layout, new)}\n7|0|RUNNING|None|n|{script(layout, old)}\n")
    assert {shard: element.job for shard, element in whereabouts(layout).alive.items()} == {0: "7", 1: "8"}


# ---- the end of the batch script


@pytest.mark.parametrize(
    ("word", "code", "state", "again"),
    [
        ("again", 85, "RUNNING", True),
        ("again", 137, "RUNNING", True),  # srun replaced the code after an out-of-memory kill
        ("again", 1, "", True),
        ("idle", 85, "RUNNING", True),
        ("stopped", 130, "RUNNING", True),  # the grace period before a preemption
        ("stopped", 130, "COMPLETING", False),  # scancel
        ("stopped", 130, "RUNNING\nPENDING", False),
        (None, 85, "", True),
        (None, 140, "RUNNING", True),  # SIGUSR2 before its handler stood
        (None, 143, "RUNNING", True),
        (None, 143, "COMPLETING", False),
        (None, 0, "RUNNING", False),
        (None, 1, "RUNNING", False),
        (None, 6, "RUNNING", False),
        (None, 137, "RUNNING", False),
    ],
)
def test_what_is_requeued(word: str | None, code: int, state: str, again: bool, fakes: Fakes, tmp_path: Path) -> None:
    fakes.says("squeue", f"{state}\n")
    done = end_of_script(tmp_path, word, code)
    assert bool(fakes.calls("scontrol")) is again
    assert fakes.calls("scontrol") in ([], ["requeue 7_3"]), "the element, and never the array"
    assert done.returncode == code
    assert not (tmp_path / "7_3.word").exists()


def test_idle_starts_in_a_row_are_bounded_and_a_fruitful_one_begins_anew(fakes: Fakes, tmp_path: Path) -> None:
    codes = [end_of_script(tmp_path, word, 85).returncode for word in ("idle", None, "again", "idle", "idle", "idle")]
    assert codes == [85, 85, 85, 85, 85, 6]
    assert len(fakes.calls("scontrol")) == 5


@pytest.mark.long
def test_a_controller_that_is_away_for_a_moment_is_asked_again(fakes: Fakes, tmp_path: Path) -> None:
    (fakes.folder / "scontrol").write_text('#!/bin/bash\necho x >>"$0.calls"\n[ "$(wc -l <"$0.calls")" -ge 2 ]\n')
    end_of_script(tmp_path, "again", 85)
    assert len(fakes.calls("scontrol")) == 2


def end_of_script(tmp_path: Path, word: str | None, code: int) -> subprocess.CompletedProcess[str]:
    if word is not None:
        (tmp_path / "7_3.word").write_text(word)
    environment = {
        "PATH": os.environ["PATH"],
        "HPC_EMBED_WORD": str(tmp_path / "7_3.word"),
        "HPC_EMBED_MAX_TRIES": "3",
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    text = f"(exit {code})\n{SCRIPT.read_text()}"
    return subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)


def test_the_template_in_the_repository_ends_as_every_batch_script() -> None:
    assert (REPOSITORY / "slurm/array.sbatch").read_text().endswith(SCRIPT.read_text())
