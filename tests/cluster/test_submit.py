"""What `submit` hands in, what it leaves out, and what it does with a refusal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_embed.cluster import submit as submitting_module
from hpc_embed.cluster.submission import Submission, new_submission, read_submissions
from hpc_embed.cluster.submit import Submitted, submit
from hpc_embed.config import GatherSettings, SubmitSettings, WorkSettings
from hpc_embed.errors import EnvironmentFault, Interrupted, RunConflict
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from tests.cluster.conftest import CONFIGURATION, Fakes, fail, finish, planned
from tests.cluster.test_sbatch import command_of, options_of

GIVEN = Submitted(num_done=0, num_queued=0, num_quarantined=0, num_submitted=0, arrays=(), gather_job="")


def submitting(
    plan: Plan,
    layout: RunLayout,
    settings: SubmitSettings | None = None,
    work: WorkSettings | None = None,
    dataset: GatherSettings | None = None,
) -> Submitted:
    return submit(plan, layout, settings or SubmitSettings(), work or WorkSettings(), dataset or GatherSettings())


def earlier(layout: RunLayout, job: str, *tasks: list[int], **facts: object) -> Submission:
    """What an earlier call submitted."""
    token = f"20260101-000000-{int(job or 0):08d}"
    made = new_submission(tasks, "hpc-embed", "here")
    submission = Submission(**{**vars(made), "token": token, "job": job, **facts})
    submission.write(layout)
    return submission


def queue(fakes: Fakes, layout: RunLayout, *lines: tuple[Submission, int, str]) -> None:
    """What of it Slurm has."""
    fakes.says(
        "squeue",
        "".join(
            f"{one.job or 55}|{element}|{state}|None|node1|{layout.logs / one.token}/.submission_file_1.sh\n"
            for one, element, state in lines
        ),
    )


def written(layout: RunLayout) -> dict[str, tuple[str, ...]]:
    """Elements by job, of all submissions."""
    return {one.job: one.tasks for one in read_submissions(layout)[0]}


def test_all_shards_of_a_fresh_run_and_a_gather_job_that_waits_for_them(fakes: Fakes, layout: RunLayout) -> None:
    dataset = GatherSettings(memory_mebibytes=4096)
    done = submitting(planned(1, 1, 1), layout, work=WorkSettings(devices="cpu"), dataset=dataset)
    assert done == GIVEN._replace(num_submitted=3, arrays=("101",), gather_job="102")
    assert written(layout) == {"101": ("0", "1", "2"), "102": ()}
    array, gather = fakes.scripts()
    assert options_of(array)["array"] == "0-2"
    assert options_of(gather)["dependency"] == "afterany:101"
    assert options_of(gather)["mem"] == "5G"
    assert "array" not in options_of(gather)
    token = next(one.token for one in read_submissions(layout)[0] if one.tasks)
    assert command_of(array)[-6:] == [
        *("run-task", "--run-dir", str(layout.root), "--submission", token, "--devices=cpu"),
    ]
    assert command_of(gather)[-4:] == ["gather", "--run-dir", str(layout.root), "--memory-mebibytes=4096"]


def test_scripts_and_logs_lie_in_a_folder_by_the_token_for_the_submitter_alone_to_write(
    fakes: Fakes, layout: RunLayout
) -> None:
    layout.logs.mkdir()
    layout.logs.chmod(0o2777)
    submitting(planned(1), layout)
    taken = sorted(read_submissions(layout)[0], key=lambda one: one.job)
    for one, script in zip(taken, fakes.scripts(), strict=True):
        folder = layout.logs / one.token
        assert options_of(script)["output"].startswith(f"{folder}/")
        assert folder.stat().st_mode & 0o022 == 0
        assert folder.stat().st_mode & 0o700 == 0o700
        assert (folder / "batch.sh").read_text() == script


def test_what_is_done_queued_or_failed_too_often_is_left_out(fakes: Fakes, layout: RunLayout) -> None:
    finish(layout, 0)
    queue(fakes, layout, (earlier(layout, "7", [1], [2]), 0, "RUNNING"))
    fail(layout, 3, 3)
    fail(layout, 4)
    done = submitting(planned(*[1] * 6), layout)
    assert done == Submitted(1, 1, 1, 3, ("101",), "102")
    assert written(layout)["101"] == ("2", "4", "5")
    assert options_of(fakes.scripts()[1])["dependency"] == "afterany:7:101"


def test_retry_failed_takes_what_was_left_aside(fakes: Fakes, layout: RunLayout) -> None:
    fail(layout, 1, 3)
    assert submitting(planned(1, 1), layout, work=WorkSettings(retry_failed=True)).num_submitted == 2
    assert written(layout)["101"] == ("0", "1")


def test_where_nothing_but_failures_is_left_nothing_is_submitted(fakes: Fakes, layout: RunLayout) -> None:
    finish(layout, 0)
    fail(layout, 1, 3)
    assert submitting(planned(1, 1), layout) == GIVEN._replace(num_done=1, num_quarantined=1)
    assert fakes.calls("sbatch") == []


@pytest.mark.parametrize(
    ("per_task", "largest", "arrays"),
    [
        (1, 1001, [("0", "1", "2", "3", "4")]),
        (2, 1001, [("0-1", "2-3", "4")]),
        (5, 1001, [("0-4",)]),
        (1, 2, [("0", "1"), ("2", "3"), ("4",)]),
        (2, 2, [("0-1", "2-3"), ("4",)]),
        (1, 5, [("0", "1", "2", "3", "4")]),
    ],
)
def test_arrays_are_as_large_as_the_site_allows(
    per_task: int, largest: int, arrays: list[tuple[str, ...]], fakes: Fakes, layout: RunLayout
) -> None:
    fakes.says("scontrol", f"MaxArraySize = {largest}\nClusterName = here\n")
    done = submitting(planned(*[1] * 5), layout, SubmitSettings(shards_per_task=per_task))
    assert done.num_submitted == 5
    assert [written(layout)[job] for job in done.arrays] == arrays
    assert [options_of(script).get("array") for script in fakes.scripts()] == [
        *(f"0-{len(tasks) - 1}" for tasks in arrays),
        None,
    ]
    assert options_of(fakes.scripts()[-1])["dependency"] == "afterany:" + ":".join(done.arrays)


@pytest.mark.parametrize("variable", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS", "SLURM_CLUSTER_NAME"])
def test_a_submission_tells_whose_it_is_and_on_which_cluster(
    variable: str, fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the job in which one submits is not chosen."""
    monkeypatch.setenv(variable, "there")
    submitting(planned(1), layout, SubmitSettings(job_name="mine"))
    told = [(one.job_name, one.cluster) for one in read_submissions(layout)[0]]
    cluster = "here" if variable == "SLURM_CLUSTER_NAME" else "there"
    assert sorted(told) == [("mine", cluster), ("mine-gather", cluster)]


