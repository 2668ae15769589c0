"""`gather --check` names what is damaged, and nothing else."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpc_embed.cli import main
from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.results.checking import check
from hpc_embed.results.gather import gather
from hpc_embed.run import files
from hpc_embed.run.files import sha256_of_file
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from tests.fakes import Failing, system_error
from tests.results.test_proof import AT_ONCE

PART = "part-00000.parquet"


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])


def edit(path: Path, **changed: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def pass_for_whole(layout: RunLayout, **part: object) -> None:
    """The facts say what the part is by now, and that it has these."""
    facts = {"sha256": sha256_of_file(layout.dataset / PART), "rows": 7, **part}
    edit(layout.dataset_facts, parts={PART: facts}, num_records=facts["rows"])


def no_parquet(layout: RunLayout) -> None:
    (layout.dataset / PART).write_bytes(b"PAR1 and no more")
    pass_for_whole(layout)


def another_fingerprint(layout: RunLayout) -> None:
    table = pq.read_table(layout.dataset / PART)
    pq.write_table(table.replace_schema_metadata({b"hpc_embed": b'{"fingerprint": "f00"}'}), layout.dataset / PART)
    pass_for_whole(layout)


def no_metadata(layout: RunLayout) -> None:
    pq.write_table(pq.read_table(layout.dataset / PART).replace_schema_metadata(None), layout.dataset / PART)
    pass_for_whole(layout)


DAMAGES: dict[str, tuple[Callable[[RunLayout], object], str]] = {
    "a flipped bit": (lambda layout: flip(layout.dataset / PART), f"{PART} is damaged (the checksum differs)"),
    "a part lost": (lambda layout: (layout.dataset / PART).unlink(), f"{PART} is missing"),
    "a part too many": (
        lambda layout: (layout.dataset / "part-00001.parquet").write_text("x"),
        "part-00001.parquet is not of this dataset",
    ),
    "no Parquet": (no_parquet, f"{PART} is damaged (Parquet magic bytes not found in footer"),
    "another number of rows": (lambda layout: pass_for_whole(layout, rows=8), f"{PART} has 7 rows instead of 8"),
    "another fingerprint": (another_fingerprint, f"{PART} is another dataset's"),
    "no fingerprint": (no_metadata, f"{PART} is another dataset's"),
    "an index lost": (lambda layout: layout.dataset_index.unlink(), "dataset-index.npz is missing"),
    "an index damaged": (
        lambda layout: flip(layout.dataset_index),
        "dataset-index.npz is damaged (the checksum differs)",
    ),
    "fewer records": (
        lambda layout: edit(layout.dataset_facts, num_records=8),
        "dataset.json its parts do not add up to its records",
    ),
    "another plan": (
        lambda layout: edit(layout.plan, fingerprint="0" * 64, sha256=None),
        "plan.json is another plan than that of the dataset",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_check_says_what_is_damaged(
    name: str, done: tuple[Plan, RunLayout], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    assert main(["gather", "--run-dir", str(layout.root), "--check"]) == 0
    assert (
        f"dataset {layout.dataset}: 7 records in 1 parts, as gathered\nfingerprint {plan.fingerprint}, hpc_embed"
        in capsys.readouterr().out
    )
    work, words = DAMAGES[name]
    work(layout)
    assert main(["gather", "--run-dir", str(layout.root), "--check"]) == 4
    told = capsys.readouterr().err
    assert f"{layout.dataset}: {words}" in told
    assert ";" not in told.partition(str(layout.dataset))[2]


@pytest.mark.parametrize(
    ("content", "words"), [(100, "damaged, or of a version that wrote no checksums"), (0, "holds no finished dataset")]
)
def test_facts_that_are_cut_short_or_gone_end_with_4(
    content: int, words: str, done: tuple[Plan, RunLayout], capsys: pytest.CaptureFixture[str]
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    if content:
        layout.dataset_facts.write_bytes(layout.dataset_facts.read_bytes()[:content])
    else:
        layout.dataset_facts.unlink()
    assert main(["gather", "--run-dir", str(layout.root), "--check"]) == 4
    assert words in capsys.readouterr().err


BAD_FACTS: dict[str, object] = {
    "cut short": b'{"parts": {',
    "no object": b"[1, 2]",
    "no parts": {"parts": None},
    "rows of letters": {"parts": {PART: {"rows": "7", "sha256": "0"}}},
    "a checksum of numbers": {"parts": {PART: {"rows": 7, "sha256": 0}}},
    "records of letters": {"num_records": "7"},
    "a fingerprint of numbers": {"fingerprint": 7},
    "an index without a checksum": {"index": {"sha256": 7}},
    "versions of letters": {"versions": "1"},
}


@pytest.mark.parametrize("name", BAD_FACTS)
def test_damaged_facts_are_told_as_such(name: str, done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    change = BAD_FACTS[name]
    if isinstance(change, dict):
        edit(layout.dataset_facts, **change)
    else:
        assert isinstance(change, bytes)
        layout.dataset_facts.write_bytes(change)
    with pytest.raises(RunConflict, match=rf"^{re.escape(str(layout.dataset_facts))}: damaged"):
        check(layout)


def test_a_dataset_of_a_version_without_an_index_is_whole(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)
    facts = json.loads(layout.dataset_facts.read_text())
    del facts["index"]
    layout.dataset_facts.write_text(json.dumps(facts))
    layout.dataset_index.unlink()
    assert check(layout).num_records == 7


def test_of_outputs_that_stay_each_that_is_damaged_or_missing_is_named(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    gather(plan, layout, replace(AT_ONCE, layout="shards"))
    assert check(layout).num_parts == 1
    kept = {index: layout.output(index).read_bytes() for index in range(2)}
    layout.output(0).unlink()
    flip(layout.output(1))
    problems = (
        f"{layout.dataset}: shard-00000.parquet is missing; shard-00001.parquet is damaged (the checksum differs)."
    )
    with pytest.raises(RunConflict, match=f"^{re.escape(problems)}"):
        check(layout)
    for index, content in kept.items():
        layout.output(index).write_bytes(content)
    facts = layout.dataset_facts.read_text()
    edit(layout.dataset_facts, outputs_digest="0")
    with pytest.raises(RunConflict, match=r"dataset: outputs are not those that were gathered\."):
        check(layout)
    layout.dataset_facts.write_text(facts)
    layout.marker(1).unlink()
    with pytest.raises(RunConflict, match=r"dataset: shard-00001\.parquet is damaged"):
        check(layout)


@pytest.mark.parametrize("place", ["dataset.json", PART, "dataset-index.npz", "shard-00001.parquet"])
def test_what_cannot_be_read_for_now_is_named_and_is_not_called_damaged(
    place: str, done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, replace(AT_ONCE, layout="shards"))

    monkeypatch.setattr(files, "storage", Failing(place, system_error(errno.EIO)))
    with pytest.raises(EnvironmentFault, match=rf"{re.escape(place)}: cannot be read or written \(Input/output error"):
        check(layout)


def test_a_part_is_not_called_damaged_for_want_of_memory(
    done: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = done
    gather(plan, layout, AT_ONCE)

    def fail(file: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(EnvironmentFault, match=rf"{re.escape(PART)}: cannot be read or written"):
        check(layout)
