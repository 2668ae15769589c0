"""What is no FASTA, told by its first bytes: its name, and what makes FASTA of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

EXTRACT = "Take the FASTA out of it."
SAVE = "Save it as plain text, in FASTA."
EXPORT = "Export FASTA from the program that wrote it."
UTF_8 = "Write it in UTF-8: iconv -f UTF-16 -t UTF-8 x > x.fasta."
DOWNLOAD = "Download it again, and look at what came instead."
CONVERT = "Convert it: Bio.SeqIO.convert('x', '{}', 'x.fasta', 'fasta').".format
TABLE = "Write its sequences as a table (CSV), and name their column with --sequence-column."
SAMTOOLS = "Make FASTA of it: samtools fasta x > x.fasta."


class Signature(NamedTuple):
    """How a kind of file begins, as a regular expression."""

    begins: bytes
    name: str
    remedy: str


BINARY = [
    Signature(rb"PK\x03\x04.{0,400}(?:\[Content_Types\]|word/|xl/)", "a Word or Excel file", SAVE),
    Signature(rb"PK\x03\x04|PK\x05\x06", "a zip archive", "Take the FASTA out of it: unzip -p x.zip | hpc-embed … -."),
    Signature(rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word or Excel file", SAVE),
    Signature(rb"\{\\rtf", "rich text (RTF)", SAVE),
    Signature(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", EXTRACT),
    Signature(rb"Rar!\x1a\x07", "a rar archive", EXTRACT),
    Signature(rb".{257}ustar", "a tar archive", "Take the FASTA out of it: tar -xOf x.tar | hpc-embed … -."),
    Signature(rb"\x1f\x9d", "compressed by compress (.Z)", "Unpack it: gzip -dc x.Z | hpc-embed … -."),
    Signature(rb"\x04\x22\x4d\x18", "compressed by lz4", "Unpack it: lz4 -dc x.lz4 | hpc-embed … -."),
    Signature(rb"LZIP", "compressed by lzip", "Unpack it: lzip -dc x.lz | hpc-embed … -."),
    Signature(rb"\x5d\0\0.{2}(?:\xff{8}|.{4}\0{4})", "compressed by lzma", "Unpack it: xz -dc x.lzma | hpc-embed … -."),
    Signature(rb"BAM\x01", "BAM", SAMTOOLS),
    Signature(rb"CRAM[\x02\x03]", "CRAM", SAMTOOLS),
    Signature(rb"BCF\x02", "BCF, which holds variants", DOWNLOAD),
    Signature(rb"NCBI\.sra", "an archive of NCBI's SRA", "Make FASTA of it: fasterq-dump --fasta x.sra."),
    Signature(rb"\x1a\x41\x27\x43|\x43\x27\x41\x1a", "2bit", "Make FASTA of it: twoBitToFa x.2bit x.fasta."),
    Signature(rb"%PDF-", "a PDF", SAVE),
    Signature(rb"SQLite format 3\0", "an SQLite database", EXPORT),
    Signature(rb"\x89HDF\r\n\x1a\n", "HDF5", EXPORT),
    Signature(rb"PAR1", "Parquet", TABLE),
    Signature(rb"ARROW1", "Arrow", TABLE),
    Signature(rb"\x93NUMPY", "a NumPy array", EXPORT),
    Signature(rb"\x80[\x02-\x05].", "a pickle", EXPORT),
    Signature(rb"ABIF", "a trace of a sequencer (ABI)", CONVERT("abi")),
    Signature(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|II\*\0|MM\0\*", "a picture", DOWNLOAD),
    Signature(rb"\x7fELF", "a program", DOWNLOAD),
    Signature(rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32", UTF_8.replace("16", "32")),
    Signature(rb"\xff\xfe|\xfe\xff|(?:[\t-~]\0){2}|(?:\0[\t-~]){2}", "UTF-16", UTF_8),
]
TEXT = [
    Signature(rb"<!doctype html|<html|<head|<body", "a page of HTML", DOWNLOAD),
    Signature(rb"<\?xml|<!doctype|<[a-z]", "XML", EXPORT),
    Signature(rb"[{\[]\s*[\"{\[\]}]", "JSON", EXPORT),
    Signature(rb"version https://git-lfs", "a pointer of Git LFS, not the file", "Get the file: git lfs pull."),
    Signature(rb"LOCUS {2}", "GenBank", CONVERT("genbank")),
    Signature(rb"ID {3}.*\bAA\.", "UniProt's text", CONVERT("swiss")),
    Signature(rb"ID {3}", "EMBL", CONVERT("embl")),
    Signature(rb"# STOCKHOLM", "Stockholm", CONVERT("stockholm")),
    Signature(rb"CLUSTAL|MUSCLE|PROBCONS", "Clustal", CONVERT("clustal")),
    Signature(rb"#NEXUS", "NEXUS", CONVERT("nexus")),
    Signature(rb"#(?:mega|MEGA)", "MEGA", EXPORT),
    Signature(rb"\d+[ \t]+\d+\s*$", "PHYLIP", CONVERT("phylip-relaxed")),
    Signature(rb"HMMER[23]", "a profile of HMMER", "Its consensus is FASTA: hmmemit -c x.hmm > x.fasta."),
    Signature(rb"HEADER {4}|(?:ATOM|HETATM) +\d|REMARK +\d|TITLE {5}", "PDB", CONVERT("pdb-atom")),
    Signature(rb"data_\S", "mmCIF", CONVERT("cif-atom")),
    Signature(rb"@(?:HD\tVN|SQ\tSN|RG\tID|PG\tID):", "SAM", SAMTOOLS),
    Signature(rb"##fileformat=VCF", "VCF, which holds variants", DOWNLOAD),
    Signature(rb"##gff-version", "GFF", "Give the FASTA that belongs to it: gffread -x x.fasta -g genome.fa x.gff."),
    Signature(rb"##maf", "MAF", CONVERT("maf")),
    Signature(rb"[A-Z*\-]{20,}\s*$", "a sequence without a header", "Put a line like >name in front."),
]


def signature_of(head: bytes, *, is_text: bool) -> Signature | None:
    """What a source that begins so is, if it is known; with `is_text` also what kind of text."""
    found = _first_of(BINARY, head, re.DOTALL)
    return _first_of(TEXT, head.lstrip(), re.IGNORECASE | re.MULTILINE) if is_text and not found else found


def _first_of(signatures: Iterable[Signature], head: bytes, flags: int) -> Signature | None:
    return next((one for one in signatures if re.match(one.begins, head, flags)), None)
