"""The shard table, the folders of a large run, and what names alone say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpc_embed.cluster.task import outlook, own_outlook
from hpc_embed.config import PlanSettings, WorkSettings
from hpc_embed.errors import RunConflict
from hpc_embed.planning.planner import make_plan
from hpc_embed.run import files
from hpc_embed.run.layout import RunLayout, folder_of, shard_folders
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.run.shard_table import ShardFacts, ShardTable, write_shard_table
from hpc_embed.run.storage import Storage
from hpc_embed.run.survey import Survey, survey

FACTS = [ShardFacts(num_windows=n, num_residues=2 * n, num_tokens=3 * n, flops=4 * n) for n in range(2500)]


class Recording(Storage):
    """Counts what is opened and what is listed."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.asked: list[str] = []
        self.listed: list[str] = []

    def open_to_read(self, path: Path):  # type: ignore[no-untyped-def]
        self.opened.append(path.name)
        return super().open_to_read(path)

    def status(self, path: Path):  # type: ignore[no-untyped-def]
        self.asked.append(path.name)
        return super().status(path)

    def names(self, folder: Path) -> list[str]:
        self.listed.append(folder.name)
        return super().names(folder)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    recording = Recording()
    monkeypatch.setattr(files, "storage", recording)
    return recording


def test_a_row_of_the_table_is_read_with_its_thousand_and_once(tmp_path: Path, recording: Recording) -> None:
    write_shard_table(tmp_path / "shards.parquet", FACTS)
    table = ShardTable(tmp_path / "shards.parquet", len(FACTS))
    assert (len(table), recording.opened) == (2500, [])
    assert [table[index] for index in (2007, 2499, -1)] == [FACTS[2007], FACTS[2499], FACTS[2499]]
    assert recording.opened == ["shards.parquet"]
    assert list(table) == FACTS
    assert table == FACTS
    assert recording.opened == ["shards.parquet"] * 2
    assert table[2490:] == FACTS[2490:]
    assert table[-1:5:-1000] == FACTS[-1:5:-1000]
    assert table[-2500] == FACTS[0]
    for other in (FACTS[:-1], [*FACTS[1:], FACTS[0]], [], 7):
        assert table != other
    for beyond in (2500, -2501):
        with pytest.raises(IndexError):
            table[beyond]


@pytest.mark.parametrize("content", [None, b"not Parquet"])
def test_a_shard_table_that_is_not_the_plans_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "shards.parquet"
    write_shard_table(path, FACTS) if content is None else path.write_bytes(content)
    with pytest.raises(RunConflict, match="not the shard table of this plan"):
        ShardTable(path, len(FACTS) + 1)[0]


def test_the_first_thousand_shards_lie_flat_and_the_others_in_sub_folders() -> None:
    root = Path("outputs")
    assert folder_of(root, "shard-00999") == root
    assert folder_of(root, "shard-12345") == root / "012"
    assert folder_of(root, "shard-123456") == root / "123"
    assert shard_folders(root, 2001) == [root, root / "001", root / "002"]


@pytest.fixture
def large_run(tmp_path: Path) -> tuple[Plan, RunLayout]:
    """A plan of 2,500 shards; shard 7 and 1234 are done by their names, 2001 has failed, 2002 is begun."""
    (tmp_path / "x.fa").write_text(">a\nMKV\n")
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "x.fa"),), model="aa_composition", force_kind=True)
    replace(make_plan(settings, layout).plan, shards=FACTS).write(layout.plan)
    for root in (layout.outputs, layout.work):
        for folder in shard_folders(root, 2500):
            folder.mkdir(exist_ok=True)
    for index in (7, 1234):
        layout.output(index).touch()
        layout.marker(index).touch()
    layout.failure(2001).write_text('{"shard": "shard-02001", "reason": "odd", "tries": 9}')
    layout.pieces(2002).mkdir()
    return read_plan(layout.plan), layout


def test_the_whole_run_is_seen_by_listing_its_folders(large_run: tuple[Plan, RunLayout], recording: Recording) -> None:
    plan, layout = large_run
    assert survey(layout, 2500) == Survey(frozenset((7, 1234)), frozenset((2001,)), frozenset((2002,)))
    assert recording.listed == ["outputs", "001", "002", "work", "001", "002"]
    assert recording.opened == []
    recording.listed.clear()
    seen = outlook(plan, layout, WorkSettings())
    assert (len(seen.to_do), list(seen.left_aside)) == (2497, [2001])
    assert recording.opened == ["shard-02001.failed.json"]


def test_a_task_looks_at_its_own_shards_and_at_no_others(
    large_run: tuple[Plan, RunLayout], recording: Recording
) -> None:
    plan, layout = large_run
    assert own_outlook([2000, 2001], plan, layout, WorkSettings()).to_do == [2000]
    assert plan.shards[2000].num_windows == 2000
    touched = {name for name in recording.opened + recording.asked if name.startswith("shard-")}
    assert {name.partition(".")[0] for name in touched} == {"shard-02000", "shard-02001"}
    assert recording.listed == []
    assert len(recording.opened) <= 5


def test_what_another_plan_left_in_the_folder_is_taken_back_when_the_new_one_is_made(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(">a\nMKV\n")
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "x.fa"),), model="aa_composition", force_kind=True)
    make_plan(settings, layout)
    layout.output(0).touch()
    layout.marker(0).write_text("{}")
    assert survey(layout, 1).done == {0}
    layout.plan.unlink()
    make_plan(settings, layout)
    assert survey(layout, 1).done == set()
    assert len(list(layout.withdrawn.iterdir())) == 2