# ---- the gather job


def test_no_gather_job_where_none_is_wanted(fakes: Fakes, layout: RunLayout) -> None:
    assert submitting(planned(1), layout, SubmitSettings(gather=False)).gather_job == ""
    assert len(fakes.calls("sbatch")) == 1


def test_a_gather_job_that_waited_for_fewer_arrays_is_replaced(fakes: Fakes, layout: RunLayout) -> None:
    array, gather = earlier(layout, "7", [0]), earlier(layout, "8")
    queue(fakes, layout, (array, 0, "RUNNING"), (gather, 0, "PENDING"))
    assert submitting(planned(1, 1), layout) == GIVEN._replace(
        num_queued=1, num_submitted=1, arrays=("101",), gather_job="102"
    )
    assert options_of(fakes.scripts()[1])["dependency"] == "afterany:7:101"
    assert fakes.calls("scancel") == ["--state=PENDING 8"]


def test_a_gather_job_that_runs_already_is_let_be(fakes: Fakes, layout: RunLayout) -> None:
    queue(fakes, layout, (earlier(layout, "8"), 0, "RUNNING"))
    assert submitting(planned(1), layout).gather_job == "102"
    assert fakes.calls("scancel") == []


def test_a_gather_job_of_another_user_stays(fakes: Fakes, layout: RunLayout) -> None:
    queue(fakes, layout, (earlier(layout, "8"), 0, "PENDING"))
    fakes.says("scancel", "", 1, "scancel: error: Kill job error on job id 8: Access/permission denied\n")
    assert submitting(planned(1), layout).gather_job == "102"


