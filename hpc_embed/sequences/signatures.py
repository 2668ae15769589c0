"""What is no FASTA, told by its first bytes: its name, and what makes FASTA of it."""

from __future__ import annotations

import re
from typing import NamedTuple

EXTRACT = "Take the FASTA out of it."
SAVE = "Save it as plain text, in FASTA."
EXPORT = "Export FASTA from the program that wrote it."
UTF_8 = "Write it in UTF-8: iconv -f UTF-16 -t UTF-8 x > x.fasta."
DOWNLOAD = "Download it again, and look at what came instead."
SAMTOOLS = "Make FASTA of it: samtools fasta x > x.fasta."


class Signature(NamedTuple):
    """How a kind of file begins."""

    begins: re.Pattern[bytes]
    name: str
    remedy: str


def _biopython(format: str) -> str:
    return f"Convert it: Bio.SeqIO.convert('x', '{format}', 'x.fasta', 'fasta')."


def _signatures(*rows: tuple[bytes, str, str], flags: int) -> list[Signature]:
    return [Signature(re.compile(begins, flags), name, remedy) for begins, name, remedy in rows]


BINARY = _signatures(
    (rb"PK\x03\x04.{0,400}(?:\[Content_Types\]|word/|xl/)", "a Word or Excel file", SAVE),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive", "Take the FASTA out of it: unzip -p x.zip | hpc-embed … -."),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word or Excel file", SAVE),
    (rb"\{\\rtf", "rich text (RTF)", SAVE),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", EXTRACT),
    (rb"Rar!\x1a\x07", "a rar archive", EXTRACT),
    (rb".{257}ustar", "a tar archive", "Take the FASTA out of it: tar -xOf x.tar | hpc-embed … -."),
    (rb"\x1f\x9d", "compressed by compress (.Z)", "Unpack it: gzip -dc x.Z | hpc-embed … -."),
    (rb"\x04\x22\x4d\x18", "compressed by lz4", "Unpack it: lz4 -dc x.lz4 | hpc-embed … -."),
    (rb"LZIP", "compressed by lzip", "Unpack it: lzip -dc x.lz | hpc-embed … -."),
    (rb"\x5d\0\0.{2}(?:\xff{8}|.{4}\0{4})", "compressed by lzma", "Unpack it: xz -dc x.lzma | hpc-embed … -."),
    (rb"BAM\x01", "BAM", SAMTOOLS),
    (rb"CRAM[\x02\x03]", "CRAM", SAMTOOLS),
    (rb"BCF\x02", "BCF, which holds variants", DOWNLOAD),
    (rb"NCBI\.sra", "an archive of NCBI's SRA", "Make FASTA of it: fasterq-dump --fasta x.sra."),
    (rb"\x1a\x41\x27\x43|\x43\x27\x41\x1a", "2bit", "Make FASTA of it: twoBitToFa x.2bit x.fasta."),
    (rb"%PDF-", "a PDF", SAVE),
    (rb"SQLite format 3\0", "an SQLite database", EXPORT),
    (rb"\x89HDF\r\n\x1a\n", "HDF5", EXPORT),
    (rb"PAR1", "Parquet", "Write its sequences as a table (CSV), and name their column with --sequence-column."),
    (rb"ARROW1", "Arrow", "Write its sequences as a table (CSV), and name their column with --sequence-column."),
    (rb"\x93NUMPY", "a NumPy array", EXPORT),
    (rb"\x80[\x02-\x05].", "a pickle", EXPORT),
    (rb"ABIF", "a trace of a sequencer (ABI)", _biopython("abi")),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|II\*\0|MM\0\*", "a picture", DOWNLOAD),
    (rb"\x7fELF", "a program", DOWNLOAD),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32", UTF_8.replace("16", "32")),
    (rb"\xff\xfe|\xfe\xff|(?:[\t-~]\0){2}|(?:\0[\t-~]){2}", "UTF-16", UTF_8),
    flags=re.DOTALL,
)
TEXT = _signatures(
    (rb"<!doctype html|<html|<head|<body", "a page of HTML", DOWNLOAD),
    (rb"<\?xml|<!doctype|<[a-z]", "XML", EXPORT),
    (rb"[{\[]\s*[\"{\[\]}]", "JSON", EXPORT),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file", "Get the file: git lfs pull."),
    (rb"LOCUS {2}", "GenBank", _biopython("genbank")),
    (rb"ID {3}.*\bAA\.", "UniProt's text", _biopython("swiss")),
    (rb"ID {3}", "EMBL", _biopython("embl")),
    (rb"# STOCKHOLM", "Stockholm", _biopython("stockholm")),
    (rb"CLUSTAL|MUSCLE|PROBCONS", "Clustal", _biopython("clustal")),
    (rb"#NEXUS", "NEXUS", _biopython("nexus")),
    (rb"#(?:mega|MEGA)", "MEGA", EXPORT),
    (rb"\d+[ \t]+\d+\s*$", "PHYLIP", _biopython("phylip-relaxed")),
    (rb"HMMER[23]", "a profile of HMMER", "Its consensus is FASTA: hmmemit -c x.hmm > x.fasta."),
    (rb"HEADER {4}|(?:ATOM|HETATM) +\d|REMARK +\d|TITLE {5}", "PDB", _biopython("pdb-atom")),
    (rb"data_\S", "mmCIF", _biopython("cif-atom")),
    (rb"@(?:HD\tVN|SQ\tSN|RG\tID|PG\tID):", "SAM", SAMTOOLS),
    (rb"##fileformat=VCF", "VCF, which holds variants", DOWNLOAD),
    (rb"##gff-version", "GFF", "Give the FASTA that belongs to it: gffread -x x.fasta -g genome.fa x.gff."),
    (rb"##maf", "MAF", _biopython("maf")),
    (rb"[A-Z*\-]{20,}\s*$", "a sequence without a header", "Put a line like >name in front."),
    flags=re.IGNORECASE | re.MULTILINE,
)


def signature_of(head: bytes, *, is_text: bool) -> Signature | None:
    """What a source that begins so is, if it is known; with `is_text` also what kind of text."""
    known = [*BINARY, *TEXT] if is_text else BINARY
    text = head.lstrip()
    return next((one for one in known if one.begins.match(text if one in TEXT else head)), None)
