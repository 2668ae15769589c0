"""Plans of what users have at hand: the same, byte for byte, as of the FASTA that Biopython makes of it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO, bgzf
from Bio.Seq import Seq, reverse_complement

from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.planning import scan
from hpc_embed.planning.planner import make_plan
from hpc_embed.planning.verdicts import Judge, Judged
from hpc_embed.report.repeating import command_to_repeat
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.sequences import sources
from hpc_embed.sequences.blocks import Block

DRAW = random.Random(5)
READS = ["".join(DRAW.choices("ACGTN", k=DRAW.randint(0, 250))) for _ in range(300)]
PROTEINS = ["".join(DRAW.choices("ACDEFGHIKLMNPQRSTVWY", k=DRAW.randint(1, 250))) for _ in range(100)]
FASTA = "".join(f">r{number} x\n{letters}\n" for number, letters in enumerate(READS))
FASTQ = "".join(f"@r{number} x\n{letters}\n+\n{'I' * len(letters)}\n" for number, letters in enumerate(READS))
COLUMNS = [
    *("ordinal", "id", "description", "length", "source", "status", "reason", "num_unknown", "windows"),
]


def plan(fasta: Path | str, run: Path, **settings: object) -> Plan:
    chosen = {"fasta": (str(fasta),), "num_shards": 3, "plan_threads": 2, **settings}
    return make_plan(PlanSettings(**chosen), RunLayout(run)).plan  # type: ignore[arg-type]


def made(run: Path) -> tuple[list[dict[str, object]], list[bytes]]:
    """Records and shards of a run, but for the lines."""
    rows = pq.read_table(run / "records.parquet", columns=COLUMNS).to_pylist()
    return rows, [path.read_bytes() for path in sorted(run.glob("shards/*.parquet"))]


@pytest.fixture(params=["plain", "gzip", "bgzip", "zstd"])
def pack(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def packed(content: str, pack: str, path: Path) -> Path:
    raw = content.encode()
    if pack == "bgzip":
        with bgzf.open(path, "wb") as file:
            file.write(raw)
    elif pack == "zstd":
        path.write_bytes(b"".join(frames(raw)))
    else:
        path.write_bytes(gzip.compress(raw) if pack == "gzip" else raw)
    return path


def frames(raw: bytes) -> list[bytes]:
    return [pa.Codec("zstd").compress(raw[at : at + 9999], asbytes=True) for at in range(0, len(raw), 9999)]


def test_fasta_and_fastq_however_compressed_are_the_plan_of_the_plain_fasta(tmp_path: Path, pack: str) -> None:
    (tmp_path / "whole.fa").write_text(FASTA)
    expected = plan(tmp_path / "whole.fa", tmp_path / "whole")
    for name, content in (("a", FASTA), ("q", FASTQ)):
        found = plan(packed(content, pack, tmp_path / name), tmp_path / f"run-{name}")
        assert found.fingerprint == expected.fingerprint
        assert made(tmp_path / f"run-{name}") == made(tmp_path / "whole")
    assert expected.model.name == "tetranucleotide"


def test_the_records_of_fastq_are_those_of_biopython(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = packed(FASTQ.replace("I\n", "I\n\n"), "gzip", tmp_path / "reads.fq.gz")
    plan(path, tmp_path / "run")
    with gzip.open(path, "rt") as text:
        oracle = [(record.id, len(record.seq)) for record in SeqIO.parse(text, "fastq")]
    rows = pq.read_table(tmp_path / "run/records.parquet").to_pylist()
    assert [(row["id"], row["length"]) for row in rows] == oracle
    assert f"{path}: FASTQ; qualities are dropped.\n" in capsys.readouterr().err


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_table_is_the_plan_of_its_columns(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "whole.fa").write_text("".join(f">p{n}\n{letters}\n" for n, letters in enumerate(PROTEINS)))
    expected = plan(tmp_path / "whole.fa", tmp_path / "whole")
    text = io.StringIO()
    rows = [[f'a "{delimiter}" b', letters, f"p{n}"] for n, letters in enumerate(PROTEINS)]
    csv.writer(text, delimiter=delimiter).writerows([["note", "protein", "name"], *rows])
    (tmp_path / "x.csv").write_text(text.getvalue())
    found = plan(tmp_path / "x.csv", tmp_path / "run", sequence_column="protein", id_column="name")
    assert made(tmp_path / "run") == made(tmp_path / "whole")
    assert [file.digest for file in found.inputs] == [file.digest for file in expected.inputs]
    assert found.intake.settings == {"sequence_column": "protein", "id_column": "name"}


@pytest.mark.parametrize("genetic_code", [1, 11])
def test_translated_shards_hold_the_proteins_of_biopython(tmp_path: Path, genetic_code: int) -> None:
    path = packed(FASTQ, "plain", tmp_path / "x.fq")
    made_plan = plan(path, tmp_path / "run", translate="six-frames", genetic_code=genetic_code, min_orf_residues=20)
    expected = []
    for number, read in enumerate(READS):
        strands = [read[skip : skip + (len(read) - skip) // 3 * 3] for skip in range(3)]
        other = reverse_complement(read)
        strands += [other[skip : skip + (len(read) - skip) // 3 * 3] for skip in range(3)]
        whole = [str(Seq(strand).translate(table=genetic_code)) for strand in strands]
        lengths = [len(part) for frame in whole for part in frame.split("*") if len(part) >= 20]
        expected += [(f"r{number}", length) for length in lengths or [0]]
    rows = pq.read_table(tmp_path / "run/records.parquet").to_pylist()
    assert [(row["id"].partition("|")[0], row["length"]) for row in rows] == expected
    assert {row["reason"] for row in rows if not row["length"]} == {"no stretch of 20 residues"}
    assert {row["line"] for row in rows} == {1 + 4 * number for number in range(len(READS))}
    assert made_plan.model.name == "aa_composition"


def test_u_is_read_as_t_by_a_model_of_dna_and_by_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dna.fa").write_text(">a\nACGTTT\n>b\nacgtNt\n" + ">c\n" + "ACGT" * 30)
    (tmp_path / "rna.fa").write_text(">a\nACGUUU\n>b\nacguNu\n" + ">c\n" + "ACGU" * 30)
    dna = plan(tmp_path / "dna.fa", tmp_path / "dna")
    capsys.readouterr()
    rna = plan(tmp_path / "rna.fa", tmp_path / "rna")
    assert "RNA: 35 U are read as T, the letter that tetranucleotide knows.\n" in capsys.readouterr().err
    assert made(tmp_path / "rna") == made(tmp_path / "dna")
    assert (dna.intake.reads_u_as_t, rna.intake.reads_u_as_t) == (False, True)
    assert plan(tmp_path / "rna.fa", tmp_path / "rna") == read_plan(tmp_path / "rna/plan.json")
    (tmp_path / "p.fa").write_text(">a\nMKUV\n")
    assert plan(tmp_path / "p.fa", tmp_path / "p", model="aa_composition").totals.num_unknown_letters == 1
    kept = plan(tmp_path / "rna.fa", tmp_path / "kept", case="keep", model="tetranucleotide")
    assert kept.totals.num_unknown_letters == 6


def test_an_alignment_is_told_and_read_with_its_gaps_or_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, plain = tmp_path / "x.fa", tmp_path / "plain.fa"
    path.write_text(">a\nMK-VL\n>b\nM..VL\n")
    plain.write_text(">a\nMKVL\n>b\nMVL\n")
    plan(path, tmp_path / "keep", model="esm2_t6_8M:untrained")
    told = f"{path}: an alignment; its gaps are embedded as letters. --gaps drop takes them out.\n"
    assert told in capsys.readouterr().err
    for other in ("y.fa", "z.fa"):
        (tmp_path / other).write_text(path.read_text())
    plan(tmp_path / "[xyz].fa", tmp_path / "three", model="esm2_t6_8M:untrained")
    assert f"{path} and 2 more: an alignment;" in capsys.readouterr().err
    plan(path, tmp_path / "drop", model="esm2_t6_8M:untrained", gaps="drop")
    assert "alignment" not in capsys.readouterr().err
    plan(plain, tmp_path / "plain", model="esm2_t6_8M:untrained")
    assert made(tmp_path / "drop") == made(tmp_path / "plain") != made(tmp_path / "keep")


def test_a_plan_of_plain_fasta_says_nothing_of_intake(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    plan(tmp_path / "x.fa", tmp_path / "run")
    assert "intake" not in json.loads((tmp_path / "run/plan.json").read_text())


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ({}, {"translate": "six-frames"}, "translate"),
        ({"translate": "six-frames"}, {"translate": "longest-orf"}, "translate"),
        ({"translate": "six-frames"}, {"translate": "six-frames", "genetic_code": 11}, "genetic_code"),
        ({"translate": "six-frames"}, {"translate": "six-frames", "min_orf_residues": 31}, "min_orf_residues"),
        ({}, {"gaps": "drop"}, "gaps"),
    ],
)
def test_a_plan_with_another_intake_is_refused_and_named(
    tmp_path: Path, before: dict[str, object], after: dict[str, object], named: str
) -> None:
    (tmp_path / "x.fa").write_text(FASTA)
    plan(tmp_path / "x.fa", tmp_path / "run", **before)
    assert plan(tmp_path / "x.fa", tmp_path / "run", **before) == read_plan(tmp_path / "run/plan.json")
    with pytest.raises(RunConflict, match=named):
        plan(tmp_path / "x.fa", tmp_path / "run", **after)


def test_the_command_to_repeat_a_run_makes_the_same_plan_again(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,dna\na," + "ATGGCTGCT" * 20 + "\n")
    settings = {"sequence_column": "dna", "translate": "longest-orf", "genetic_code": 11, "gaps": "drop"}
    made_plan = plan(tmp_path / "x.csv", tmp_path / "run", **settings)
    command = command_to_repeat(made_plan, "run")
    for words in ("--sequence-column dna", "--translate longest-orf", "--genetic-code 11", "--gaps drop"):
        assert words in command
    assert "--id-column" not in command


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"genetic_code": 11}, UsageError, "--genetic-code 11: nothing is translated. Give --translate"),
        ({"min_orf_residues": 9}, UsageError, "--min-orf-residues 9: nothing is translated."),
        ({"translate": "six-frames", "genetic_code": 7}, UsageError, "--genetic-code 7: NCBI has no such table."),
        ({"id_column": "x"}, UsageError, "--id-column x: no table is read. Give --sequence-column too"),
        (
            {"translate": "six-frames", "model": "dnabert_s:untrained"},
            UsageError,
            "--translate: dnabert_s:untrained embeds nucleotides. Leave --translate out.",
        ),
        ({"translate": "six-frames"}, BadInput, "p.fa: these are proteins, and --translate takes nucleotides."),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, settings: dict[str, object], error: type[Exception], words: str
) -> None:
    (tmp_path / "p.fa").write_text("".join(f">p\n{letters}\n" for letters in PROTEINS))
    with pytest.raises(error) as told:
        plan(tmp_path / "p.fa", tmp_path / "run", **settings)
    assert words in str(told.value)


def test_dna_for_a_protein_model_is_told_of_translation(tmp_path: Path) -> None:
    (tmp_path / "x.fq").write_text("@a\nACGT\n+\nIIII\n")
    with pytest.raises(BadInput, match="Choose another --model, --translate, or insist with --force-kind"):
        plan(tmp_path / "x.fq", tmp_path / "run", model="aa_composition")


def test_a_fault_deep_in_a_file_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(scan, "PART_BYTES", 5000)
    (tmp_path / "x.fq").write_text(FASTQ + "@odd\nACGT-\n+\nIIIII\n")
    line = 4 * len(READS) + 1
    with pytest.raises(BadInput, match=rf"x\.fq, line {line}, odd: letter '-' unknown"):
        plan(tmp_path / "x.fq", tmp_path / "run", on_invalid="error", model="nt_v2_50m:untrained")
    (tmp_path / "x.fq").write_text(FASTQ + "@odd\nACGT\n+\nIIIII\n")
    with pytest.raises(BadInput, match=rf"x\.fq, line {line}: not FASTQ"):
        plan(tmp_path / "x.fq", tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "begin", "place"),
    [
        ("x.fa", ">good\nMK\n>huge\n", "the record that begins with b'>huge'"),
        ("x.fq", "@good\nAC\n+\nII\n@huge\n", "line 5"),
        ("x.tsv", "id\tsequence\ngood\tMK\nhuge\t", "line 3"),
    ],
)
@pytest.mark.long
def test_a_small_file_that_unpacks_to_one_giant_record_is_refused_before_it_fills_the_memory(
    name: str, begin: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 4 << 20
    monkeypatch.setattr(sources, "LONGEST_RECORD", most)
    path = packed(begin + "A" * (16 * most), "gzip", tmp_path / f"{name}.gz")
    settings = {"sequence_column": "sequence"} if name == "x.tsv" else {}
    with pytest.raises(BadInput, match=f"{place}.* longer than {most:,} bytes"):
        plan(path, tmp_path / "run", force_kind=True, plan_threads=1, **settings)
    packed(begin + "A" * (most // 2) + "\n" * (name != "x.fq"), "gzip", path)
    if name != "x.fq":  # which wants qualities too
        assert plan(path, tmp_path / "run", force_kind=True, **settings).totals.num_records == 2


@pytest.mark.parametrize("translate", [None, "six-frames"])
def test_an_interrupted_plan_goes_on_with_its_parts_and_not_with_those_of_another_intake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, translate: str | None
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(scan, "PART_BYTES", 5000)
    (tmp_path / "x.fq").write_text(FASTQ)
    settings = {"translate": translate, "plan_threads": 1}
    plan(tmp_path / "x.fq", tmp_path / "whole", **settings)
    judge, judged = Judge.judge, []

    def interrupted_judge(self: Judge, block: Block) -> Judged:
        judged.append(block)
        if len(judged) == 11:
            raise KeyboardInterrupt
        return judge(self, block)

    with monkeypatch.context() as patched:
        patched.setattr(Judge, "judge", interrupted_judge)
        with pytest.raises(KeyboardInterrupt):
            plan(tmp_path / "x.fq", tmp_path / "run", **settings)
    num_parts = len(list(tmp_path.glob("run/.planning-*/*.json")))
    assert num_parts >= 2

    def counted_judge(self: Judge, block: Block) -> Judged:
        judged.append(block)
        return judge(self, block)

    monkeypatch.setattr(Judge, "judge", counted_judge)
    judged.clear()
    plan(tmp_path / "x.fq", tmp_path / "again", **settings)
    num_all = len(judged)
    judged.clear()
    plan(tmp_path / "x.fq", tmp_path / "run", **settings)
    assert len(judged) <= num_all - 2 * num_parts
    assert made(tmp_path / "run") == made(tmp_path / "whole")
    lines = [pq.read_table(tmp_path / run / "records.parquet")["line"] for run in ("run", "whole")]
    assert lines[0] == lines[1]
