"""A run folder that another user made: no path leads out of it, nothing of it runs, and it says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpc_embed.cluster.task import embed_shards
from hpc_embed.config import GatherSettings, WorkSettings
from hpc_embed.errors import RunConflict
from hpc_embed.results.gather import gather
from hpc_embed.run.files import remove_tree
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.markers import is_done, read_failure, read_marker
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.run.shard_table import write_shard_table
from hpc_embed.run.temporaries import temporary_sibling


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that is none of ours."""
    folder = tmp_path / "home"
    (folder / "shard-00000").mkdir(parents=True)
    (folder / "shard-00000" / "thesis.tex").write_text("years of work")
    (folder / "shard-00000" / "piece-00001.parquet").write_text("a name like ours")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


PLANS: dict[str, Callable[[dict[str, Any]], object]] = {
    "digest": lambda plan: plan["model"].update(digest="/../../../../tmp/x"),
    "fingerprint": lambda plan: plan.update(fingerprint="../" * 21 + "x"),
    "true for one": lambda plan: plan["totals"].update(num_records=True),
    "text for a number": lambda plan: plan.update(dimension="420"),
    "a number beyond all": lambda plan: plan["cost"].update(linear_flops=10**30),
    "no shards": lambda plan: plan.update(num_shards=0),
    "shards in a list": lambda plan: plan.update(num_shards=[]),
    "a list for a name": lambda plan: plan["model"].update(registry_name=["os", "system"]),
    "another kind": lambda plan: plan.update(kind="rna"),
    "one field more": lambda plan: plan.update(__class__="os"),
    "inputs": lambda plan: plan.update(inputs={"a": 1}),
    "no dimension": lambda plan: plan.update(dimension=0),
    "a dimension beyond all": lambda plan: plan.update(dimension=(1 << 20) + 1),
    "shards in part": lambda plan: plan.update(num_shards=1.5),
    "fewer than no shards": lambda plan: plan.update(num_shards=-1),
    "a number one beyond all": lambda plan: plan["cost"].update(linear_flops=1 << 62),
    "an intake of nobody": lambda plan: plan.update(intake={"nobody": 1}),
}


