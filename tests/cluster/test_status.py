"""What `status` says of a shard, by what is in the run folder and what Slurm answers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from hpc_embed.cluster.status import ShardStatus, last_lines, run_status
from hpc_embed.cluster.submission import Submission, new_submission
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run import faults, files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import UNCOMPILED
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.storage import Storage
from hpc_embed.run.vectors import Vectors
from tests.cluster.conftest import CONFIGURATION, Fakes, fail, finish, planned

MISSING = ShardStatus("shard-00000", "missing", 10, 0, 0.0, None, "", "", "")


def array(layout: RunLayout, job: str, *tasks: list[int], **facts: object) -> Submission:
    made = new_submission(tasks, "hpc-embed", "here")
    one = Submission(**{**vars(made), "token": f"20260101-000000-{int(job or 0):08d}", "job": job, **facts})
    one.write(layout)
    return one


def in_queue(fakes: Fakes, layout: RunLayout, one: Submission, state: str, why: str = "None", where: str = "") -> None:
    script = f"{layout.logs / one.token}/.submission_file_1.sh"
    fakes.says("squeue", f"{one.job}|0|{state}|{why}|{where}|{script}\n")


def ended(fakes: Fakes, job: str, state: str, code: str = "0:0") -> None:
    fakes.says("sacct", f"{job}_0|{state}|{code}|hpc-embed|here|2099-01-01T00:00:00\n")


def piece(layout: RunLayout, index: int, *windows: int, at: float = 0.0) -> None:
    """A piece with these windows, published then."""
    pieces = Pieces(layout.pieces(index), "f" * 64)
    before = set(layout.pieces(index).glob("*"))
    layout.work.mkdir(exist_ok=True)
    pieces.publish(Vectors(np.array(windows), np.ones(len(windows), np.int32), np.zeros((len(windows), 2), np.float32)))
    for path in set(layout.pieces(index).glob("*")) - before:
        os.utime(path, (at, at))


def shard(layout: RunLayout, num_windows: int = 10) -> ShardStatus:
    return run_status(planned(num_windows), layout).shards[0]


def test_nothing_was_submitted_yet(fakes: Fakes, layout: RunLayout) -> None:
    status = run_status(planned(10, 20), layout)
    assert status.shards == [MISSING, MISSING._replace(shard="shard-00001", num_windows=20)]
    assert (status.run_dir, status.model, status.slurm) == (str(layout.root), "aa_composition", "")
    assert (status.gather_job, status.is_gathered, status.is_over, status.notes) == ("", False, False, [])
    assert (status.count("missing"), status.count("done")) == (2, 0)


@pytest.mark.parametrize(("num_failed", "reason"), [(0, ""), (1, "1 windows failed"), (3, "3 windows failed")])
def test_done(num_failed: int, reason: str, fakes: Fakes, layout: RunLayout) -> None:
    finish(layout, 0, num_failed)
    assert shard(layout) == MISSING._replace(state="done", num_windows_done=10 - num_failed, reason=reason)


def test_done_although_the_queue_still_has_its_element(fakes: Fakes, layout: RunLayout) -> None:
    finish(layout, 0)
    in_queue(fakes, layout, array(layout, "7", [0]), "COMPLETING", where="node1")
    assert shard(layout) == MISSING._replace(state="done", num_windows_done=10, task="7_0")


def test_failed_windows_of_a_thousand_shards_are_asked_for_and_of_more_are_not(fakes: Fakes, layout: RunLayout) -> None:
    layout.outputs.mkdir()
    finish(layout, 0, 1)
    for index in range(1, 1000):
        layout.output(index).touch()
        layout.marker(index).touch()
    assert run_status(planned(*[10] * 1000), layout).shards[0].reason == "1 windows failed"
    (layout.outputs / "001").mkdir()
    layout.output(1000).touch()
    layout.marker(1000).touch()
    assert run_status(planned(*[10] * 1001), layout).shards[0] == MISSING._replace(state="done", num_windows_done=10)


def test_a_node_whose_gpu_goes_on_without_compiled_kernels_is_told(layout: RunLayout) -> None:
    assert run_status(planned(10, 10), layout).notes == []
    finish(layout, 0, versions={"chains": UNCOMPILED})
    (told,) = run_status(planned(10, 10), layout).notes
    assert told.endswith(": chains compiled: no, its log says why")
    finish(layout, 1, versions={"chains": "Triton 3.7.1"})
    assert len(run_status(planned(10, 10), layout).notes) == 1


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING"])
def test_running(state: str, fakes: Fakes, layout: RunLayout) -> None:
    in_queue(fakes, layout, array(layout, "7", [0]), state, where="node1")
    expected = MISSING._replace(state="running", reason="on node1", task="7_0")
    assert shard(layout) == expected
    piece(layout, 0, 0, 1, at=1000.0)
    assert shard(layout) == expected._replace(num_windows_done=2), "one piece tells no rate"
    piece(layout, 0, 2, 3, at=1008.0)
    assert shard(layout) == expected._replace(num_windows_done=4, windows_per_second=0.5, seconds_left=12.0)


@pytest.mark.parametrize(
    ("state", "why", "where", "told", "reason"),
    [
        ("PENDING", "Priority", "", "queued", "Priority"),
        ("PENDING", "BeginTime", "", "queued", "BeginTime"),
        ("REQUEUED", "None", "", "queued", "None"),
        ("SUSPENDED", "None", "node2", "suspended", "node2"),
    ],
)
@pytest.mark.parametrize("num_done", [0, 2])
def test_in_the_queue(
    state: str, why: str, where: str, told: str, reason: str, num_done: int, fakes: Fakes, layout: RunLayout
) -> None:
    in_queue(fakes, layout, array(layout, "7", [0]), state, why, where)
    if num_done:
        piece(layout, 0, 0, 1)
    fail(layout, 0)
    assert shard(layout) == MISSING._replace(state=told, reason=reason, task="7_0", num_windows_done=num_done)


@pytest.mark.parametrize(
    ("state", "code", "reason"),
    [
        ("TIMEOUT", "0:0", "its task reached its time limit (exit code 0:0)"),
        ("NODE_FAIL", "0:0", "its task lost its node (exit code 0:0)"),
        ("CANCELLED by 1000", "0:15", "its task was cancelled (exit code 0:15)"),
        ("COMPLETED", "0:0", "its task ended without finishing the shard (exit code 0:0)"),
        ("NEW_STATE", "1:0", "its task new_state (exit code 1:0)"),
        ("FAILED", "1:0", "its task failed (exit code 1:0)"),
        (
            "FAILED",
            "0:53",
            "its task failed (exit code 0:53): its node could not write its log; "
            "is the run folder on storage that nodes share?",
        ),
        *(
            (
                "FAILED",
                code,
                f"its task failed (exit code {code}): it was killed, most often for want of memory "
                "(--memory-gibibytes)",
            )
            for code in ("9:0", "0:9", "137:0", "0:125")
        ),
    ],
)
def test_how_its_task_ended(state: str, code: str, reason: str, fakes: Fakes, layout: RunLayout) -> None:
    array(layout, "7", [0])
    ended(fakes, "7", state, code)
    piece(layout, 0, 0)
    assert shard(layout) == MISSING._replace(state="failed", reason=reason, task="7_0", num_windows_done=1)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED"])
@pytest.mark.parametrize("told", ["missing", "begun"])
def test_what_has_not_ended_by_the_accounting_is_no_failure(
    state: str, told: str, fakes: Fakes, layout: RunLayout
) -> None:
    array(layout, "7", [0])
    ended(fakes, "7", state)
    if told == "begun":
        piece(layout, 0, 0, 1, 2)
    status = shard(layout)
    assert (status.state, status.num_windows_done) == (told, 3 if told == "begun" else 0)
    assert status.reason == f"the accounting says {state}, the queue knows nothing"


def test_failed_with_its_tries(fakes: Fakes, layout: RunLayout) -> None:
    fail(layout, 0, 2)
    assert shard(layout) == MISSING._replace(state="failed", reason="2 tries: out of luck")
    array(layout, "7", [0])
    ended(fakes, "7", "FAILED", "6:0")
    assert shard(layout).reason == "2 tries: out of luck", "the shard's own words before the accounting's"


def test_begun_and_left(fakes: Fakes, layout: RunLayout) -> None:
    piece(layout, 0, 0, 1, 2)
    assert shard(layout) == MISSING._replace(state="begun", num_windows_done=3)


def test_hidden_from_us(fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.says("scontrol", CONFIGURATION.replace("none", "jobs"))
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    array(layout, "7", [0], user_id=1, user="anna")
    fail(layout, 0)
    status = run_status(planned(10, 10), layout)
    reason = "job 7 of anna, which this site hides from you"
    assert status.shards == [MISSING._replace(reason=reason), MISSING._replace(shard="shard-00001")]
    assert not status.is_over


def test_the_log_of_a_task_where_it_has_one(fakes: Fakes, layout: RunLayout) -> None:
    one = array(layout, "7", [3], [0])
    ended(fakes, "7", "FAILED", "1:0")
    fakes.says("sacct", "7_1|FAILED|1:0|hpc-embed|here|2099-01-01T00:00:00\n")
    assert (shard(layout).task, shard(layout).log) == ("7_1", "")
    log = layout.logs / one.token / "7_1_0_log.out"
    log.parent.mkdir(parents=True)
    log.touch()
    assert shard(layout).log == str(log)


def test_the_queue_counts_before_the_accounting(fakes: Fakes, layout: RunLayout) -> None:
    """A requeued element is in both."""
    in_queue(fakes, layout, array(layout, "7", [0]), "RUNNING", where="node1")
    ended(fakes, "7", "NODE_FAIL")
    assert shard(layout).state == "running"


def test_without_an_answer_the_files_tell(fakes: Fakes, layout: RunLayout) -> None:
    array(layout, "7", [0])
    finish(layout, 1)
    piece(layout, 0, 0)
    fakes.says("squeue", "", 1, "slurm_load_jobs error: Unable to contact slurm controller\n")
    ended(fakes, "7", "FAILED")
    status = run_status(planned(10, 10), layout)
    assert "Unable to contact slurm controller" in status.slurm
    assert [each.state for each in status.shards] == ["begun", "done"]
    assert [each.task for each in status.shards] == ["", ""]
    assert (status.is_over, status.gather_job) == (False, "")
    assert fakes.calls("sacct") == [], "it would not answer either"


@pytest.mark.parametrize(("state", "is_over"), [("", True), ("PENDING", False), ("RUNNING", False)])
def test_over_is_what_was_submitted_and_is_not_at_work(
    state: str, is_over: bool, fakes: Fakes, layout: RunLayout
) -> None:
    one = array(layout, "7", [0])
    if state:
        in_queue(fakes, layout, one, state)
    assert run_status(planned(10), layout).is_over is is_over


def test_the_gather_job_and_the_dataset(fakes: Fakes, layout: RunLayout) -> None:
    in_queue(fakes, layout, array(layout, "8"), "PENDING", "Dependency")
    status = run_status(planned(10), layout)
    assert (status.gather_job, status.is_over, status.is_gathered) == ("8 (PENDING, Dependency)", False, False)
    layout.dataset_facts.touch()
    assert run_status(planned(10), layout).is_gathered


def test_the_dataset_is_looked_for_by_a_listing_which_makes_a_file_server_look_again(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the looks of `status --watch` and of a rehearsal, NFS would go on telling that it is absent."""
    layout.dataset_facts.touch()
    absent = {layout.dataset_facts}
    exists, names = Path.exists, files.storage.names

    def look_again(folder: Path) -> list[str]:
        absent.difference_update([path for path in absent if path.parent == folder])
        return names(folder)

    monkeypatch.setattr(Path, "exists", lambda path: path not in absent and exists(path))
    monkeypatch.setattr(files.storage, "names", look_again)
    assert run_status(planned(10), layout).is_gathered