@pytest.mark.parametrize(
    ("is_done", "has_array", "has_gather", "is_gathered", "is_wanted"),
    [
        (False, True, True, False, False),
        (False, True, False, False, True),
        (False, True, False, True, True),
        (True, False, False, False, True),
        (True, False, False, True, False),
        (True, False, True, False, False),
        (False, False, False, False, False),
    ],
)
def test_a_gather_job_where_nothing_new_is_submitted(
    is_done: bool,
    has_array: bool,
    has_gather: bool,
    is_gathered: bool,
    is_wanted: bool,
    fakes: Fakes,
    layout: RunLayout,
) -> None:
    if is_done:
        finish(layout, 0)
    elif not has_array:
        fail(layout, 0, 3)
    alive = [(earlier(layout, "7", [0]), 0, "RUNNING")] if has_array else []
    alive += [(earlier(layout, "8"), 0, "PENDING")] if has_gather else []
    queue(fakes, layout, *alive)
    if is_gathered:
        layout.dataset_facts.touch()
    done = submitting(planned(1), layout)
    assert (done.num_submitted, done.arrays, bool(done.gather_job)) == (0, (), is_wanted)
    if is_wanted:
        assert options_of(fakes.scripts()[0]).get("dependency") == ("afterany:7" if has_array else None)


