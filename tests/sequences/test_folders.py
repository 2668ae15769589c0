"""What of a folder is taken, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.errors import BadInput
from hpc_embed.sequences.folders import TABLE_ENDINGS
from hpc_embed.sequences.sources import expand_inputs

TAKEN = ("B.FASTA", "a.fa", "c.faa.gz", "d.fq.zst", "e.fna.bgz", "f g.ffn", "h.fa.bz2", "i.fasta.xz")
LEFT_OUT = (".hidden", "notes.txt", "t.tsv", "x.fa.fai")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*TAKEN, *LEFT_OUT):
        (tmp_path / name).touch()
    (tmp_path / "sub.fa").mkdir()
    return tmp_path


def test_files_with_known_endings_are_taken_in_sorted_order_and_the_others_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [Path(source).name for source in expand_inputs([str(folder)])] == sorted(TAKEN)
    assert capsys.readouterr().err == f"{folder}: 8 files are taken, 5 left out: .hidden, notes.txt, sub.fa, …\n"


def test_of_tables_a_folder_gives_its_tables(folder: Path) -> None:
    assert expand_inputs([str(folder)], TABLE_ENDINGS) == [str(folder / "t.tsv")]


def test_a_folder_whose_files_are_all_taken_is_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.fa").touch()
    assert expand_inputs([str(tmp_path)]) == [str(tmp_path / "a.fa")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["1"], "1 files are taken, 1 left out: 1\n"),
        (["1", "2", "3"], "1 files are taken, 3 left out: 1, 2, 3\n"),
        (["1", "2", "3", "4"], "1 files are taken, 4 left out: 1, 2, 3, …\n"),
        (["\x1b[31m"], "1 files are taken, 1 left out: \\x1b[31m\n"),
    ],
)
def test_of_what_is_left_out_three_are_named(
    names: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.fa", *names):
        (tmp_path / name).touch()
    expand_inputs([str(tmp_path)])
    assert capsys.readouterr().err == f"{tmp_path}: {told}"


def test_a_folder_without_any_is_refused(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"sub\.fa: a folder without \.fasta, \.fa,.* Name files with other endings"):
        expand_inputs([str(folder / "sub.fa")])