def test_several_gather_jobs_are_all_told(fakes: Fakes, layout: RunLayout) -> None:
    queue = ""
    for job in ("8", "9"):
        one = array(layout, job)
        queue += f"{job}|0|PENDING|Dependency||{layout.logs / one.token}/.submission_file_1.sh\n"
    fakes.says("squeue", queue)
    assert run_status(planned(10), layout).gather_job == "8 (PENDING, Dependency), 9 (PENDING, Dependency)"


def test_shards_that_nobody_has_begun_cost_no_question_of_their_own(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece(layout, 1, 0)
    fail(layout, 2)
    asked: list[Path] = []
    storage = files.storage

    class Counting(Storage):
        def names(self, folder: Path) -> list[str]:
            asked.append(folder)
            return storage.names(folder)

        def open_to_read(self, path: Path) -> BinaryIO:
            asked.append(path)
            return storage.open_to_read(path)

    monkeypatch.setattr(files, "storage", Counting())
    states = [shard.state for shard in run_status(planned(*[10] * 9), layout).shards]
    assert states == ["missing", "begun", "failed", *["missing"] * 6]
    own = {path.name for path in asked if path.name.startswith("shard-0000")}
    assert {name[:11] for name in own} == {"shard-00001", "shard-00002"}


def test_a_dataset_that_is_out_of_reach_is_named(
    fakes: Fakes, layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Storage):
        def names(self, folder: Path) -> list[str]:
            if folder == layout.root:
                raise OSError(5, "Input/output error")
            return super().names(folder)

    monkeypatch.setattr(faults, "PAUSES_SECONDS", ())
    monkeypatch.setattr(files, "storage", Away())
    with pytest.raises(EnvironmentFault, match=f"^{re.escape(str(layout.root))}: cannot be read or written"):
        run_status(planned(10), layout)


def test_damaged_submissions_are_noted(fakes: Fakes, layout: RunLayout) -> None:
    (layout.submissions / "20260101-000000-00000000.json").write_text("{")
    notes = run_status(planned(10), layout).notes
    assert len(notes) == 1
    assert "not a whole submission" in notes[0]


def test_the_end_of_a_log(tmp_path: Path) -> None:
    assert last_lines(str(tmp_path / "none")) == []
    (tmp_path / "log").write_bytes(b"1\n2\n3\n4\n  X \n  X\n\xff7")
    assert last_lines(str(tmp_path / "log")) == ["3", "4", "  X ", "  X", "\ufffd7"]