# ---- refusals


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("sbatch: error: AssocMaxSubmitJobLimit", "--shards-per-task"),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", "hpc-embed submit --dry-run"),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", "--shards-per-task"),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", "hpc-embed submit --dry-run"),
    ],
)
def test_a_refusal_leaves_nothing_behind_and_says_what_helps(
    said: str, words: str, fakes: Fakes, layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.takes_jobs(most=0, refusal=said)
    with pytest.raises(EnvironmentFault, match=words) as caught:
        submitting(planned(1), layout)
    assert said.rpartition("error: ")[2] in caught.value.message
    assert "Nothing was queued." in caught.value.message
    assert written(layout) == {}
    assert capsys.readouterr().err == ""


def test_what_was_taken_before_a_refusal_stays_and_is_told(fakes: Fakes, layout: RunLayout) -> None:
    fakes.says("scontrol", "MaxArraySize = 1\nClusterName = here\n")
    fakes.takes_jobs(most=2, refusal="sbatch: error: AssocMaxSubmitJobLimit")
    with pytest.raises(EnvironmentFault, match=r"Queued already: 101, 102\."):
        submitting(planned(1, 1, 1), layout)
    assert written(layout) == {"101": ("0",), "102": ("1",)}


def test_a_gather_job_that_is_refused_leaves_the_arrays(fakes: Fakes, layout: RunLayout) -> None:
    gather = earlier(layout, "8")
    queue(fakes, layout, (gather, 0, "PENDING"))
    fakes.takes_jobs(most=1, refusal="sbatch: error: no more")
    with pytest.raises(EnvironmentFault, match="arrays 101 are queued and will run: sbatch refused: no more"):
        submitting(planned(1), layout)
    assert written(layout) == {"101": ("0",), "8": ()}
    assert fakes.calls("scancel") == [], "the one that there is has to do"


def test_an_array_without_an_answer_is_not_forgotten(fakes: Fakes, layout: RunLayout) -> None:
    fakes.takes_jobs(most=0, refusal="sbatch: error: Batch job submission failed: Socket timed out")
    with pytest.raises(EnvironmentFault):
        submitting(planned(1), layout)
    assert written(layout) == {"": ("0",)}


def test_ctrl_c_waits_for_slurms_answer(fakes: Fakes, layout: RunLayout) -> None:
    fakes.says("scontrol", "MaxArraySize = 1\nClusterName = here\n")
    fakes.does("sbatch", 'kill -INT "$PPID"\nsleep 0.05\necho 101')
    with pytest.raises(Interrupted, match=r"Queued already: 101\."):
        submitting(planned(1, 1), layout)
    assert written(layout) == {"101": ("0",)}
    assert len(fakes.calls("sbatch")) == 1


def test_weights_that_are_gone_are_told_before_anything_is_submitted(
    fakes: Fakes, layout: RunLayout, tmp_path: Path
) -> None:
    plan = planned(1, folder=str(tmp_path / "model"))
    with pytest.raises(EnvironmentFault, match="no node could load them"):
        submitting(plan, layout)
    assert fakes.calls("sbatch") == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    assert submitting(plan, layout).num_submitted == 1


# ---- answers of sbatch


@pytest.mark.parametrize("answer", ["Submitted batch job 3", "3\n101", ""])
def test_an_array_is_found_by_its_script_where_the_answer_does_not_tell(
    answer: str, fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting_module, "PAUSES_SECONDS", (0.0,))
    queued = 'echo "101|0|PENDING|None||$2" >"${0%/*}/queue"'
    fakes.does("sbatch", f'[ -e "${{0%/*}}/queue" ] || {queued}\nprintf {answer!r}')
    fakes.does("squeue", 'cat "${0%/*}/queue" 2>/dev/null')
    assert submitting(planned(1), layout, SubmitSettings(gather=False)).arrays == ("101",)
    assert written(layout) == {"101": ("0",)}


def test_an_answer_without_an_id_and_no_such_job_is_told_and_stays_on_record(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting_module, "PAUSES_SECONDS", (0.0,))
    fakes.says("sbatch", "Welcome!\n")
    with pytest.raises(EnvironmentFault, match="holds no job id, and the queue has no such job"):
        submitting(planned(1), layout)
    assert written(layout) == {"": ("0",)}


def test_a_queue_that_is_full_is_told_while_sbatch_waits(
    fakes: Fakes, layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    again = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying."
    fakes.does("sbatch", f"echo '{again}' >&2; echo '{again}' >&2; echo 101")
    assert submitting(planned(1), layout, SubmitSettings(gather=False)).arrays == ("101",)
    assert capsys.readouterr().err == "Slurm takes no more jobs just now; sbatch tries again for two minutes …\n"
    last = "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job, sleeping and retrying"
    fakes.does("sbatch", f"echo '{last}' >&2; exit 1")
    with pytest.raises(EnvironmentFault, match="submit again when others have ended"):
        submitting(planned(1, 1), layout)


# ---- what others have submitted


def test_shards_that_another_user_may_have_at_work_are_asked_about(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    fakes.says("scontrol", CONFIGURATION.replace("none", "jobs"))
    earlier(layout, "7", [1], user_id=4_000_000, user="anna", host="login1")
    with pytest.raises(RunConflict, match="anna submitted these shards as job 7 on login1"):
        submitting(planned(1, 1), layout)
    assert fakes.calls("sbatch") == []
    assert submitting(planned(1, 1), layout, SubmitSettings(take_over=True)).num_submitted == 2


def test_shards_that_another_user_has_done_are_no_question(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    fakes.says("scontrol", CONFIGURATION.replace("none", "jobs"))
    earlier(layout, "7", [0], user_id=4_000_000, user="anna")
    finish(layout, 0)
    assert submitting(planned(1, 1), layout).num_submitted == 1


def test_a_damaged_submission_stops_only_where_its_job_is_in_the_queue(
    fakes: Fakes, layout: RunLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = earlier(layout, "", [0])
    (layout.submissions / f"{lost.token}.json").write_text("")
    queue(fakes, layout, (lost, 0, "PENDING"))
    with pytest.raises(RunConflict, match="Its job 55 is still in the queue"):
        submitting(planned(1), layout)
    queue(fakes, layout, (replace(lost, token="20260101-000000-ffffffff"), 0, "PENDING"))
    assert submitting(planned(1), layout).num_submitted == 1
    assert "it is passed over" in capsys.readouterr().err
