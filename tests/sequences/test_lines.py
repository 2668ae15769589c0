"""What of a line is sequence, and what is none: text never becomes residues without a word."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from Bio import SeqIO

from hpc_embed import cli
from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.layout import RunLayout
from hpc_embed.screen import printable
from hpc_embed.sequences import kernel
from hpc_embed.sequences.blocks import Block, parse_block
from hpc_embed.sequences.fasta import read_fasta
from hpc_embed.sequences.lines import NotSequence, letters_of
from hpc_embed.sequences.places import Place
from hpc_embed.sequences.translation import Proteins


@pytest.mark.parametrize(
    ("line", "letters", "is_cut"),
    [
        ("MKVL\n", "MKVL", False),
        ("mkVL*\n", "mkVL*", False),
        (" \tMKVL \v\f\n", "MKVL", False),
        ("\n", "", False),
        ("M-K.V?L~\n", "M-K.V?L~", False),
        ("----\n", "----", False),
        ("MK1VL\n", "MK1VL", False),
        ("M#K#\n", "M#K#", False),
        ("M\udcffK\n", "M\udcffK", False),
        ("M[K]V\n", "M[K]V", False),
        (";a comment > here\n", "", True),
        ("1 MKTAYIAKQR QISFVKSHFS\n", "MKTAYIAKQRQISFVKSHFS", True),
        ("MKTAYIAKQR QISFVKSHFS 20\n", "MKTAYIAKQRQISFVKSHFS", True),
        ("61 acgtACGTnn\n", "acgtACGTnn", True),
        ("MKTAYIAKQR QISFVKS\n", "MKTAYIAKQRQISFVKS", True),
        ("ATG CCC TAA\n", "ATGCCCTAA", True),
        ("M\u2003K\x85V\n", "MKV", True),
    ],
)
def test_of_a_line_letters_are_taken_and_comments_numbers_and_blanks_left_out(
    line: str, letters: str, is_cut: bool
) -> None:
    assert letters_of(line) == (letters, is_cut)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("MKT>b\n", "'>' in a sequence, 'MKT>b', as of files joined without a line end"),
        ("MKVLAAGIVGLLLA>b some name\n", "'>' in a sequence, 'AAGIVGLLLA>b some name'"),
        ("MK<mask>VL\n", "'MK<mask>VL' holds a tag or a token in brackets"),
        ("MK\0\0\n", "a control character, '\\x00', in a sequence"),
        ("\x1b[31mMK\n", "a control character, '\\x1b', in a sequence"),
        ("MK\x1a\n", "a control character, '\\x1a', in a sequence"),
        ("MK\x7f\n", "a control character, '\\x7f', in a sequence"),
        ("M\x1cK\n", "a control character, '\\x1c', in a sequence"),
        ("Error encountered when streaming data\n", "'Error encountered when streaming data' is text"),
        ("Internal Error\n", "'Internal Error' is text"),
        ("alpha crystallin B chain - duck\n", "is text"),
        ("MKVL MK MK\n", "is text with blanks between its words"),
        ("No it\n", "is text with blanks between its words"),
        ("Errors Errors Errors Errors Errors ended\n", "'Errors Errors Errors Errors Errors ended' is text"),
        ("MKV\tLLLL\n", "is text with blanks between its words"),
        ("40 40 38 2\n", "'40 40 38 2' is no sequence: most of it is no letters"),
        ("#comment\n", "'#comment' looks like a comment"),
        ("! MKV\n", "'! MKV' looks like a comment"),
        ("60\n", "'60' is no sequence: most of it is no letters"),
        ("((..[[]]))\n", "is no sequence: most of it is no letters"),
        ('{"status": 500}\n', "is no sequence: most of it is no letters"),
        (
            "a long line, of which a message shows the beginning\n",
            "'a long line, of which a message shows th…' is text",
        ),
    ],
)
def test_what_is_no_sequence_is_told_as_what_it_is(line: str, words: str) -> None:
    with pytest.raises(NotSequence) as told:
        letters_of(line)
    assert words in str(told.value)
    assert told.value.remedy.endswith(".")


@pytest.fixture(params=["kernel", "Python"])
def reads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are read by the kernel, or as without a C compiler."""
    if request.param == "Python":
        monkeypatch.setattr(kernel, "_library", lambda: None)


