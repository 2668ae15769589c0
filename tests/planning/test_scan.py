"""How a source is cut for its threads, and what is told of letters that a model does not know."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hpc_embed.errors import BadInput
from hpc_embed.planning import scan
from hpc_embed.planning.scan import OpenedInput
from hpc_embed.progress import Silent
from hpc_embed.run.plan import Plan
from hpc_embed.sequences import sources
from hpc_embed.sequences.places import Place
from hpc_embed.sequences.sources import Stretch, look_at
from tests.planning.test_planner import plan as plan_of


def opened_at(folder: Path) -> OpenedInput:
    """A plain FASTA file that nobody has looked at."""
    path = str(folder / "in.fa")
    return OpenedInput(path, None, None, look_at(path), None, "FASTA", None, False)


class Noted:
    """In the place of the threads: what they were given to do."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def submit(self, work: Any, *arguments: Any, **named: Any) -> Future[Any]:
        self.calls.append((work.__name__, *arguments, *named.values()))
        return Future()


def stretches_of(size: int, folder: Path, block: int, part: int) -> list[Stretch]:
    with (folder / "in.fa").open("wb") as file:
        file.truncate(size)
    noted, scanner = Noted(), scan._Scanner(None, folder, Silent(), True)  # type: ignore[arg-type]
    opened = opened_at(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", block)
        patch.setattr(scan, "PART_BYTES", part)
        scanner.submit(noted, 3, opened)  # type: ignore[arg-type]
    assert [call[:4] for call in noted.calls] == [("_stretch", 3, opened.source, at) for at in range(len(noted.calls))]
    assert [call[5] for call in noted.calls] == [False] * (len(noted.calls) - 1) + [True]
    return [call[4] for call in noted.calls]


@pytest.mark.parametrize(
    ("size", "block", "part", "number"),
    [
        (1_600, 1, 1_000, 16),  # sixteen at least
        (1_601, 1, 1_000, 16),
        (1_600, 200, 1_000, 8),  # but none smaller than a block
        (1_600, 201, 1_000, 8),
        (1_600, 5_000, 10_000, 1),
        (160_000, 1, 1_000, 160),  # of a part's size
        (160_500, 1, 1_000, 161),
        (10_240_000, 1, 1_000, 1024),  # and no more than a thousand
        (10_240_001, 1, 1_000, 1024),
        (1, 8, 64, 1),
        (0, 8, 64, 1),
    ],
)
def test_a_file_is_cut_into_stretches_of_one_size(
    size: int, block: int, part: int, number: int, tmp_path: Path
) -> None:
    found = stretches_of(size, tmp_path, block, part)
    assert len(found) == number
    assert found[0].start == 0
    assert found[-1].stop == size
    assert all(one.stop == other.start for one, other in pairwise(found))
    widths = [one.stop - one.start for one in found]
    assert len(set(widths[:-1])) <= 1
    assert 0 <= widths[0] - widths[-1] < max(number, 2)


@pytest.mark.parametrize("change", [{"seen": None}, {"format": "FASTQ"}, {"source": "-"}])
def test_what_is_no_plain_fasta_file_is_streamed(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_text(">a\nMKV\n")
    opened = opened_at(tmp_path)
    noted = Noted()
    scanner = scan._Scanner(None, tmp_path, Silent(), True)  # type: ignore[arg-type]
    scanner.submit(noted, 2, opened._replace(**change))  # type: ignore[arg-type]
    assert noted.calls == [("_stream", 2, opened._replace(**change))]


def plan(folder: Path, text: str, **settings: object) -> Plan:
    (folder / "in.fa").write_text(text)
    return plan_of(folder / "in.fa", folder / "run", force_kind=True, **settings)


ODD = ">long\nMKVJJLAAGIVGLLLAGCSW\n>good\nMKV\n>b first\nMKJV\n>c\nJJ\n"


@pytest.mark.parametrize(("on_long", "first", "number"), [("skip", "line 5, b", 3), ("truncate", "line 1, long", 5)])
def test_the_first_letter_that_the_model_does_not_know_is_told(
    on_long: str, first: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(tmp_path, ODD, on_long=on_long, max_residues=10)
    assert made.totals.num_unknown_letters == number
    said = capsys.readouterr().err
    assert (
        f"{number} letters that esm2_t6_8M:untrained does not know are embedded as unknown; "
        f"the first: {tmp_path}/in.fa, {first}: 'J'." in said
    )


def test_no_word_of_unknown_letters_where_there_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path, ">a\nMKV\n")
    assert "does not know" not in capsys.readouterr().err


def test_the_first_record_at_fault_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"in\.fa, line 1, long: letter 'J' unknown to esm2_t6_8M:untrained"):
        plan(tmp_path, ODD, on_invalid="error")
    with pytest.raises(BadInput, match=r"in\.fa, line 3, record without id: letter '\?'"):
        plan(tmp_path, ">a\nMKV\n> \nMK?V\n>b\nM?\n", on_invalid="error", model="aa_composition")


@pytest.mark.parametrize(
    ("line", "name", "expected"), [(0, "a", "f, line 8, a"), (4, "", "f, line 12, record without id")]
)
def test_a_place_counts_lines_from_one_behind_those_before(line: int, name: str, expected: str) -> None:
    assert Place(line, name, "", "").of("f", 7) == expected


@pytest.mark.parametrize(
    ("length", "stride", "windows"),
    [
        (10, None, 1),
        (11, None, 2),
        (21, None, 3),
        (10, 4, 1),
        (11, 4, 2),
        (14, 4, 2),
        (15, 4, 3),
        (18, 4, 3),
        (19, 4, 4),
    ],
)
def test_windows_of_a_long_record(length: int, stride: int | None, windows: int, tmp_path: Path) -> None:
    letters = ("MKVLAAGIVGLW" * 2)[:length]
    made = plan(tmp_path, f">a\n{letters}\n", stride=stride, max_residues=10)
    assert made.totals.num_windows == windows
    (row,) = pq.read_table(tmp_path / "run" / "records.parquet").to_pylist()
    assert row["status"] == ("embedded" if length <= 10 else "windowed")
    assert len(row["windows"]) == windows


@pytest.mark.parametrize(("case", "number"), [("upper", 5), ("keep", 3)])
def test_u_of_rna_is_counted_in_the_case_that_holds(
    case: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_embed.planning.verdicts.CACHED_BYTES", 3)
    plan(tmp_path, ">a\nUACGUACGuACGU\n>b\nACGu\n", model="nt_v2_50m:untrained", case=case)
    assert f"RNA: {number} U are read as T" in capsys.readouterr().err
