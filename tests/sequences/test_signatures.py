"""What is no FASTA is named in the refusal, with what makes FASTA of it."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from Bio import SeqIO, bgzf
from Bio.Seq import Seq
from Bio.SeqRecord import SeqRecord

from hpc_embed import cli
from hpc_embed.errors import BadInput
from hpc_embed.sequences.formats import refuse_others
from hpc_embed.sequences.tables import Columns
from tests.planning.test_intake import plan

FASTA = ">a\nMKVLAAGIVG\n>b\nMKVL\n"


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, FASTA)
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        facts = tarfile.TarInfo("x.fasta")
        facts.size = len(FASTA)
        archive.addfile(facts, io.BytesIO(FASTA.encode()))
    return content.getvalue()


def by_biopython(format: str) -> bytes:
    text = io.StringIO()
    records = [SeqRecord(Seq("ACGT"), id=name, annotations={"molecule_type": "DNA"}) for name in ("a", "b")]
    SeqIO.write(records, text, format)
    return text.getvalue().encode()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "x.db") as connection:
        connection.execute("create table x (sequence text)")
    connection.close()
    return (folder / "x.db").read_bytes()


def array() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


def tables() -> tuple[bytes, bytes]:
    parquet, arrow = io.BytesIO(), io.BytesIO()
    table = pa.table({"id": ["a"]})
    pq.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as file:
        file.write(table)
    return parquet.getvalue(), arrow.getvalue()


def hdf5() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["x"] = 1
    return content.getvalue()


def bam() -> bytes:
    content = io.BytesIO()
    with bgzf.BgzfWriter(fileobj=content) as file:
        file.write(b"BAM\x01" + bytes(100))
        file.flush()
        return content.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        (zipped("x.fasta"), "a zip archive", "unzip -p x.zip"),
        (zipped("[Content_Types].xml"), "a Word or Excel file", "Save it as plain text"),
        (zipped("word/document.xml"), "a Word or Excel file", "Save it as plain text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Word or Excel file", "Save it"),
        (rb"{\rtf1 >a\par MKV}", "rich text (RTF)", "Save it"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive", "Take the FASTA out of it."),
        (b"Rar!\x1a\x07\x01\0", "a rar archive", "Take the FASTA out of it."),
        (tarred(), "a tar archive", "tar -xOf"),
        (gzip.compress(tarred()), "a tar archive", "tar -xOf"),
        (b"\x1f\x9d\x90" + bytes(9), "compressed by compress (.Z)", "gzip -dc"),
        (b"\x04\x22\x4d\x18\x64\x40\xa7", "compressed by lz4", "lz4 -dc"),
        (b"LZIP\x01\x0c", "compressed by lzip", "lzip -dc"),
        (b"\x5d\0\0\x80\0" + b"\xff" * 8, "compressed by lzma", "xz -dc"),
        (bam(), "BAM", "samtools fasta"),
        (b"CRAM\x03\0", "CRAM", "samtools fasta"),
        (b"NCBI.sra\x05\x03\x19\x88", "an archive of NCBI's SRA", "fasterq-dump --fasta"),
        (b"\x43\x27\x41\x1a" + bytes(9), "2bit", "twoBitToFa"),
        (b"%PDF-1.7\n%", "a PDF", "Save it as plain text"),
        (hdf5(), "HDF5", "Export FASTA"),
        (tables()[0], "Parquet", "--sequence-column"),
        (tables()[1], "Arrow", "--sequence-column"),
        (array(), "a NumPy array", "Export FASTA"),
        (pickle.dumps([FASTA]), "a pickle", "Export FASTA"),
        (b"\x89PNG\r\n\x1a\n", "a picture", "Download it again"),
        (b"\x7fELF\x02\x01", "a program", "Download it again"),
        (FASTA.encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (FASTA.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (FASTA.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
        (FASTA.encode("utf-32"), "UTF-32", "iconv -f UTF-32 -t UTF-8"),
        (b"\n<!DOCTYPE html>\n<html>", "a page of HTML", "look at what came instead"),
        (b"<html lang=en>", "a page of HTML", "look at what came instead"),
        (b'<?xml version="1.0"?>', "XML", "Export FASTA"),
        (json.dumps({"error": "x"}).encode(), "JSON", "Export FASTA"),
        (json.dumps([{"id": "a"}], indent=2).encode(), "JSON", "Export FASTA"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, not the file", "git lfs pull"),
        (by_biopython("genbank"), "GenBank", "'genbank'"),
        (by_biopython("embl"), "EMBL", "'embl'"),
        (b"ID   CYC_HUMAN    Reviewed;    105 AA.\nAC   P99999;\n", "UniProt's text", "'swiss'"),
        (by_biopython("stockholm"), "Stockholm", "'stockholm'"),
        (by_biopython("clustal"), "Clustal", "'clustal'"),
        (by_biopython("nexus"), "NEXUS", "'nexus'"),
        (by_biopython("phylip"), "PHYLIP", "'phylip-relaxed'"),
        (b"HMMER3/f [3.3]\nNAME  x\n", "a profile of HMMER", "hmmemit -c"),
        (b"HEADER    OXYGEN TRANSPORT\n", "PDB", "'pdb-atom'"),
        (b"ATOM      1  N   MET A   1\n", "PDB", "'pdb-atom'"),
        (b"data_1ABC\n#\n", "mmCIF", "'cif-atom'"),
        (b"@HD\tVN:1.6\tSO:coordinate\n", "SAM", "samtools fasta"),
        (b"@SQ\tSN:chr1\tLN:9\n", "SAM", "samtools fasta"),
        (b"##gff-version 3\n", "GFF", "gffread"),
        (b"##fileformat=VCFv4.2\n", "VCF, which holds variants", "Download it again"),
        (b"##maf version=1\n", "MAF", "'maf'"),
        (b"MKVLAAGIVGLLLAGCSWMK\nMKV\n", "a sequence without a header", "Put a line like >name in front"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_remedy(
    content: bytes, name: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadInput) as told:
        plan(tmp_path / "x", tmp_path / "run")
    assert told.value.message == f"{tmp_path}/x: {name}; FASTA, FASTQ and tables are read."
    assert remedy in told.value.remedy
    assert not (tmp_path / "run").exists()


def test_a_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="x: an SQLite database;"):
        refuse_others(database(tmp_path), "x", None)


@pytest.mark.parametrize(
    "head",
    [b">a\nMKV\n", b"\n >a", b";x\n>a", b"", b"\xef\xbb\xbf>a", b"@r\nACGT\n+\nIIII\n", b"@HD\nA\n+\nI\n", b">P\0"],
)
def test_fasta_and_fastq_are_no_other_kind(head: bytes) -> None:
    refuse_others(head, "x", None)


def test_of_a_table_its_bytes_are_looked_at_and_not_its_words() -> None:
    refuse_others(b"LOCUS  ,sequence\n", "x", Columns("sequence"))
    refuse_others(b"[{,sequence\n", "x", Columns("sequence"))
    with pytest.raises(BadInput, match="x: a Word or Excel file;"):
        refuse_others(zipped("xl/workbook.xml"), "x", Columns("sequence"))


def test_what_nobody_knows_is_refused_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("Error encountered\n>a\nMKV\n")
    assert cli.main(["plan", str(tmp_path / "x"), "--run-dir", str(tmp_path / "run")]) == 3
    assert "x, line 1: not FASTA, the first record does not begin with '>'." in capsys.readouterr().err
