"""Submissions as they are written down, one `submit` at a time."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_embed.cluster.submission import new_submission, read_submission, read_submissions, submitting
from hpc_embed.errors import RunConflict
from hpc_embed.run.files import this_host
from hpc_embed.run.layout import RunLayout


def test_a_submission_is_read_as_it_was_written(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1234.56789)
    made = new_submission([[0, 1, 2, 5], [7]], "mine", "here")
    made.write(layout)
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{8}", made.token)
    assert (made.tasks, made.job, made.job_name, made.cluster) == (("0-2,5", "7"), "", "mine", "here")
    assert (made.user_id, made.host, made.submitted) == (os.getuid(), this_host(), 1234.568)
    assert read_submission(layout, made.token) == made
    assert (layout.submissions / f"{made.token}.json").exists()
    assert not made.is_gather
    assert new_submission((), "mine-gather", "here").is_gather


def test_whose_it_is_comes_from_the_uid_or_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert new_submission((), "a", "").user == "root"
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert new_submission((), "a", "").user == "3999999999"


@pytest.mark.parametrize(("element", "shards"), [(0, [0, 1, 2, 5]), (1, [7]), (2, []), (99, [])])
def test_shards_of_an_element(element: int, shards: list[int]) -> None:
    made = new_submission([[0, 1, 2, 5], [7]], "mine", "here")
    assert made.shards_of(element) == shards
    assert made.shards() == {0, 1, 2, 5, 7}


def test_one_that_was_taken_back_is_gone_and_may_be_taken_back_twice(layout: RunLayout) -> None:
    made = new_submission([[0]], "mine", "here")
    made.write(layout)
    made.remove(layout)
    made.remove(layout)
    assert read_submissions(layout) == ([], [])


def test_oldest_first_and_of_the_damaged_the_owner(layout: RunLayout) -> None:
    made = new_submission([[0]], "mine", "here")
    for token in ("20260102-000000-00000000", "20260101-000000-00000000"):
        replace(made, token=token).write(layout)
    broken = layout.submissions / "20260103-000000-00000000.json"
    broken.write_text("{")
    (layout.submissions / "lock").touch()
    whole, damaged = read_submissions(layout)
    assert [one.token for one in whole] == ["20260101-000000-00000000", "20260102-000000-00000000"]
    assert [(one.token, one.owner_id) for one in damaged] == [("20260103-000000-00000000", broken.stat().st_uid)]


def test_one_that_is_not_there_is_a_conflict(layout: RunLayout) -> None:
    with pytest.raises(RunConflict):
        read_submission(layout, "20260101-000000-00000000")


def test_two_submits_do_not_work_at_once(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    with submitting(layout), pytest.raises(RunConflict, match="another"), submitting(layout):
        pytest.fail("both are at work")
    with submitting(layout):
        pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "../../precious"),
        ("token", "20260101-000000-ffffffff"),
        ("job", "--help"),
        ("job", 7),
        ("user", None),
        ("user_id", "0"),
        ("submitted", "yesterday"),
        ("tasks", ["0-4000000000"]),
        ("tasks", ["0,x"]),
        ("tasks", [",".join(["0-99999"] * 100_000)]),
        ("tasks", ["0-99999"] * 100_000),
        ("tasks", ["0-2", "2"]),
        ("job", "\u0663"),
        ("host", 3),
    ],
)
def test_what_somebody_else_may_have_written_is_refused(name: str, value: object, layout: RunLayout) -> None:
    """Paths are made of the token, Slurm's commands of the job, lists of the ranges."""
    made = new_submission([[0, 1]], "mine", "here")
    made.write(layout)
    path = layout.submissions / f"{made.token}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(RunConflict, match="not a whole submission"):
        read_submission(layout, made.token)


def test_nesting_without_end_is_no_submission(layout: RunLayout) -> None:
    layout.submissions.mkdir(parents=True, exist_ok=True)
    (layout.submissions / "t.json").write_text("[" * 100_000)
    with pytest.raises(RunConflict, match="not a whole submission"):
        read_submission(layout, "t")
