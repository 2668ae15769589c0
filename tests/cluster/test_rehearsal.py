"""A rehearsal on a site that is played, and on sites where one thing or another does not work."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpc_embed.cluster import rehearsal
from hpc_embed.cluster.rehearsal import rehearse
from hpc_embed.cluster.site import Finding
from hpc_embed.cluster.submission import Submission, read_submissions
from hpc_embed.config import GatherSettings, SubmitSettings
from hpc_embed.results.gather import gather
from hpc_embed.run.faults import PAUSES_SECONDS
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan
from hpc_embed.workers.registry import make_worker
from tests.cluster.conftest import Fakes
from tests.cluster.test_sbatch import command_of, options_of

STEPS = ["plan", "submit", "kill", "nodes", "requeue", "missing", "submit again", "gather", "verdict"]


class Site:
    """A cluster whose clock goes on where the rehearsal waits; `lacks` says what does not work on it."""

    def __init__(self, fakes: Fakes, folder: Path, lacks: str = "") -> None:
        self.fakes, self.lacks = fakes, lacks
        self.folder = folder
        self.layout = RunLayout(folder / "run")
        self.num_looks = 0
        (fakes.folder / "queue").touch()
        fakes.does("squeue", 'cat "${0%/*}/queue"')
        fakes.takes_jobs(afterwards='echo "$((100 + n))|0|PENDING|None||$script" >>"${0%/*}/queue"')

    def go_on(self, seconds: float) -> None:
        """What has come about when the rehearsal looks again."""
        assert seconds == rehearsal.POLL_SECONDS
        self.num_looks += 1
        if self.lacks == "patience":
            raise KeyboardInterrupt
        if self.lacks == "room":
            self.queue(("101", 0, "PENDING", "Resources"), ("101", 1, "PENDING", "Priority"))
        elif "104" in self.jobs():
            self.second_round()
        elif any("101_1" in call for call in self.fakes.calls("scancel")):
            self.after_the_kill()
        elif self.lacks == "a queue that keeps jobs" or self.num_looks in (1, 2, 4, 5):
            self.queue()  # it may know nothing of a job for a moment
        elif self.num_looks == 3:
            self.queue(("101", 1, "PENDING", "Priority"))
        else:
            self.queue(
                ("101", 0, "RUNNING", "node1"), ("101", 1, "RUNNING", "node2"), ("101", 2, "PENDING", "Priority")
            )

    def after_the_kill(self) -> None:
        self.fakes.says(
            "sacct",
            "101_1|CANCELLED by 1000|0:15|hpc-embed|here|2099-01-01T00:00:00\n"
            "101_2|FAILED|6:0|hpc-embed|here|2099-01-01T00:00:00\n",
        )
        working = {"shared storage": [], "requeueing": [0], "killing": [0, 1, 2]}.get(self.lacks, [0, 2])
        if not self.layout.output(2).exists() and self.num_looks % 2:
            self.queue(("101", 2, "RUNNING", "node3"))
            return
        self.queue()
        self.embed(*working)
        if self.lacks == "a gather job that waits":
            self.layout.dataset_facts.write_text("{}")

    def second_round(self) -> None:
        self.queue()
        self.embed(1)
        if self.lacks != "gathering":
            gather(read_plan(self.layout.plan), self.layout, GatherSettings())

    def embed(self, *shards: int) -> None:
        plan = read_plan(self.layout.plan)
        worker = make_worker(plan.model, plan.embedding, num_threads=1)
        paths = [self.layout.shard(index) for index in shards if not self.layout.output(index).exists()]
        worker.process_files_worker(
            paths, "cpu", 4096, self.layout.outputs, fingerprint=plan.fingerprint, work_dir=self.layout.work
        )

    def submissions(self) -> list[Submission]:
        return sorted(read_submissions(self.layout)[0], key=lambda one: one.job)

    def jobs(self) -> list[str]:
        return [one.job for one in self.submissions()]

    def queue(self, *elements: tuple[str, int, str, str]) -> None:
        folders = {one.job: self.layout.logs / one.token for one in self.submissions()}
        lines = [f"{job}|{index}|{state}|{why}|{why}|{folders[job]}/1.sh\n" for job, index, state, why in elements]
        (self.fakes.folder / "queue").write_text("".join(lines))

    def rehearsal(self, settings: SubmitSettings | None = None, minutes: float = 5.0) -> Iterator[Finding]:
        return rehearse(self.folder, settings or SubmitSettings(), minutes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rehearsal"


def site(fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch, lacks: str = "") -> Site:
    made = Site(fakes, folder, lacks)
    monkeypatch.setattr(rehearsal, "time", SimpleNamespace(sleep=made.go_on, monotonic=time.monotonic))
    return made


def test_on_a_site_that_works_every_step_is_well_and_nothing_stays(
    fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SubmitSettings(
        partition="gpu",
        time_minutes=6000,
        shards_per_task=3,
        setup=("module load cuda",),
        gather=False,
        dry_run=True,
        print_script=True,
    )
    here = site(fakes, folder, monkeypatch)
    found = []
    for finding in here.rehearsal(settings):
        found.append(finding)
        if finding.what == "plan":
            plan = read_plan(here.layout.plan)
            assert plan.inputs[0].path == str(folder / "rehearsal.fasta")
            totals = plan.totals
            assert (totals.num_records, totals.num_residues, totals.num_unknown_letters) == (64, 64 * 120, 0)
        if finding.what == "gather":
            assert [one.tasks for one in here.submissions()] == [("0", "1", "2"), (), ("1",), ()]
    assert [one.what for one in found] == STEPS
    assert all(one.is_well for one in found)
    details = {one.what: one.detail for one in found}
    assert details["plan"] == f"64 records in 3 shards, {folder}/run"
    assert details["submit"] == "array 101, gather job 102"
    assert details["kill"] == "element 101_1 cancelled while it ran on node2"
    assert "element 101_2 " in details["requeue"]
    assert details["missing"].endswith("its task was cancelled (exit code 0:15)")
    assert details["submit again"].endswith("as job 103")
    assert details["gather"].startswith("64 records")
    assert details["nodes"] == "they see the run folder and this Python, and publish there"
    assert details["verdict"] == (
        "this site runs hpc-embed: what is stopped is requeued, what is killed submitted again"
    )
    assert not folder.exists()
    assert fakes.calls("scancel")[0] == "101_1"

    first, waiting, again, _ = fakes.scripts()
    assert (options_of(first)["array"], options_of(again)["array"]) == ("0-2", "0-0")
    assert (options_of(first)["partition"], options_of(first)["time"]) == ("gpu", "10")
    assert {"--devices=cpu", "--workers=1"} <= set(command_of(first))
    assert "--wait-seconds=5.0" in command_of(waiting)
    trouble = (
        'case "$SLURM_ARRAY_TASK_ID:${SLURM_RESTART_COUNT:-0}" in 1:0) sleep 600 ;; 2:0) export HPC_EMBED_STOP_AT=0'
    )
    assert f"module load cuda\n{trouble}" in first
    assert trouble not in again
    assert "module load cuda" in again


@pytest.mark.parametrize(
    ("lacks", "steps", "words"),
    [
        ("a queue that keeps jobs", 2, "the queue did not start it, and nothing is queued any more"),
        ("shared storage", 3, "no element did its work"),
        ("requeueing", 4, "element 101_2 asked for another start and got none. its task failed (exit code 6:0)"),
        ("killing", 5, "the killed element is not missed"),
        ("a gather job that waits", 5, "the killed element is not missed"),
        ("gathering", 7, "nothing was gathered"),
    ],
)
def test_what_does_not_work_is_the_verdict_and_the_folder_stays(
    lacks: str, steps: int, words: str, fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(fakes, folder, monkeypatch, lacks)
    found = list(here.rehearsal())
    assert [one.what for one in found] == [*STEPS[:steps], "verdict"]
    assert [one.is_well for one in found] == [True] * steps + [False]
    assert words in found[-1].detail
    assert found[-1].detail.endswith(f"What there is lies in {folder}.")
    assert here.layout.plan.exists()
    assert sorted(fakes.calls("scancel")[-1].split()) == ["--quiet", *here.jobs()]


@pytest.mark.parametrize(("times", "stays"), [(2, False), (99, True)])
def test_a_folder_into_which_the_last_job_still_writes_is_removed_later_or_told(
    times: int, stays: bool, fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []
    waits: list[float] = []

    def rmtree(path: Path) -> None:
        monkeypatch.setattr(rehearsal, "time", SimpleNamespace(sleep=waits.append))
        removed.append(path)
        if len(removed) <= times:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", "run")
        shutil.rmtree(path)

    here = site(fakes, folder, monkeypatch)
    monkeypatch.setattr(rehearsal, "shutil", SimpleNamespace(rmtree=rmtree))
    *_, last = here.rehearsal()
    assert last.is_well
    assert folder.exists() == stays
    assert set(removed) == {folder}
    assert waits == list(PAUSES_SECONDS[:times])
    assert last.detail.endswith(f"submitted again ({folder} could not be removed)" if stays else "submitted again")


def test_a_queue_that_has_no_room_in_time_is_told_with_its_reasons(
    fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(fakes, folder, monkeypatch, "room")
    seconds = iter([1000.0] + [1060.0] * 3 + [1060.1])
    monkeypatch.setattr(rehearsal, "time", SimpleNamespace(sleep=here.go_on, monotonic=lambda: next(seconds)))
    *_, last = here.rehearsal(minutes=1.0)
    assert last.detail.startswith("the queue did not start it in time (Priority, Resources); --rehearse-minutes")
    assert here.num_looks == 3
    assert [sorted(call.split()) for call in fakes.calls("scancel")] == [["--quiet", "101", "102"]]


def test_ctrl_c_leaves_nothing_in_the_queue(fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site(fakes, folder, monkeypatch, "patience")
    with pytest.raises(KeyboardInterrupt):
        list(here.rehearsal())
    assert [sorted(call.split()) for call in fakes.calls("scancel")] == [["--quiet", "101", "102"]]
    assert here.layout.plan.exists()


def test_a_refusal_of_sbatch_is_the_verdict(fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = site(fakes, folder, monkeypatch)
    fakes.takes_jobs(most=0, refusal="sbatch: error: Invalid partition name specified")
    *_, last = here.rehearsal()
    assert (last.what, last.is_well) == ("verdict", False)
    assert "Invalid partition name specified" in last.detail
    assert fakes.calls("scancel") == [], "there is nothing to take back"


def test_jobs_that_have_ended_meanwhile_need_no_cancelling(
    fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.does("scancel", '[ "$1" != --quiet ] || exit 1')
    *_, last = site(fakes, folder, monkeypatch, "requeueing").rehearsal()
    assert "asked for another start and got none" in last.detail


@pytest.mark.parametrize("log", ["one\ntwo\nthree\n", ""])
def test_the_end_of_a_failed_elements_log_is_told(
    log: str, fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(fakes, folder, monkeypatch, "requeueing")
    for step in here.rehearsal():
        if step.what == "kill" and log:
            path = here.layout.logs / here.submissions()[0].token / "101_2_0_log.out"
            path.write_text(log)
    if log:
        assert step.detail.startswith(
            "element 101_2 asked for another start and got none. its task failed (exit code 6:0); "
            "its task was cancelled (exit code 0:15)"
        )
        assert f"{path} ends: two / three" in step.detail
    else:
        assert f"no log was written: is {folder}/run on storage that nodes share?" in step.detail


def test_more_shards_than_one_to_submit_again_are_a_fault(
    fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = site(fakes, folder, monkeypatch)
    for step in here.rehearsal():
        if step.what == "missing":
            here.layout.marker(0).unlink()
    assert (step.what, step.is_well) == ("verdict", False)
    assert step.detail.startswith("2 shards were submitted again instead of one.")


def test_a_record_without_a_vector_is_a_fault(fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rehearsal, "gather", lambda *arguments: gather(*arguments)._replace(statuses={"embedded": 63, "failed": 1})
    )
    *_, last = site(fakes, folder, monkeypatch).rehearsal()
    assert last.detail.startswith("records by status: {'embedded': 63, 'failed': 1}.")


def test_a_folder_that_is_there_already_is_left_alone(
    fakes: Fakes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    with pytest.raises(FileExistsError):
        list(site(fakes, folder, monkeypatch).rehearsal())
    shutil.rmtree(folder)