def parsed(content: bytes) -> Block:
    return parse_block(bytearray(content), is_first=True)


@pytest.mark.usefixtures("reads")
def test_any_byte_in_a_line_is_read_alike_with_and_without_the_kernel() -> None:
    for odd in (bytes([byte]) for byte in range(256) if byte not in b"\r\n"):
        for line in (b"MKVL" + odd + b"AAGIVG", b"MKVLAAGIVG" + odd, odd + b"MK", b"MKVLAAG" + odd, odd):
            if line.startswith(b">"):
                continue  # a header
            block = parsed(b">a\n" + line + b"\n>b\nM\n")
            try:
                letters = letters_of(line.decode("utf-8", "surrogateescape")).letters
            except NotSequence as error:
                assert block.fault == (1, None, str(error), error.remedy), line
                continue
            assert block.letters.tobytes() == letters.encode("ascii", "replace") + b"M", line
            assert block.fault is None, line


@pytest.mark.parametrize(
    ("name", "expected"), [("a", "f, line 12, a"), ("", "f, line 12, record without id"), (None, "f, line 12")]
)
def test_a_place_is_told_with_its_line_and_its_record(name: str | None, expected: str) -> None:
    assert Place(4, name, "", "").of("f", 7) == Place(1, name, "", "").moved(3).of("f", 7) == expected


@pytest.mark.usefixtures("reads")
def test_reading_ends_at_the_line_at_fault_and_says_which() -> None:
    block = parsed(b"\n>a\nMK\n>b\nMK>c\n>d\n\0\n")
    assert block.ids.to_pylist() == ["a"]
    assert block.fault is not None
    assert block.fault.of("x.fa", 10) == "x.fa, line 15"


@pytest.mark.usefixtures("reads")
def test_lines_of_which_something_is_left_out_are_counted_with_the_first() -> None:
    block = parsed(b"\n>a\nMK\n>b\n;comment\nMK\n1 MKVL\n>c\nV L\n")
    assert (block.num_cut, block.first_cut, block.num_lines) == (3, 4, 9)
    assert block.letters.tobytes() == b"MKMKMKVLVL"
    assert parsed(b">a\nMK \n>b\n M\n")[-3:] == (0, None, None)
    assert parsed(b";first\n>a\nMK\n")[-3:] == (1, 0, None)


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize("header", [b">P1;CRAB_ANAPL", b">F1;x", b">XX;", b">N3;y "])
def test_the_title_of_pir_does_not_become_residues(header: bytes) -> None:
    fault = parsed(header + b"\r\ntitle\nMK*\n").fault
    assert fault is not None
    assert fault.line == 0
    assert fault.words == "PIR, not FASTA: the line below would become residues"


@pytest.mark.usefixtures("reads")
def test_what_stands_behind_a_carriage_return_in_a_header_does_not_become_residues() -> None:
    for content, line in ((b">a\nM\n>p\rq\nMKV\n", 3), (b">p\rq\r\nMKV\r\n", 1), (b">p\rq\rMKV\n", 2)):
        fault = parsed(content).fault
        assert fault is not None
        assert (fault.line, fault.words[:17]) == (line, "a carriage return")
    for sound in (b">p\rMKV\r>q\rM", b">p\rMKV\r>q\nMK\n", b">p\nMK\rV\n", b">p\r\nMK\r\n"):
        assert parsed(sound).fault is None


@pytest.mark.parametrize("header", [b">P1;size=23", b">N1;a b", b">P2;x", b">sp|P1;x", b">P1"])
def test_other_headers_with_a_semicolon_are_no_pir(header: bytes) -> None:
    assert parsed(header + b"\nMK\n").fault is None


