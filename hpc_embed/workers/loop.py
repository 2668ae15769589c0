"""The one loop that serves every model: shard to windows to batches to pieces to output and marker.

sequences --thread--> tokens --pack--> batch --device--> vectors --thread--> piece ... --> output, marker
            (a block ahead)            (one batch ahead)                       (behind the device)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpc_embed.engine.packing import pack
from hpc_embed.errors import Interrupted, RunConflict
from hpc_embed.progress import BatchDone, BudgetHalved, Events, ShardFailed, ShardFinished, ShardStarted
from hpc_embed.run.files import temporary_sibling, this_process
from hpc_embed.run.layout import output_path
from hpc_embed.run.markers import WorkFacts, is_done, publish_output
from hpc_embed.run.pieces import Pieces, each_window_once
from hpc_embed.run.shards import Shard, read_shard
from hpc_embed.run.vectors import Vectors, VectorWriter
from hpc_embed.workers.base import EmbeddedBatch, FailedFile, LoadedModel, Outcome, Tokens

BLOCK_RESIDUES = 4_000_000
"""Residues tokenised at a time, beside the device."""
BATCHES_IN_FLIGHT = 2
MOST_WAITING_BYTES = 256 << 20
"""A piece is written at the latest when so much is waiting for it."""


class _InFlight(NamedTuple):
    windows: list[int]
    """Places in the shard."""
    finish: Callable[[], EmbeddedBatch]


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
        shard = read_shard(path)
        pieces = Pieces(self.work / name, self.fingerprint)
        finished = pieces.finished(self.model.dimension)
        places = [place for place, key in enumerate(shard.windows_N.tolist()) if key not in finished]
        residues_done = sum(map(len, shard.sequences_N)) - sum(len(shard.sequences_N[place]) for place in places)
        self.events.put(ShardStarted(name, len(shard.windows_N), residues_done))
        progress = _Progress()
        for windows, embedded in self._embed(shard, places, progress):
            self._take(name, shard, windows, embedded, progress)
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
        for block, tokens in self._tokenised_blocks(shard, places):
            remaining = list(range(len(block)))
            while remaining:
                lengths = [len(tokens[i]) for i in remaining]
                packed = [[remaining[i] for i in batch] for batch in pack(lengths, self.token_budget)]
                remaining = []
                for at, batch in enumerate(packed):
                    try:
                        in_flight.append(self._start(block, tokens, batch))
                        if len(in_flight) >= BATCHES_IN_FLIGHT:
                            yield _finish(in_flight.popleft())
                    except Exception as error:
                        if not self.model.is_out_of_memory(error):
                            raise
                        self._halve(error, shard, [block[i] for i in batch], progress)
                        retry = batch if len(batch) > 1 else []
                        remaining = [*retry, *chain.from_iterable(packed[at + 1 :])]
                        break
        while in_flight:
            yield _finish(in_flight.popleft())

    def _start(self, block: list[int], tokens: Sequence[Tokens], batch: list[int]) -> _InFlight:
        return _InFlight([block[i] for i in batch], self.model.start([tokens[i] for i in batch]))

    def _halve(self, error: Exception, shard: Shard, windows: list[int], progress: _Progress) -> None:
        """Out of memory: smaller batches from here on; a window that is too large alone is given up."""
        if len(windows) == 1:
            progress.failed[int(shard.windows_N[windows[0]])] = f"out of memory, alone in its batch ({error})"
            return
        self.token_budget = max(1, self.token_budget // 2)
        self.events.put(BudgetHalved(self.token_budget))

    def _tokenised_blocks(self, shard: Shard, places: list[int]) -> Iterator[tuple[list[int], Sequence[Tokens]]]:
        """Blocks of places with their tokens, made in a thread one block ahead of the device."""
        blocks = _blocks(shard, places)
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
                yield block, ready

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
        temporary = temporary_sibling(output_path(self.outputs, name))
        metadata = {"fingerprint": self.fingerprint, "precision": self.model.precision}
        try:
            with VectorWriter(temporary, self.model.dimension, metadata) as writer:
                written: set[int] = set()
                for rows in each_window_once(chain(pieces.files(), ([rows] for rows in progress.waiting))):
                    writer.write(rows)
                    written.update(rows.windows_N.tolist())
            if is_done(self.outputs, name, self.fingerprint):
                temporary.unlink()
            elif len(written) + len(progress.failed) == len(shard.windows_N):
                publish_output(self.outputs, name, temporary, self.fingerprint, progress.failed, facts)
            else:
                raise RunConflict(
                    f"{name}: {len(written)} of {len(shard.windows_N)} windows have vectors, pieces have vanished.",
                    remedy="Run the shard again.",
                )
        finally:
            temporary.unlink(missing_ok=True)
        pieces.clear()
        self.events.put(ShardFinished(name, len(shard.windows_N), len(progress.failed)))

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
        )


def _finish(batch: _InFlight) -> tuple[list[int], EmbeddedBatch]:
    return batch.windows, batch.finish()


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