def change_plan(layout: RunLayout, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Whoever writes a plan can leave its checksums out, as an older version did."""
    content: dict[str, Any] = json.loads(layout.plan.read_text())
    del content["sha256"], content["shard_table_sha256"]
    change(content)
    layout.plan.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_of_ours_is_refused(name: str, done: tuple[Plan, RunLayout]) -> None:
    _, layout = done
    change_plan(layout, PLANS[name])
    with pytest.raises(RunConflict, match=r"not a whole plan \((?!its checksum)"):
        read_plan(layout.plan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plan: plan.update(fingerprint="0" * 63), "fingerprint is '000"),
        (lambda plan: plan["model"].update(digest="g" * 64), "model.digest is 'ggg"),
        (lambda plan: plan.update(num_shards=0), "num_shards is 0"),
        (lambda plan: plan["totals"].update(num_tokens=-1), "num_tokens is -1"),
    ],
)
def test_what_is_odd_about_a_plan_is_named(
    change: Callable[[dict[str, Any]], object], words: str, done: tuple[Plan, RunLayout]
) -> None:
    _, layout = done
    change_plan(layout, change)
    with pytest.raises(RunConflict, match=words):
        read_plan(layout.plan)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(dimension=1),
        lambda plan: plan.update(dimension=1 << 20),
        lambda plan: plan.update(kind="dna"),
        lambda plan: plan.update(num_shards=1),
        lambda plan: plan.update(intake={"gaps": "drop"}),
        lambda plan: plan["cost"].update(linear_flops=(1 << 62) - 1),
    ],
)
def test_the_extremes_of_what_a_plan_may_say_are_taken(
    change: Callable[[dict[str, Any]], object], done: tuple[Plan, RunLayout]
) -> None:
    _, layout = done
    content = change_plan(layout, change)
    plan = read_plan(layout.plan)
    assert len(plan.shards) == content["num_shards"]
    assert plan.intake.settings == content.get("intake", {})


def test_windows_that_the_shards_do_not_have_get_no_room(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    false = replace(plan, totals=replace(plan.totals, num_unique_windows=10**12))
    with pytest.raises(RunConflict, match="the shards do not add up to the windows"):
        gather(false, layout, GatherSettings(wait_seconds=0))


def test_a_shard_of_less_than_nothing_is_refused(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    write_shard_table(
        layout.plan.with_name("shards.parquet"), [replace(facts, num_windows=-1) for facts in plan.shards]
    )
    with pytest.raises(RunConflict, match="a number below 0"):
        list(read_plan(layout.plan).shards)


MARKERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another shard's": lambda marker: marker.update(shard="../../home/shard-00000"),
    "rows": lambda marker: marker.update(rows="many"),
    "negative bytes": lambda marker: marker.update(num_bytes=-1),
    "failed windows": lambda marker: marker.update(failed_windows={"../x": "y"}),
    "failed windows in a list": lambda marker: marker.update(failed_windows=[1]),
    "facts": lambda marker: marker.update(facts=None),
    "precision": lambda marker: marker["facts"].update(precision=["fp32"]),
    "canary": lambda marker: marker["facts"].update(canary=7),
    "one field more": lambda marker: marker.update(__reduce__="os.system"),
}


@pytest.mark.parametrize("name", MARKERS)
def test_a_marker_that_is_none_of_ours_counts_as_none(name: str, done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    content = json.loads(layout.marker(0).read_text())
    MARKERS[name](content)
    layout.marker(0).write_text(json.dumps(content))
    assert read_marker(layout.outputs, "shard-00000") is None
    assert not is_done(layout.outputs, "shard-00000", plan.fingerprint)


JUNK = ["", "[]", "null", "{", "[" * 100_000, '{"a": 1}', '{"shard": "x", "reason": 1, "tries": 2}']


@pytest.mark.parametrize("text", JUNK, ids=range(len(JUNK)))
def test_junk_in_the_place_of_a_marker_a_failure_or_a_plan_is_no_traceback(
    text: str, done: tuple[Plan, RunLayout]
) -> None:
    _, layout = done
    for path in (layout.marker(0), layout.failure(0), layout.plan):
        path.write_text(text)
    assert read_marker(layout.outputs, "shard-00000") is None
    assert read_failure(layout.outputs, "shard-00000") is None
    with pytest.raises(RunConflict):
        read_plan(layout.plan)


@pytest.mark.parametrize("name", ["work", "outputs", "dataset", "shards"])
def test_a_link_in_the_place_of_a_folder_is_refused_and_leads_nowhere(
    name: str, done: tuple[Plan, RunLayout], victim: Path
) -> None:
    plan, layout = done
    before = contents(victim)
    place = layout.root / name
    if place.exists():
        place.rename(layout.root.parent / f"{name} as it was")
    place.symlink_to(victim)
    with pytest.raises(RunConflict, match="is a link"):
        embed_shards(plan, layout, [0, 1], WorkSettings(workers=1), ["cpu"])
    with pytest.raises(RunConflict, match="is a link"):
        gather(plan, layout, GatherSettings(wait_seconds=0))
    assert contents(victim) == before


def test_what_a_link_leads_to_is_never_removed(tmp_path: Path, victim: Path) -> None:
    before = contents(victim)
    (tmp_path / "work").mkdir()
    link = tmp_path / "work" / "shard-00000"
    link.symlink_to(victim / "shard-00000")
    Pieces(link, "f").clear()
    assert not link.is_symlink()
    inner = tmp_path / "work" / "shard-00001"
    inner.mkdir()
    (inner / "link").symlink_to(victim)
    remove_tree(inner)
    leftover = temporary_sibling(tmp_path / "work" / "x")
    leftover = leftover.with_name(leftover.name[:-32] + "0" * 16 + leftover.name[-16:])
    leftover.symlink_to(victim)
    remove_leftovers(tmp_path / "work")
    assert contents(victim) == before
    assert not inner.exists()
