"""FASTA read once: every record judged, its windows spooled, nothing lost without a status.

Sequences wait in a raw spool file and are cut from there into shards, so that memory holds some 40 bytes a
window whatever the size of the input.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput
from hpc_embed.progress import Counting
from hpc_embed.registry import Kind, Model
from hpc_embed.run.plan import InputFile
from hpc_embed.sequences.fasta import FastaRecord, read_fasta
from hpc_embed.sequences.letters import ResiduePolicy, judge_kind
from hpc_embed.sequences.windows import Window, split_windows

SAMPLE_RECORDS = 1000
BATCH_ROWS = 50_000
DIGEST_BYTES = 16

SCANNED = pa.schema(
    [
        ("id", pa.string()),
        ("description", pa.string()),
        ("length", pa.int64()),
        ("source", pa.int32()),
        ("line", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("num_unknown", pa.int64()),
        ("num_windows", pa.int32()),
    ]
)


Spool = Callable[[bytes], object]
"""Where sequences are appended."""


class OpenedInput(NamedTuple):
    """A source with its first records read, and what they are judged to be."""

    source: str
    records: Iterator[FastaRecord]
    kind: Kind | None


class Verdict(NamedTuple):
    """What becomes of one record."""

    status: str
    reason: str
    windows: list[Window]


@dataclass
class ScanResult:
    """What the scan leaves for dealing; windows are numbered in input order."""

    records_path: Path
    spool_path: Path
    inputs: list[InputFile] = field(default_factory=list)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    digests: bytearray = field(default_factory=bytearray)
    statuses: Counter[str] = field(default_factory=Counter)
    num_unknown_letters: int = 0
    first_unknown: str = ""
    """Place and letter of the first unknown letter."""

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        return np.frombuffer(self.lengths, dtype=np.int64)


def open_input(source: str) -> OpenedInput:
    """Read the first records of a source and judge its kind."""
    records = read_fasta(source)
    sample = list(islice(records, SAMPLE_RECORDS))
    letters: Counter[int] = Counter()
    for record in sample:
        letters.update(record.sequence)
    return OpenedInput(source, chain(sample, records), judge_kind(letters))


def refuse_wrong_kind(opened: OpenedInput, model: Model) -> None:
    """Raise BadInput for DNA given to a protein model, or the reverse."""
    if opened.kind is None or opened.kind == model.kind:
        return
    names = {"protein": "proteins", "dna": "nucleotides"}
    raise BadInput(
        f"{opened.source}: these are {names[opened.kind]}, and {model.name} embeds {names[model.kind]}.",
        remedy="Choose another --model, or insist with --force-kind.",
    )


def scan(
    opened_inputs: list[OpenedInput], model: Model, settings: PlanSettings, folder: Path, counting: Counting
) -> ScanResult:
    """Judge every record of every source; records and windows go to files in `folder`."""
    result = ScanResult(folder / "scanned.parquet", folder / "spool.bin")
    judge = _Judge(model, settings)
    with pq.ParquetWriter(result.records_path, SCANNED) as writer, result.spool_path.open("wb") as spool:
        for index, opened in enumerate(opened_inputs):
            rows = (judge.row(record, opened.source, index, result, spool.write) for record in opened.records)
            result.inputs.append(_write_rows(rows, opened.source, writer, counting))
    return result


class _Row(NamedTuple):
    columns: tuple[object, ...]
    digest_input: bytes
    length: int


class _Judge:
    def __init__(self, model: Model, settings: PlanSettings) -> None:
        self._model = model
        self._settings = settings
        self._limit = settings.max_residues or model.max_residues
        self._policy = ResiduePolicy(model.kind, model.known_letters, settings.case)

    def row(self, record: FastaRecord, source: str, index: int, result: ScanResult, spool: Spool) -> _Row:
        """Judge a record, spool its windows, and give its row of the records table."""
        residues = self._policy.apply(record.sequence)
        place = f"{source}, line {record.line}, {record.id or 'record without id'}"
        verdict = self._verdict(len(residues.sequence), residues.first_unknown, place)
        if residues.num_unknown and verdict.status != "skipped":
            result.num_unknown_letters += residues.num_unknown
            result.first_unknown = result.first_unknown or f"{place}: {residues.first_unknown!r}"
        for window in verdict.windows:
            sequence = residues.sequence[window.start : window.stop]
            spool(sequence)
            result.lengths.append(len(sequence))
            result.digests += hashlib.blake2b(sequence, digest_size=DIGEST_BYTES).digest()
        result.statuses[verdict.status] += 1
        length = len(residues.sequence)
        columns = (
            record.id,
            record.description,
            length,
            index,
            record.line,
            verdict.status,
            verdict.reason,
            residues.num_unknown,
            len(verdict.windows),
        )
        header = record.description.encode("utf-8")
        return _Row(columns, b">%d\n%b\n%d\n%b" % (len(header), header, length, record.sequence), length)

    def _verdict(self, length: int, unknown: str, place: str) -> Verdict:
        settings = self._settings
        if length == 0:
            return Verdict("skipped", "empty", [])
        if unknown and settings.on_invalid != "unknown":
            reason = f"letter {unknown!r} unknown to {self._model.name}"
            if settings.on_invalid == "error":
                raise BadInput(f"{place}: {reason}.", remedy="Mend the input, or choose --on-invalid skip or unknown.")
            return Verdict("skipped", reason, [])
        if self._limit is None or length <= self._limit:
            return Verdict("embedded", "", [Window(0, length)])
        return self._overlong(length, self._limit, place)

    def _overlong(self, length: int, limit: int, place: str) -> Verdict:
        reason = f"{length} residues, the limit is {limit}"
        match self._settings.on_long:
            case "window":
                return Verdict("windowed", reason, split_windows(length, limit, self._settings.stride))
            case "truncate":
                return Verdict("truncated", reason, [Window(0, limit)])
            case "skip":
                return Verdict("skipped", reason, [])
        raise BadInput(f"{place}: {reason}.", remedy="Choose --on-long window, truncate or skip.")


def _write_rows(rows: Iterator[_Row], source: str, writer: pq.ParquetWriter, counting: Counting) -> InputFile:
    digest = hashlib.blake2b(digest_size=32)
    num_records = num_residues = 0
    while batch := list(islice(rows, BATCH_ROWS)):
        for row in batch:
            digest.update(row.digest_input)
        columns = zip(*(row.columns for row in batch), strict=True)
        arrays = [pa.array(column, type.type) for column, type in zip(columns, SCANNED, strict=True)]
        writer.write_table(pa.Table.from_arrays(arrays, schema=SCANNED))
        num_records += len(batch)
        num_residues += sum(row.length for row in batch)
        counting.advance(len(batch))
    if not num_records:
        raise BadInput(f"{source}: no records.", remedy="Give FASTA, plain or gzip.")
    return InputFile(path=source, digest=digest.hexdigest(), num_records=num_records, num_residues=num_residues)
