"""The one loop that serves every model: shard to windows to batches to pieces to output and marker.

sequences --thread--> tokens --pack--> batch --device--> vectors --thread--> piece ... --> output, marker
            (a block ahead)            (one batch ahead)                       (behind the device)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from hpc_embed.engine.packing import pack
from hpc_embed.errors import Interrupted, RunConflict
from hpc_embed.progress import BatchDone, BudgetHalved, Events, ShardFailed, ShardFinished, ShardStarted
from hpc_embed.run.files import discard, this_process, write_draft
from hpc_embed.run.layout import output_path, pieces_folder
from hpc_embed.run.markers import WorkFacts, is_done, publish_output
from hpc_embed.run.pieces import Pieces, in_key_order
from hpc_embed.run.shards import Shard, read_shard
from hpc_embed.run.vectors import Vectors, VectorWriter
from hpc_embed.workers.base import EmbeddedBatch, FailedFile, LoadedModel, Outcome, Tokens

BLOCK_RESIDUES = 4_000_000
"""Residues tokenised at a time, beside the device."""
BATCHES_IN_FLIGHT = 2
Made = TypeVar("Made")
MOST_WAITING_BYTES = 256 << 20
"""A piece is written at the latest when so much is waiting for it."""


class _Window(NamedTuple):
    place: int
    """In the shard."""
    tokens: Tokens


class _InFlight(NamedTuple):
    windows: list[_Window]
    finish: Callable[[], EmbeddedBatch]


class _OutOfMemory(NamedTuple):
    reason: str


@dataclass
class _Progress:
    """What this try has done of one shard."""

    started: float = field(default_factory=time.monotonic)
    published: float = field(default_factory=time.monotonic)
    waiting: list[Vectors] = field(default_factory=list)
    num_waiting_bytes: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    num_tokens: int = 0
    num_computed_tokens: int = 0
    num_windows: int = 0
    piece: Future[None] | None = None
    """The piece that is being written."""


@dataclass
class Loop:
    """Embeds shards with one loaded model."""

    model: LoadedModel
    token_budget: int
    outputs: Path
    work: Path
    fingerprint: str
    piece_seconds: float
    events: Events
    should_stop: Callable[[], bool]
    writer: ThreadPoolExecutor
    """One thread, which writes pieces beside the device."""
    canary: str = ""
    """What the model made of the canary."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of shard files by name."""

    def embed_shards(self, paths: Iterable[Path | None]) -> Outcome:
        """Embed shards one after the other, each published in a thread beside the embedding of the next.

        At a None nothing is at hand: what is being published is waited for.
        """
        outcome = Outcome([], [])
        with ThreadPoolExecutor(1, "outputs") as publisher:
            publishing: Future[None] | None = None
            for path in chain(paths, [None]):
                publish = None if path is None else self._try_to_embed(Path(path), outcome)
                if publishing is not None:
                    publishing.result()
                    publishing = None
                if path is not None and publish is not None:
                    publishing = publisher.submit(self._try_to_publish, Path(path), publish, outcome)
        return outcome

    def _try_to_embed(self, path: Path, outcome: Outcome) -> Callable[[], None] | None:
        try:
            return self.embed_shard(path)
        except RunConflict as fault:
            self._record_failure(path, fault, outcome)
            return None

    def _try_to_publish(self, path: Path, publish: Callable[[], None], outcome: Outcome) -> None:
        try:
            publish()
            outcome.processed.append(path)
        except RunConflict as fault:
            self._record_failure(path, fault, outcome)

    def _record_failure(self, path: Path, fault: RunConflict, outcome: Outcome) -> None:
        outcome.failed.append(FailedFile(path, str(fault)))
        self.events.put(ShardFailed(path.stem, str(fault)))

    def embed_shard(self, path: Path) -> Callable[[], None]:
        """Embed one shard file; the function returned publishes its output, in any thread, once what is with the
        writer is written. Nothing to do where a valid marker is there.

        Both raise RunConflict for a fault of the shard; embedding raises Interrupted after publishing what is
        finished.
        """
        name = path.stem
        if is_done(self.outputs, name, self.fingerprint):
            return lambda: self.events.put(ShardFinished(name, 0, 0))
        shard = read_shard(path, self.digests.get(name, ""))
        pieces = Pieces(pieces_folder(self.work, name), self.fingerprint)
        finished = pieces.finished(self.model.dimension)
        places = [place for place, key in enumerate(shard.windows_N.tolist()) if key not in finished]
        residues_done = sum(map(len, shard.sequences_N)) - sum(len(shard.sequences_N[place]) for place in places)
        self.events.put(ShardStarted(name, len(shard.windows_N), residues_done))
        progress = _Progress()
        for done, embedded in self._embed(shard, places, progress):
            self._take(name, shard, done, embedded, progress)
            if self.should_stop():
                self._publish_waiting(pieces, progress)
                _await_piece(progress)
                raise Interrupted(f"{name}: stopped; finished windows are kept.")
            is_late = time.monotonic() - progress.published >= self.piece_seconds
            if is_late or progress.num_waiting_bytes >= MOST_WAITING_BYTES:
                self._publish_waiting(pieces, progress)
                if is_done(self.outputs, name, self.fingerprint):
                    break  # another live copy of this task was faster
        facts = self._facts(progress)
        return lambda: self._publish(name, shard, pieces, progress, facts)

    def _embed(self, shard: Shard, places: list[int], progress: _Progress) -> Iterator[tuple[list[int], EmbeddedBatch]]:
        """Vectors of the windows at `places`, in batches, longest windows first."""
        in_flight: deque[_InFlight] = deque()
        for windows in self._tokenised_blocks(shard, places):
            yield from self._run(windows, in_flight, BATCHES_IN_FLIGHT - 1, shard, progress)
        yield from self._run([], in_flight, 0, shard, progress)

    def _run(
        self, windows: list[_Window], in_flight: deque[_InFlight], most_left: int, shard: Shard, progress: _Progress
    ) -> Iterator[tuple[list[int], EmbeddedBatch]]:
        """Start every window, and finish batches until at most `most_left` are in flight."""
        waiting = self._packed(windows)
        is_tight = False
        while waiting or len(in_flight) > most_left:
            if waiting and len(in_flight) <= (0 if is_tight else most_left):
                batch = waiting.popleft()
                made: _InFlight | EmbeddedBatch | _OutOfMemory = self._within_memory(partial(self._start, batch))
            else:
                batch, finish = in_flight.popleft()
                made = self._within_memory(finish)
            if isinstance(made, _InFlight):
                in_flight.append(made)
            elif isinstance(made, EmbeddedBatch):
                yield [window.place for window in batch], made
            elif len(batch) == 1 and in_flight:
                waiting.appendleft(batch)
                is_tight = True  # once more, with the device to itself
                continue
            else:
                again = self._less(batch, made, shard, progress)
                waiting = self._packed([*again, *chain.from_iterable(waiting)])
            is_tight = False

    def _packed(self, windows: list[_Window]) -> deque[list[_Window]]:
        lengths = [len(window.tokens) for window in windows]
        return deque([windows[i] for i in batch] for batch in pack(lengths, self.token_budget))

    def _start(self, batch: list[_Window]) -> _InFlight:
        return _InFlight(batch, self.model.start([window.tokens for window in batch]))

    def _within_memory(self, work: Callable[[], Made]) -> Made | _OutOfMemory:
        """What the work makes, or that it found no room; by then its traceback holds no tensors any more."""
        try:
            return work()
        except Exception as error:
            if not self.model.is_out_of_memory(error):
                raise
            out_of_memory = _OutOfMemory((str(error).splitlines() or ["no room"])[0])
        self.model.release_memory()
        return out_of_memory

    def _less(self, batch: list[_Window], fault: _OutOfMemory, shard: Shard, progress: _Progress) -> list[_Window]:
        """The windows to try again, in smaller batches from here on; one that is too large alone is given up."""
        if len(batch) == 1:
            key = int(shard.windows_N[batch[0].place])
            progress.failed[key] = f"out of memory, alone in its batch ({fault.reason})"
            return []
        self.token_budget = max(1, self.token_budget // 2)
        self.events.put(BudgetHalved(self.token_budget))
        return batch

    def _tokenised_blocks(self, shard: Shard, places: list[int]) -> Iterator[list[_Window]]:
        """Blocks of windows with their tokens, made in a thread one block ahead of the device."""
        blocks = _blocks(shard, places)
        if not blocks:  # every window is in pieces already
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as thread:
            ahead = [
                (block, thread.submit(self.model.tokenise, [shard.sequences_N[place] for place in block]))
                for block in blocks[:1]
            ]
            for following in [*blocks[1:], None]:
                block, tokens = ahead.pop()
                ready = tokens.result()
                if following is not None:
                    sequences = [shard.sequences_N[place] for place in following]
                    ahead.append((following, thread.submit(self.model.tokenise, sequences)))
                yield [_Window(*pair) for pair in zip(block, ready, strict=True)]

    def _take(self, name: str, shard: Shard, windows: list[int], embedded: EmbeddedBatch, progress: _Progress) -> None:
        keys_B, num_rows_B = shard.windows_N[windows], embedded.num_rows_B
        is_finite_R = np.isfinite(embedded.vectors_BD).all(axis=1)
        finite_B = np.logical_and.reduceat(is_finite_R, np.cumsum(num_rows_B) - num_rows_B)
        progress.failed.update({int(key): "the model gave NaN or infinity" for key in keys_B[~finite_B]})
        columns = (np.repeat(column_B, num_rows_B) for column_B in (keys_B, embedded.num_tokens_B, finite_B))
        keys_R, num_tokens_R, keep_R = columns
        rows = Vectors(keys_R[keep_R], num_tokens_R[keep_R], embedded.vectors_BD[keep_R])
        progress.waiting.append(rows)
        progress.num_waiting_bytes += rows.vectors_ND.nbytes
        progress.num_windows += len(windows)
        progress.num_tokens += embedded.num_real_tokens
        progress.num_computed_tokens += embedded.num_computed_tokens
        num_residues = sum(len(shard.sequences_N[place]) for place in windows)
        self.events.put(BatchDone(name, len(windows), num_residues, embedded.num_real_tokens))

    def _publish_waiting(self, pieces: Pieces, progress: _Progress) -> None:
        """Hand what is waiting to the writer, once it is done with what it was handed before."""
        _await_piece(progress)
        if progress.waiting:
            progress.piece = self.writer.submit(_publish_piece, pieces, progress.waiting)
        progress.waiting, progress.num_waiting_bytes = [], 0
        progress.published = time.monotonic()

    def _publish(self, name: str, shard: Shard, pieces: Pieces, progress: _Progress, facts: WorkFacts) -> None:
        _await_piece(progress)
        if not is_done(self.outputs, name, self.fingerprint):
            self._publish_own(name, shard, pieces, progress, facts)
        pieces.clear()
        self.events.put(ShardFinished(name, len(shard.windows_N), len(progress.failed)))

    def _publish_own(self, name: str, shard: Shard, pieces: Pieces, progress: _Progress, facts: WorkFacts) -> None:
        """Write the output and publish it, unless a twin that was faster has taken its pieces away."""
        written: set[int] = set()
        metadata = {"fingerprint": self.fingerprint, "precision": self.model.precision}

        def write(file: BinaryIO) -> None:
            written.clear()
            with VectorWriter(file, self.model.dimension, metadata) as writer, suppress(FileNotFoundError):
                for rows in in_key_order(chain(pieces.files(), progress.waiting)):
                    writer.write(rows)
                    written.update(rows.windows_N.tolist())

        keys = shard.windows_N.tolist()
        draft = write_draft(output_path(self.outputs, name), write)
        missing = set(keys) - written - progress.failed.keys()
        if not missing:
            publish_output(self.outputs, name, draft, self.fingerprint, keys, progress.failed, facts)
            return
        discard(draft.path)
        if not is_done(self.outputs, name, self.fingerprint):
            raise RunConflict(
                f"{name}: {len(missing)} of {len(keys)} windows have no vectors, pieces have vanished or were damaged.",
                remedy="Run the shard again.",
            )

    def _facts(self, progress: _Progress) -> WorkFacts:
        seconds = time.monotonic() - progress.started
        return WorkFacts(
            device=self.model.device,
            precision=self.model.precision,
            versions=self.model.versions,
            process=this_process(),
            seconds=round(seconds, 3),
            num_tokens=progress.num_tokens,
            num_windows_computed=progress.num_windows,
            tokens_per_second=round(progress.num_tokens / max(seconds, 1e-9), 1),
            padding_efficiency=round(progress.num_tokens / max(progress.num_computed_tokens, 1), 6),
            token_budget=self.token_budget,
            peak_memory_bytes=self.model.peak_memory_bytes(),
            canary=self.canary,
            proof=self.model.proof,
        )


def _publish_piece(pieces: Pieces, rows: list[Vectors]) -> None:
    pieces.publish(Vectors(*(np.concatenate(column) for column in zip(*rows, strict=True))))


def _await_piece(progress: _Progress) -> None:
    """Its fault is raised here."""
    if progress.piece is not None:
        progress.piece.result()
        progress.piece = None


def _blocks(shard: Shard, places: list[int]) -> list[list[int]]:
    """Places longest first, cut into blocks of about BLOCK_RESIDUES."""
    blocks: list[list[int]] = []
    size = BLOCK_RESIDUES
    for place in sorted(places, key=lambda place: (-len(shard.sequences_N[place]), place)):
        if size >= BLOCK_RESIDUES:
            blocks.append([])
            size = 0
        blocks[-1].append(place)
        size += len(shard.sequences_N[place])
    return blocks