def test_pir_is_read_by_what_the_refusal_names(tmp_path: Path) -> None:
    text = io.StringIO(">P1;CRAB\nalpha crystallin\n  MDITIHNPLI RRPLFSWLAP*\n")
    assert SeqIO.convert(text, "pir", tmp_path / "x.fasta", "fasta") == 1
    assert [record.sequence for record in read_fasta(str(tmp_path / "x.fasta"))] == [b"MDITIHNPLIRRPLFSWLAP"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b">a\nMKT>b\nMKV\n", 2),
        (b">a\nMKT\n" + b"\0" * 4096, 3),
        (b">a\nMKT\nError encountered when streaming data\n>b\nM\n", 3),
        (b">a\nMK<mask>T\n", 2),
        (b">a\nM\n" * 5000 + b">P1;X\ntitle\nMKV*\n", 10001),
        (b">a\nMKT\n<html><body>502 Bad Gateway</body></html>\n", 3),
    ],
)
def test_a_plan_refuses_text_with_file_and_line(
    content: bytes, line: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(content)
    assert cli.main(["plan", str(path), "--model", "aa_composition", "--run-dir", str(tmp_path / "run")]) == 3
    assert f"hpc-embed: {path}, line {line}: " in capsys.readouterr().err
    assert not (tmp_path / "run/plan.json").exists()


@pytest.mark.parametrize("translate", [None, "six-frames"])
def test_a_fault_behind_many_blocks_is_told_with_its_line_whatever_becomes_of_the_records(
    translate: Proteins | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_embed.sequences.sources.BLOCK_BYTES", 1000)
    monkeypatch.setattr("hpc_embed.planning.scan.PART_BYTES", 5000)
    (tmp_path / "x.fa").write_bytes(b">a\nACGTACGT\n" * 2000 + b">b\nACGT\nACG>T\n" + b">a\nACGTACGT\n" * 2000)
    settings = PlanSettings(
        fasta=(str(tmp_path / "x.fa"),), model="aa_composition", translate=translate, force_kind=True
    )
    with pytest.raises(BadInput, match=r"x\.fa, line 4003: '>' in a sequence, 'ACG>T'"):
        make_plan(settings, RunLayout(tmp_path / "run"))


def test_what_is_left_out_is_told_with_its_first_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.fa").write_text(">a\nMKVLA\n" * 50)
    (tmp_path / "b.fa").write_text(";written by hand\n>a\n1 MKVLA AGIVG\n>b\nMK\n")
    sources = (str(tmp_path / "a.fa"), str(tmp_path / "b.fa"))
    plan = make_plan(PlanSettings(fasta=sources, model="aa_composition"), RunLayout(tmp_path / "run")).plan
    assert (plan.inputs[1].num_records, plan.inputs[1].num_residues) == (2, 12)
    assert (
        "warning: of 2 lines comments, numbers of positions or blanks between columns are left out; the first: "
        f"{tmp_path}/b.fa, line 1.\n" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("sp|P1 naïve à", "sp|P1 naïve à"),
        ("a\tb", "a\tb"),
        ("a\xa0b", "a\xa0b"),
        ("a\0b", "a\\x00b"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\x7f\x9b2Jb", "a\\x7f\\x9b2Jb"),
        ("a\u2028b", "a\\u2028b"),
        ("a\udcffb\x01", "a\\xffb\\x01"),
        ("a\x1fb\x0bc", "a\\x1fb\\x0bc"),
    ],
)
def test_control_characters_of_a_header_stand_as_their_numbers(title: str, shown: str) -> None:
    assert printable(title) == shown


@pytest.mark.usefixtures("reads")
def test_any_byte_in_a_header_is_read_alike_with_and_without_the_kernel() -> None:
    for odd in (bytes([byte]) for byte in range(128) if byte not in b"\r\n"):
        header = odd + b"a" + odd + b"bcdefghij" + odd
        block = parsed(b">" + header + b"\nM\n>b" + odd + b"\nMK\n")
        titles = [printable(title.decode().rstrip()) for title in (header, b"b" + odd)]
        assert block.descriptions.to_pylist() == titles
        assert block.ids.to_pylist() == [title.split()[0] for title in titles]
        assert block.lengths_N.tolist() == [1, 2]
