"""Parts of the input on disk: what the scan of a stretch leaves, for the passes that follow.

A part is four files and then its facts, which appear last: a part that has them is not scanned again.
"""

# N = records, W = windows

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.planning.spill import Rows, not_as_written, read_rows, write_rows
from hpc_embed.planning.verdicts import Judged
from hpc_embed.sequences import kernel
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.kernel import Bytes
from hpc_embed.sequences.places import Place

WINDOW = np.dtype([("length", "<i8"), ("high", "<u8"), ("low", "<u8")])
"""Length and digest of a window."""
RECORDS = pa.schema(
    [
        ("id", pa.string()),
        ("description", pa.string()),
        ("length", pa.int64()),
        ("line", pa.int64()),
        ("status", pa.int8()),
        ("reason", pa.string()),
        ("num_unknown", pa.int64()),
        ("num_windows", pa.int64()),
    ]
)
"""A record as scanned: its line counts from the start of the part, its status is a place in STATUSES."""


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """A scanned part in numbers."""

    source: int
    number: int
    """Place of the part in its source."""
    num_bytes: int
    num_lines: int
    num_records: int
    num_residues: int
    num_windows: int
    num_letters: int
    statuses: tuple[int, int, int, int]
    """Records of each of STATUSES."""
    num_unknown_letters: int
    num_u_as_t: int
    num_cut: int
    """Lines of which something was left out that is no sequence."""
    first_cut: int | None
    first_unknown: Place | None
    fault: Place | None

    @property
    def name(self) -> str:
        return part_name(self.source, self.number)


def part_name(source: int, number: int) -> str:
    """The stem of a part's files."""
    return f"{source:06d}-{number:06d}"


def read_facts(folder: Path, name: str) -> PartFacts | None:
    """The facts of a part that is whole."""
    try:
        content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        places = {key: Place(*content[key]) if content[key] else None for key in ("first_unknown", "fault")}
        return PartFacts(**{**content, "statuses": tuple(content["statuses"]), **places})
    except (OSError, ValueError, TypeError, KeyError):
        return None


class PartWriter:
    """Writes one part, a block at a time."""

    def __init__(self, folder: Path, source: int, number: int, *, keeps_letters: bool) -> None:
        self._folder = folder
        self._keeps_letters = keeps_letters
        self._name = part_name(source, number)
        with ExitStack() as stack:
            paths = [folder / f"{self._name}.{kind}" for kind in KINDS]
            self._files: list[BinaryIO] = [stack.enter_context(path.open("wb")) for path in paths]
            stack.pop_all()  # all of them could be opened
        self._records = pa.ipc.new_stream(self._files[0], RECORDS)
        self._facts = PartFacts(
            source=source,
            number=number,
            num_bytes=0,
            num_lines=0,
            num_records=0,
            num_residues=0,
            num_windows=0,
            num_letters=0,
            statuses=(0, 0, 0, 0),
            num_unknown_letters=0,
            num_u_as_t=0,
            num_cut=0,
            first_cut=None,
            first_unknown=None,
            fault=None,
        )

    @property
    def num_bytes(self) -> int:
        return self._facts.num_bytes

    def write(self, judged: Judged, num_bytes: int) -> None:
        """Add the records of a block that was made of so many bytes."""
        block, before = judged.block, self._facts
        _, windows_file, letters_file, leaves_file = self._files
        leaves_file.write(_leaves(judged).tobytes())
        if self._keeps_letters:
            columns = [
                block.ids,
                block.descriptions,
                pa.array(judged.lengths_N),
                pa.array(block.lines_N + before.num_lines),
                pa.array(judged.status_N),
                judged.reasons,
                pa.array(judged.num_unknown_N),
                pa.array(judged.num_windows_N),
            ]
            self._records.write_batch(pa.RecordBatch.from_arrays(columns, schema=RECORDS))
            windows_W = np.empty(len(judged.window_lengths_W), dtype=WINDOW)
            windows_W["length"] = judged.window_lengths_W
            for half in ("high", "low"):
                windows_W[half] = judged.window_digests_W[half]
            write_rows(windows_file, windows_W)
            write_rows(letters_file, judged.letters)
        counts = np.bincount(judged.status_N, minlength=4)
        is_kept_N = judged.num_windows_N > 0
        self._facts = PartFacts(
            source=before.source,
            number=before.number,
            num_bytes=before.num_bytes + num_bytes,
            num_lines=before.num_lines + block.num_lines,
            num_records=before.num_records + len(judged.lengths_N),
            num_residues=before.num_residues + int(judged.lengths_N.sum()),
            num_windows=before.num_windows + len(judged.window_lengths_W),
            num_letters=before.num_letters + len(judged.letters),
            statuses=tuple((np.array(before.statuses) + counts).tolist()),
            num_unknown_letters=before.num_unknown_letters + int(judged.num_unknown_N[is_kept_N].sum()),
            num_u_as_t=before.num_u_as_t + judged.num_u_as_t,
            num_cut=before.num_cut + block.num_cut,
            first_cut=_first_cut(before, block),
            first_unknown=before.first_unknown or _moved(judged.first_unknown, before.num_lines),
            fault=before.fault or _moved(judged.fault, before.num_lines),
        )

    def finish(self) -> PartFacts:
        """Write the facts, which make the part whole."""
        self.close()
        temporary = self._folder / f"{self._name}.json.writing"
        temporary.write_text(json.dumps(asdict(self._facts)), encoding="utf-8")
        temporary.replace(self._folder / f"{self._name}.json")  # not forced to storage: see `scratch_key`
        return self._facts

    def close(self) -> None:
        """Close the files."""
        self._records.close()
        for file in self._files:
            file.close()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # what went wrong is told already, a full disk say, and may go wrong again
            with suppress(OSError, ValueError, pa.ArrowException):
                self._records.close()
            for file in self._files:
                with suppress(OSError, ValueError):
                    file.close()


