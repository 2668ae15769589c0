"""A gather that fails leaves the dataset that was there; one that is there is not written again without need."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from hpc_embed.config import GatherSettings
from hpc_embed.errors import RunConflict
from hpc_embed.results import gather as gather_module
from hpc_embed.results.checking import check
from hpc_embed.results.gather import gather
from hpc_embed.run import files
from hpc_embed.run.files import put
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.run.storage import Storage

AT_ONCE = GatherSettings(wait_seconds=0)
AS_FLOAT16 = replace(AT_ONCE, dtype="float16")


def contents(layout: RunLayout) -> dict[str, bytes]:
    paths = [*layout.dataset.iterdir(), layout.dataset_facts, layout.dataset_index]
    return {path.name: path.read_bytes() for path in paths}


class Full(Storage):
    """No room for files with this in their name."""

    def __init__(self, part_of_name: str) -> None:
        self.part_of_name = part_of_name

    def sync(self, file: BinaryIO) -> None:
        if self.part_of_name in str(file.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().sync(file)


class WithoutExchange(Storage):
    """As NFS."""

    def exchange(self, one: Path, other: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(one))


@pytest.mark.parametrize("name", ["part-", "dataset-index", "dataset.json"])
def test_on_a_full_disk_the_dataset_that_was_there_stays_and_the_path_is_told(
    name: str, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    before = contents(layout)
    monkeypatch.setattr(files, "storage", Full(name))
    with pytest.raises(OSError, match="No space") as caught:
        gather(plan, layout, AS_FLOAT16)
    assert name in str(caught.value.filename)
    monkeypatch.undo()
    assert contents(layout) == before
    assert check(layout).num_records == 7
    assert not [path for path in layout.root.iterdir() if path.name.startswith(".")]


def test_where_folders_cannot_be_exchanged_the_dataset_that_was_there_counts_as_gathered(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    before = contents(layout)
    monkeypatch.setattr(files, "storage", WithoutExchange())
    with pytest.raises(RunConflict, match="cannot put another in its place"):
        gather(plan, layout, AS_FLOAT16)
    assert contents(layout) == before
    assert not gather(plan, layout, AT_ONCE).is_new
    layout.dataset.rename(layout.root / "moved away")
    assert gather(plan, layout, AS_FLOAT16).is_new


def test_an_upgrade_alone_does_not_copy_the_dataset_again(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    before = contents(layout)
    monkeypatch.setattr(gather_module, "__version__", "9.9.9")
    assert not gather(plan, layout, AT_ONCE).is_new
    assert contents(layout) == before


@pytest.mark.parametrize("damage", ["lost", "flipped", "one more"])
def test_a_part_that_is_not_what_it_was_is_written_again(damage: str, done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    before = contents(layout)
    part = layout.dataset / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "lost":
        part.unlink()
    elif damage == "flipped":
        part.write_bytes(content)
    else:
        part.with_name("part-00001.parquet").write_bytes(content)
    assert gather(plan, layout, AT_ONCE).is_new
    assert contents(layout) == before


def test_of_two_gathers_at_once_with_other_settings_the_one_that_finds_a_mixture_says_so(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done

    def after_another(draft: Path, path: Path) -> None:
        monkeypatch.setattr(gather_module, "put", put)
        gather(plan, layout, AS_FLOAT16)
        put(draft, path)

    monkeypatch.setattr(gather_module, "put", after_another)
    with pytest.raises(RunConflict, match="another gather is at work"):
        gather(plan, layout, AT_ONCE)
    assert gather(plan, layout, AS_FLOAT16).is_new
    assert check(layout).num_records == 7


def test_a_dataset_with_a_row_for_each_window_is_checked(tmp_path: Path) -> None:
    from hpc_embed.config import PlanSettings
    from hpc_embed.planning.planner import make_plan
    from tests.results.embedding import embed

    (tmp_path / "x.fa").write_text(">a\nMKVLAAGIVGMKVLAAGIVG\n>b\nMKV\n")
    layout = RunLayout(tmp_path / "run")
    plan = make_plan(
        PlanSettings(
            fasta=(str(tmp_path / "x.fa"),), model="aa_composition", force_kind=True, num_shards=2,
            pooling="per_window", max_residues=10,
        ),
        layout,
    ).plan  # fmt: skip
    embed(plan, layout)
    gather(plan, layout, AT_ONCE)
    assert check(layout).num_records == 2
