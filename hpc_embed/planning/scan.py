"""Input read once: every record judged, its windows spooled, nothing lost without a status.

Stretches of plain FASTA, and whole files of what is compressed or of another format, are scanned side by side by
threads: parsing, digests and files let each other run. Each leaves parts on disk, which are taken in input order, so
that nothing depends on the number of threads; and a scan that was interrupted finds the parts that it had finished.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpc_embed.errors import BadInput
from hpc_embed.model import Kind, Model
from hpc_embed.planning.parts import PartFacts, PartWriter, part_name, read_facts, read_leaves
from hpc_embed.planning.verdicts import Judge
from hpc_embed.progress import Counting
from hpc_embed.run.plan import InputFile
from hpc_embed.sequences import sources
from hpc_embed.sequences.blocks import Block, parse_block
from hpc_embed.sequences.formats import Format, Piece, first_records, format_of, pieces_of, refuse_others, size_of
from hpc_embed.sequences.gaps import is_alignment
from hpc_embed.sequences.letters import judge_kind
from hpc_embed.sequences.pipes import Pipe, open_pipes
from hpc_embed.sequences.sources import (
    Seen,
    Stretch,
    blocks_within,
    is_plain_file,
    look_at,
    opened,
    refuse_changed,
    refuse_more,
)
from hpc_embed.sequences.streams import Read, after, reader
from hpc_embed.sequences.tables import Columns

SAMPLE_BYTES = 1 << 20
SAMPLE_RECORDS = 1000
PART_BYTES = 64 << 20
FEWEST_PARTS, MOST_PARTS = 16, 1024
"""Of a plain file: where PART_BYTES would give fewer or more, the parts are smaller, down to a block, or larger."""
LARGE_BLOCK_BYTES = 48 << 20


class OpenedInput(NamedTuple):
    """A source whose beginning has been looked at."""

    source: str
    kind: Kind | None
    """What its first records are judged to be."""
    read: Read | None
    """The way to read on what cannot be opened again; None for a file."""
    seen: Seen | None
    """A file as it was then; None for what is no file."""
    pipe: Pipe | None
    format: Format
    columns: Columns | None
    is_alignment: bool


@dataclass
class Scanned:
    """What the scan leaves for dealing; parts are in input order."""

    folder: Path
    parts: list[PartFacts] = field(default_factory=list)
    inputs: list[InputFile] = field(default_factory=list)
    first_unknown: str = ""
    """Place and letter of the first unknown letter."""
    num_cut: int = 0
    """Lines of which something was left out that is no sequence."""
    first_cut: str = ""
    """Place of the first of them."""

    @property
    def statuses(self) -> list[int]:
        """Records of each of STATUSES."""
        return [sum(part.statuses[status] for part in self.parts) for status in range(4)]

    @property
    def num_windows(self) -> int:
        return sum(part.num_windows for part in self.parts)


def open_inputs(sources: Sequence[str], stack: ExitStack, columns: Columns | None = None) -> list[OpenedInput]:
    """Look at the beginning of each source; BadInput where one is none of our formats."""
    pipes = open_pipes(sources, stack)
    return [_open_input(source, pipes.get(source), stack, columns) for source in sources]


def _open_input(source: str, pipe: Pipe | None, stack: ExitStack, columns: Columns | None) -> OpenedInput:
    seen = look_at(source) if pipe is None else None
    with ExitStack() as own:
        read = reader(source, (stack if pipe else own).enter_context(opened(source, pipe)))
        head = read(SAMPLE_BYTES)
    refuse_others(head, source, columns)
    format, is_cut = format_of(head, columns), len(head) >= SAMPLE_BYTES
    block = first_records(head, source, columns, SAMPLE_RECORDS, is_cut=is_cut)
    return OpenedInput(
        source,
        "dna" if format == "FASTQ" else _kind_of(block),
        after(head, read) if pipe else None,
        seen,
        pipe,
        format,
        columns,
        is_alignment(block, is_cut=is_cut),
    )


def _kind_of(block: Block) -> Kind | None:
    letters = block.letters[: int(block.lengths_N[:SAMPLE_RECORDS].sum())]
    return judge_kind(dict(enumerate(np.bincount(letters, minlength=1).tolist())))


def refuse_wrong_kind(opened_input: OpenedInput, model: Model, *, is_translated: bool) -> None:
    """Raise BadInput for DNA given to a protein model, or the reverse, or proteins to be translated."""
    wanted: Kind = "dna" if is_translated else model.kind
    if opened_input.kind is None or opened_input.kind == wanted:
        return
    names = {"protein": "proteins", "dna": "nucleotides"}
    needs = f"--translate takes {names[wanted]}" if is_translated else f"{model.name} embeds {names[wanted]}"
    translation = "" if is_translated or wanted == "dna" else "--translate, "
    raise BadInput(
        f"{opened_input.source}: these are {names[opened_input.kind]}, and {needs}.",
        remedy=f"Choose another --model, {translation}or insist with --force-kind.",
    )


def scan(
    inputs: list[OpenedInput], judge: Judge, folder: Path, num_threads: int, counting: Counting, *, keeps_letters: bool
) -> Scanned:
    """Judge every record of every source; records and windows go to parts in `folder`.

    Without `keeps_letters` only the digests of the inputs are of use afterwards.
    """
    scanned = Scanned(folder)
    worker = _Scanner(judge, folder, counting, keeps_letters)
    pipes = [one.pipe for one in inputs if one.pipe]
    num_threads = max(num_threads, len(pipes))  # somebody may write them by turns
    threads = ThreadPoolExecutor(num_threads, thread_name_prefix="scan")
    try:
        pending = [worker.submit(threads, index, one) for index, one in enumerate(inputs)]
        for one, futures in zip(inputs, pending, strict=True):
            _take_source(scanned, one, (part for future in futures for part in future.result()))
    finally:
        for stop in (worker.stop, *(pipe.stop for pipe in pipes)):
            stop.set()
        threads.shutdown(wait=True, cancel_futures=True)
    return scanned


def _take_source(scanned: Scanned, one: OpenedInput, parts: Iterator[PartFacts]) -> None:
    source = one.source
    digest = hashlib.blake2b(digest_size=32)
    num_lines = num_records = num_residues = 0
    for part in parts:
        if part.fault:
            place = part.fault.of(source, num_lines)
            raise BadInput(f"{place}: {part.fault.words}.", remedy=part.fault.remedy)
        if part.first_unknown and not scanned.first_unknown:
            scanned.first_unknown = f"{part.first_unknown.of(source, num_lines)}: {part.first_unknown.words}"
        if part.first_cut is not None and not scanned.num_cut:
            scanned.first_cut = f"{source}, line {num_lines + part.first_cut + 1}"
        scanned.num_cut += part.num_cut
        for leaves in read_leaves(scanned.folder, part):
            digest.update(leaves)
        num_lines += part.num_lines
        num_records += part.num_records
        num_residues += part.num_residues
        scanned.parts.append(part)
    if one.seen:
        refuse_changed(source, one.seen)
    if not num_records:
        raise BadInput(f"{source}: no records.", remedy=_remedy_for_none(one))
    scanned.inputs.append(
        InputFile(path=source, digest=digest.hexdigest(), num_records=num_records, num_residues=num_residues)
    )


def _remedy_for_none(one: OpenedInput) -> str:
    if one.pipe and not one.pipe.head:
        return "Nothing came out of it. Pipe the records in again; a pipe can be read only once."
    return "Give FASTA, FASTQ or a table."


class _Scanner:
    """Scans sources into parts, in any thread."""

    def __init__(self, judge: Judge, folder: Path, counting: Counting, keeps_letters: bool) -> None:
        self.stop = threading.Event()
        self._judge = judge
        self._folder = folder
        self._counting = counting
        self._keeps_letters = keeps_letters
        self._showing = threading.Lock()
        self._large_block = threading.Lock()

    def submit(self, threads: ThreadPoolExecutor, index: int, one: OpenedInput) -> list[Future[list[PartFacts]]]:
        """Scan a source; each result is the next of its parts."""
        if one.seen is None or one.format != "FASTA" or not is_plain_file(one.source):
            return [threads.submit(self._stream, index, one)]
        size = one.seen.num_bytes
        width = max(min(PART_BYTES, -(-size // FEWEST_PARTS)), sources.BLOCK_BYTES, -(-size // MOST_PARTS))
        width = -(-size // -(-max(size, 1) // width)) or 1  # as many, of one size
        stretches = [Stretch(start, min(start + width, size)) for start in range(0, max(size, 1), width)]
        return [
            threads.submit(self._stretch, index, one.source, number, stretch, is_last=stretch.stop == size)
            for number, stretch in enumerate(stretches)
        ]

    def _stretch(self, index: int, source: str, number: int, stretch: Stretch, *, is_last: bool) -> list[PartFacts]:
        if done := self._found(index, number):
            return [done]
        with opened(source) as file, self._writer(index, number) as writer:
            for place, raw in enumerate(blocks_within(source, file, stretch)):
                self._add(writer, raw, source, is_first=stretch.start == 0 and place == 0)
            if is_last:
                refuse_more(source, file, stretch.stop)
            return [writer.finish()]

    def _stream(self, index: int, one: OpenedInput) -> list[PartFacts]:
        parts: list[PartFacts] = []
        with ExitStack() as stack:
            read = one.read or reader(one.source, stack.enter_context(opened(one.source)))
            pieces = stack.enter_context(closing(pieces_of(read, one.source, one.format, one.columns)))
            piece = next(pieces, None)
            while piece is not None or not parts:
                if done := self._found(index, len(parts)):
                    num_skipped = 0
                    while piece is not None and num_skipped < done.num_bytes:
                        num_skipped += size_of(piece)
                        piece = next(pieces, None)
                    parts.append(done)
                    continue
                with self._writer(index, len(parts)) as writer:
                    while piece is not None and writer.num_bytes < PART_BYTES:
                        self._add(writer, piece, one.source, is_first=not parts and not writer.num_bytes)
                        piece = next(pieces, None)
                    parts.append(writer.finish())
        return parts

    def _found(self, index: int, number: int) -> PartFacts | None:
        """A part that an interrupted scan had finished."""
        done = read_facts(self._folder, part_name(index, number))
        if done:
            self._show(done.num_records)
        return done

    def _writer(self, index: int, number: int) -> PartWriter:
        return PartWriter(self._folder, index, number, keeps_letters=self._keeps_letters)

    def _add(self, writer: PartWriter, piece: Piece, source: str, *, is_first: bool) -> None:
        if self.stop.is_set():
            raise InterruptedError("another thread ended the scan")
        num_bytes = size_of(piece)
        with self._large_block if num_bytes > LARGE_BLOCK_BYTES else ExitStack():
            block = piece if isinstance(piece, Block) else parse_block(piece, is_first=is_first)
            judged = self._judge.judge(block)
            writer.write(judged, num_bytes)
        self._show(len(judged.lengths_N))

    def _show(self, num_records: int) -> None:
        with self._showing:
            self._counting.advance(num_records)