LETTER = np.dtype(np.uint8)
LETTERS_AT_ONCE = 8 << 20
KINDS = ("records", "windows", "letters", "leaves")


def _moved(place: Place | None, num_lines: int) -> Place | None:
    return place and place.moved(num_lines)


def _first_cut(before: PartFacts, block: Block) -> int | None:
    if before.first_cut is not None or block.first_cut is None:
        return before.first_cut
    return before.num_lines + block.first_cut


def _leaves(judged: Judged) -> NDArray[np.void]:
    """Two digests for each record, of its header and of its letters as written: what the input's digest is made of."""
    _, offsets, content = judged.block.descriptions.buffers()
    edges = np.frombuffer(offsets, dtype=np.int32)[: len(judged.lengths_N) + 1].astype(np.int64)
    headers = np.frombuffer(content, dtype=np.uint8) if content else np.empty(0, dtype=np.uint8)
    leaves_N2 = np.empty((len(judged.lengths_N), 2), dtype=kernel.DIGEST)
    leaves_N2[:, 0] = kernel.digests(headers, edges[:-1], np.diff(edges))
    leaves_N2[:, 1] = judged.digests_N
    return leaves_N2


class Windows(NamedTuple):
    """Some windows of a part."""

    windows_W: NDArray[np.void]
    """Lengths and digests."""
    letters: Bytes
    """Side by side."""


def read_leaves(folder: Path, facts: PartFacts) -> Iterator[bytes]:
    """The leaves of a part in pieces."""
    with (folder / f"{facts.name}.leaves").open("rb") as file:
        for rows in _rows(file, kernel.DIGEST, 2 * facts.num_records, 1 << 16):
            yield rows.tobytes()


def read_windows(folder: Path, facts: PartFacts, most: int = 1 << 20) -> Iterator[NDArray[np.void]]:
    """The windows of a part, lengths and digests, so many at a time."""
    with (folder / f"{facts.name}.windows").open("rb") as file:
        yield from _rows(file, WINDOW, facts.num_windows, most)


def read_letters(folder: Path, facts: PartFacts) -> Iterator[Windows]:
    """The windows of a part with their letters, a few mebibytes at a time or a single window."""
    with (folder / f"{facts.name}.letters").open("rb") as file:
        for windows_W in read_windows(folder, facts, most=1 << 16):
            stops_W = np.cumsum(windows_W["length"])
            edges = np.flatnonzero(np.diff(stops_W // LETTERS_AT_ONCE)) + 1
            for some_W in np.split(windows_W, edges):
                yield Windows(some_W, read_rows(file, LETTER, int(some_W["length"].sum())))


def read_records(folder: Path, facts: PartFacts) -> Iterator[pa.RecordBatch]:
    """The records of a part, as RECORDS, in the blocks in which they were scanned."""
    num_records = 0
    with (folder / f"{facts.name}.records").open("rb") as file:
        try:
            for records in pa.ipc.open_stream(file):
                num_records += len(records)
                yield records
        except pa.ArrowInvalid as error:
            raise not_as_written(file) from error
        if num_records != facts.num_records:
            raise not_as_written(file)


def _rows(file: BinaryIO, dtype: np.dtype[Any], number: int, most: int) -> Iterator[Rows]:
    """So many rows of a file, and no fewer."""
    for start in range(0, number, most):
        yield read_rows(file, dtype, min(most, number - start))
