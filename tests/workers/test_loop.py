"""The loop under faults that no healthy machine provokes: a model that runs out of memory, or goes wrong."""

from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from queue import Queue
from typing import BinaryIO

import numpy as np
import pytest

from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.progress import BatchDone, BudgetHalved, Event, ShardFailed, ShardFinished, ShardStarted
from hpc_embed.run import markers
from hpc_embed.run.canary import SEQUENCES
from hpc_embed.run.files import Draft, publish_first, write_draft
from hpc_embed.run.identity import pin_model
from hpc_embed.run.markers import Marker, is_done, publish_output, read_marker
from hpc_embed.run.pieces import Pieces
from hpc_embed.run.plan import Embedding
from hpc_embed.run.shards import read_shard, write_shard
from hpc_embed.run.vectors import VectorFile, Vectors, VectorWriter
from hpc_embed.workers import loop as loop_module
from hpc_embed.workers.base import EmbeddedBatch, Tokens
from hpc_embed.workers.loop import Loop
from hpc_embed.workers.registry import make_worker


class FakeModel:
    """Vectors that say which window they are of; memory for `most_tokens`."""

    device, precision, dimension = "fake", "fp32", 2
    proof = ""
    notes: tuple[str, ...] = ()

    def __init__(self, most_tokens: int = 10**9, poison: int | None = None, breaks: bool = False) -> None:
        self.versions = {"fake": "1"}
        self.most_tokens, self.poison, self.breaks = most_tokens, poison, breaks
        self.batches: list[list[int]] = []
        self.num_releases = 0

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        return [np.frombuffer(sequence, dtype=np.uint8) for sequence in sequences]

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        lengths = [len(tokens) for tokens in batch]
        if self.breaks:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if sum(lengths) > self.most_tokens:
            raise MemoryError("no room")
        self.batches.append(lengths)
        vectors = np.array([[length, tokens[0]] for length, tokens in zip(lengths, batch, strict=True)], np.float32)
        if self.poison in lengths:
            vectors[lengths.index(self.poison)] = np.nan
        made = EmbeddedBatch(vectors, np.array(lengths, np.int32), sum(lengths), sum(lengths))
        return lambda: made

    def measure_token_budget(self) -> int:
        return 100

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def release_memory(self) -> None:
        self.num_releases += 1

    def peak_memory_bytes(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def work(tmp_path: Path) -> None:
    """The folder for pieces, which a worker makes when it starts."""
    (tmp_path / "work").mkdir()


def rows_of(*keys: int) -> Vectors:
    """What FakeModel makes of these windows, were their lengths their keys."""
    vectors = np.array([[key, 65] for key in keys], np.float32)
    return Vectors(np.array(keys), np.array(keys, np.int32), vectors)


LENGTHS = [5, 40, 7, 9, 33, 20, 1]


def embed(
    folder: Path, model: FakeModel, token_budget: int = 64, piece_seconds: float = 0.0
) -> tuple[Marker, list[Event]]:
    outputs = folder / "outputs"
    outputs.mkdir(exist_ok=True)
    path = folder / "shard-00000.parquet"
    write_shard(path, np.arange(len(LENGTHS)), [b"A" * length for length in LENGTHS])
    events: Queue[Event] = Queue()
    with ThreadPoolExecutor(1) as writer:
        loop = Loop(
            model=model,
            token_budget=token_budget,
            outputs=outputs,
            work=folder / "work",
            fingerprint="f",
            piece_seconds=piece_seconds,
            events=events,
            should_stop=lambda: False,
            writer=writer,
        )
        loop.embed_shard(path)()
    marker = read_marker(outputs, "shard-00000")
    assert marker is not None
    return marker, [events.get() for _ in range(events.qsize())]


def test_out_of_memory_halves_the_budget_and_goes_on(tmp_path: Path) -> None:
    model = FakeModel(most_tokens=45)
    marker, events = embed(tmp_path, model, token_budget=120)
    assert [event.token_budget for event in events if isinstance(event, BudgetHalved)] == [60, 30]
    assert (marker.rows, marker.failed_windows) == (7, {})
    assert sorted(length for batch in model.batches for length in batch) == sorted(LENGTHS)


class Padded(FakeModel):
    """Computes four times as many tokens, and takes its time."""

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        made = super().start(batch)()
        time.sleep(0.05)
        return lambda: made._replace(num_computed_tokens=made.num_real_tokens * 4)


def test_the_marker_tells_what_was_computed_and_how_fast(tmp_path: Path) -> None:
    facts = embed(tmp_path, Padded(), piece_seconds=10**6)[0].facts
    assert (facts.num_tokens, facts.num_windows_computed, facts.token_budget) == (sum(LENGTHS), len(LENGTHS), 64)
    assert (facts.device, facts.precision, facts.peak_memory_bytes) == ("fake", "fp32", 1)
    assert facts.padding_efficiency == 0.25
    assert 0.05 < facts.seconds == round(facts.seconds, 3)
    assert facts.tokens_per_second == pytest.approx(sum(LENGTHS) / facts.seconds, rel=0.02)


class Late(FakeModel):
    """Out of memory at the end of a batch, as a device that queues its work; for so many batches."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.started: list[list[int]] = []
        self.held: weakref.ref[Held] | None = None
        self.was_held_at_release: list[bool] = []

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        self.started.append([len(tokens) for tokens in batch])
        finish = super().start(batch)

        def finish_or_fail() -> EmbeddedBatch:
            if self.times and len(self.started) > 1:
                self.times -= 1
                held = Held()
                self.held = weakref.ref(held)
                raise MemoryError("no room")
            return finish()

        return finish_or_fail

    def release_memory(self) -> None:
        self.was_held_at_release.append(self.held is not None and self.held() is not None)


class Held:
    """A tensor of the batch."""


def test_a_batch_that_finds_no_room_at_its_end_is_done_again_and_no_other(tmp_path: Path) -> None:
    model = Late(times=1)
    marker, events = embed(tmp_path, model, token_budget=80)
    assert (marker.rows, marker.failed_windows) == (7, {})
    assert [event.token_budget for event in events if isinstance(event, BudgetHalved)] == [40]
    assert marker.facts.num_windows_computed == 7
    failed = model.started[0]
    again = [length for batch in model.started for length in batch]
    assert sorted(again) == sorted([*LENGTHS, *failed])


def test_a_single_window_without_room_beside_another_batch_gets_the_device_to_itself(tmp_path: Path) -> None:
    class Crowded(FakeModel):
        in_flight = 0

        def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
            if self.in_flight:
                raise MemoryError("no room beside another")
            finish = super().start(batch)
            self.in_flight = 1

            def end() -> EmbeddedBatch:
                self.in_flight = 0
                return finish()

            return end

    marker, events = embed(tmp_path, Crowded(), token_budget=1)
    assert (marker.rows, marker.failed_windows) == (7, {})
    assert not [event for event in events if isinstance(event, BudgetHalved)]


def test_memory_is_released_after_the_traceback_has_let_go_of_it(tmp_path: Path) -> None:
    model = Late(times=3)
    embed(tmp_path, model, token_budget=50)
    assert model.was_held_at_release == [False, False, False]


def test_what_is_done_is_told_shard_by_shard_and_batch_by_batch(tmp_path: Path) -> None:
    model = FakeModel(poison=9)
    _, events = embed(tmp_path, model, token_budget=45)
    shard = "shard-00000"
    batches = [BatchDone(shard, len(batch), sum(batch), sum(batch)) for batch in model.batches]
    assert len(batches) > 2
    assert events == [ShardStarted(shard, len(LENGTHS), 0), *batches, ShardFinished(shard, len(LENGTHS), 1)]
    assert embed(tmp_path, model)[1] == [ShardFinished(shard, 0, 0)], "there is nothing left to do"


def test_a_window_that_is_too_large_alone_fails_by_itself(tmp_path: Path) -> None:
    marker, _ = embed(tmp_path, FakeModel(most_tokens=35))
    assert marker.rows == 6
    assert list(marker.failed_windows) == ["1"]
    assert marker.failed_windows == {"1": "out of memory, alone in its batch (no room)"}


def test_a_vector_of_nan_is_a_failed_window_and_not_a_row(tmp_path: Path) -> None:
    marker, _ = embed(tmp_path, FakeModel(poison=9))
    assert marker.rows == 6
    assert marker.failed_windows == {"3": "the model gave NaN or infinity"}


def test_a_canary_of_nan_suspects_the_checkpoint_before_the_first_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, identity = pin_model("aa_composition", None, "protein")
    embedding = Embedding(
        pooling=model.pooling,
        layer=0,
        precision="fp32",
        on_long="window",
        max_residues=None,
        on_invalid="unknown",
        case="upper",
    )
    worker = make_worker(identity, embedding)
    broken = FakeModel(poison=len(SEQUENCES["protein"]))
    monkeypatch.setattr(type(worker), "load", lambda *_: broken)
    with pytest.raises(EnvironmentFault, match="aa_composition: NaN or infinity for the canary"):
        worker.process_files_worker([], "cpu", 64, tmp_path)
    assert broken.batches == [[len(SEQUENCES["protein"])]]


def test_a_fault_of_the_device_is_raised_and_leaves_no_marker(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        embed(tmp_path, FakeModel(breaks=True))
    assert not is_done(tmp_path / "outputs", "shard-00000", "f")


def test_windows_in_pieces_are_not_computed_again(tmp_path: Path) -> None:
    rows = Vectors(np.array([1, 4]), np.array([40, 33], np.int32), np.array([[40, 65], [33, 65]], np.float32))
    Pieces(tmp_path / "work" / "shard-00000", "f").publish(rows)
    model = FakeModel()
    marker, _ = embed(tmp_path, model)
    assert sorted(length for batch in model.batches for length in batch) == [1, 5, 7, 9, 20]
    assert marker.rows == 7


@pytest.mark.parametrize("damage", ["foreign", "cut short"])
def test_foreign_and_damaged_pieces_are_computed_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "work" / "shard-00000"
    rows = Vectors(np.array([1]), np.array([40], np.int32), np.array([[40, 65]], np.float32))
    Pieces(folder, "another" if damage == "foreign" else "f").publish(rows._replace(vectors_ND=-rows.vectors_ND))
    (piece,) = folder.iterdir()
    if damage == "cut short":
        piece.write_bytes(piece.read_bytes()[:-20])
    marker, _ = embed(tmp_path, FakeModel())
    assert (marker.rows, marker.facts.num_windows_computed) == (7, 7)
    (block,) = VectorFile(tmp_path / "outputs" / "shard-00000.parquet")
    assert block.vectors_ND[block.windows_N == 1].tolist() == [[40, 65]]


def test_a_shard_whose_windows_are_all_in_pieces_is_published_without_computing(tmp_path: Path) -> None:
    vectors = np.array([[length, 65] for length in LENGTHS], np.float32)
    rows = Vectors(np.arange(len(LENGTHS)), np.array(LENGTHS, np.int32), vectors)
    Pieces(tmp_path / "work" / "shard-00000", "f").publish(rows)
    model = FakeModel()
    marker, _ = embed(tmp_path, model)
    assert model.batches == []
    assert (marker.rows, marker.facts.num_windows_computed) == (7, 0)


def test_a_shard_that_a_twin_has_finished_is_left_as_it_is(tmp_path: Path) -> None:
    embed(tmp_path, FakeModel())
    before = (tmp_path / "outputs" / "shard-00000.parquet").read_bytes()
    model = FakeModel()
    embed(tmp_path, model)
    assert model.batches == []
    assert (tmp_path / "outputs" / "shard-00000.parquet").read_bytes() == before


def test_an_output_that_a_crash_left_without_its_marker_gets_one(tmp_path: Path) -> None:
    embed(tmp_path, FakeModel())
    outputs = tmp_path / "outputs"
    before = (outputs / "shard-00000.parquet").stat()
    (outputs / "shard-00000.done.json").unlink()
    embed(tmp_path, FakeModel())
    assert (outputs / "shard-00000.parquet").stat().st_ino == before.st_ino
    assert is_done(outputs, "shard-00000", "f")
    assert not (outputs / "withdrawn").exists()


@pytest.mark.parametrize("change", ["a bit", "a folder", "a window less"])
def test_an_output_without_a_marker_that_is_not_what_was_written_is_set_aside(change: str, tmp_path: Path) -> None:
    embed(tmp_path, FakeModel(poison=9 if change == "a window less" else None))
    outputs = tmp_path / "outputs"
    output = outputs / "shard-00000.parquet"
    (outputs / "shard-00000.done.json").unlink()
    if change == "a folder":
        output.unlink()
        output.mkdir()
    elif change == "a bit":
        content = bytearray(output.read_bytes())
        content[200] ^= 1
        output.write_bytes(content)
    marker, _ = embed(tmp_path, FakeModel())
    assert (marker.rows, marker.failed_windows) == (7, {})
    assert marker.sha256 == hashlib.sha256(output.read_bytes()).hexdigest()
    assert len(list((outputs / "withdrawn").iterdir())) == 1


def test_a_twin_that_publishes_in_the_last_moment_keeps_its_output_and_no_marker_tells_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twin/work").mkdir(parents=True)
    embed(tmp_path / "twin", FakeModel(poison=9))
    theirs = (tmp_path / "twin/outputs/shard-00000.parquet").read_bytes()
    output = tmp_path / "outputs" / "shard-00000.parquet"

    def too_late(draft: Draft, path: Path) -> bool:
        path.write_bytes(theirs)
        return publish_first(draft, path)

    monkeypatch.setattr(markers, "publish_first", too_late)
    with pytest.raises(RunConflict, match="not what this task has written"):
        embed(tmp_path, FakeModel())
    assert output.read_bytes() == theirs
    assert read_marker(output.parent, "shard-00000") is None


def test_an_output_of_an_older_plan_is_replaced(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    vectors = np.array([[-1, -1]] * 7, np.float32)
    with (
        (outputs / "shard-00000.parquet").open("wb") as file,
        VectorWriter(file, 2, {"fingerprint": "an older plan's"}) as writer,
    ):
        writer.write(Vectors(np.arange(7), np.array(LENGTHS, np.int32), vectors))
    marker, _ = embed(tmp_path, FakeModel())
    (block,) = VectorFile(outputs / "shard-00000.parquet")
    assert VectorFile(outputs / "shard-00000.parquet").metadata["fingerprint"] == "f"
    assert sorted(block.vectors_ND[:, 0].tolist()) == sorted(LENGTHS)
    assert (marker.rows, marker.num_bytes) == (7, (outputs / "shard-00000.parquet").stat().st_size)
    assert len(list((outputs / "withdrawn").iterdir())) == 1


def test_an_output_that_is_no_parquet_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "shard-00000.parquet").write_bytes(b"something else")
    marker, _ = embed(tmp_path, FakeModel())
    assert marker.rows == 7


def shards(folder: Path, number: int) -> list[Path]:
    paths = [folder / f"shard-{index:05d}.parquet" for index in range(number)]
    for path in paths:
        write_shard(path, np.arange(len(LENGTHS)), [b"A" * length for length in LENGTHS])
    return paths


def loop_over(folder: Path, model: FakeModel, writer: ThreadPoolExecutor) -> Loop:
    return Loop(
        model=model,
        token_budget=64,
        outputs=folder,
        work=folder / "work",
        fingerprint="f",
        piece_seconds=0.0,
        events=Queue(),
        should_stop=lambda: False,
        writer=writer,
    )


def test_a_shard_is_published_beside_the_embedding_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second_begun = threading.Event()

    def wait_for_the_second(outputs: Path, shard: str, *rest: object) -> None:
        assert shard != "shard-00000" or second_begun.wait(10)
        publish_output(outputs, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop_module, "publish_output", wait_for_the_second)
    paths = shards(tmp_path, 2)

    def shards_as_they_come() -> Iterator[Path | None]:
        yield paths[0]
        second_begun.set()  # asked for while the first one still waits to be published
        yield paths[1]

    with ThreadPoolExecutor(1) as writer:
        outcome = loop_over(tmp_path, FakeModel(), writer).embed_shards(shards_as_they_come())
    assert outcome.processed == paths
    assert outcome.failed == []


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), RunConflict("pieces have vanished")])
def test_a_fault_of_publishing_is_noticed_while_there_is_nothing_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(loop_module, "publish_output", fail)
    (path,) = shards(tmp_path, 1)
    with ThreadPoolExecutor(1) as writer:
        loop = loop_over(tmp_path, FakeModel(), writer)
        if isinstance(fault, OSError):
            with pytest.raises(OSError, match="No space left"):
                loop.embed_shards(chain([path], repeat(None)))  # None for ever, as from a queue that stays empty
        else:
            outcome = loop.embed_shards([path])
            assert outcome.processed == []
            assert [failed.path for failed in outcome.failed] == [path]


def test_a_shard_at_fault_is_told_by_name_and_reason_and_the_others_are_done(tmp_path: Path) -> None:
    paths = shards(tmp_path, 3)
    paths[1].write_bytes(b"no Parquet at all")
    with ThreadPoolExecutor(1) as writer:
        loop = loop_over(tmp_path, FakeModel(), writer)
        outcome = loop.embed_shards(paths)
    assert outcome.processed == [paths[0], paths[2]]
    ((path, reason),) = outcome.failed
    assert path == paths[1]
    assert str(path) in reason
    told = [loop.events.get() for _ in range(loop.events.qsize())]  # type: ignore[attr-defined]
    assert [event for event in told if isinstance(event, ShardFailed)] == [ShardFailed("shard-00001", reason)]


def test_the_budget_is_a_whole_number_and_never_less_than_one_token(tmp_path: Path) -> None:
    _, events = embed(tmp_path, FakeModel(most_tokens=0), token_budget=45)
    budgets = [event.token_budget for event in events if isinstance(event, BudgetHalved)]
    assert all(type(budget) is int and budget >= 1 for budget in budgets)
    assert budgets[0] == 22


@pytest.mark.parametrize("is_done_by_a_twin", [False, True])
def test_pieces_that_vanish_are_a_fault_of_the_shard_unless_a_twin_has_finished_it(
    is_done_by_a_twin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = shards(tmp_path, 1)
    with ThreadPoolExecutor(1) as writer:
        twin = loop_over(tmp_path, FakeModel(), writer).embed_shard(path)
        publish = loop_over(tmp_path, FakeModel(), writer).embed_shard(path)
        if is_done_by_a_twin:
            twin()
        monkeypatch.setattr(Pieces, "files", lambda self: iter(()))
        monkeypatch.setattr(loop_module, "is_done", once_not(is_done))
        if is_done_by_a_twin:
            publish()
        else:
            with pytest.raises(
                RunConflict, match=r"^shard-00000: [1-7] of 7 windows have no vectors, pieces have vanished"
            ):
                publish()
    left = {path.name for path in tmp_path.iterdir() if path.is_file()}
    made = {"shard-00000.parquet", "shard-00000.done.json"} if is_done_by_a_twin else {"shard-00000.parquet"}
    assert left == made


def once_not(is_done: Callable[..., bool]) -> Callable[..., bool]:
    """What it says from its second call on; a twin may finish between two looks."""
    calls: list[object] = []

    def look(*arguments: object) -> bool:
        calls.append(arguments)
        return len(calls) > 1 and is_done(*arguments)

    return look


def test_a_fault_of_a_piece_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pieces, "publish", fail)
    with ThreadPoolExecutor(1) as writer, pytest.raises(OSError, match="No space left"):
        loop_over(tmp_path, FakeModel(), writer).embed_shards(shards(tmp_path, 1))
    assert not is_done(tmp_path, "shard-00000", "f")


class PerToken(FakeModel):
    """A row for each token, which says its window's length and its own place."""

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        made = super().start(batch)()
        rows = [np.stack((np.full(len(tokens), len(tokens)), np.arange(len(tokens))), axis=1) for tokens in batch]
        return lambda: made._replace(vectors_BD=np.concatenate(rows).astype(np.float32))


def test_per_token_windows_stay_whole_through_pieces_twins_and_small_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin's piece holds windows that another piece holds too, and row groups end within windows."""
    monkeypatch.setattr("hpc_embed.run.vectors.ROW_GROUP_ROWS", 8)

    def piece(*keys: int) -> Vectors:
        rows = [(key, LENGTHS[key], place) for key in keys for place in range(LENGTHS[key])]
        window, length, place = (np.array(column) for column in zip(*rows, strict=True))
        return Vectors(window, length.astype(np.int32), np.stack((length, place), axis=1).astype(np.float32))

    pieces = Pieces(tmp_path / "work" / "shard-00000", "f")
    pieces.publish(piece(1, 4))
    pieces.publish(piece(4, 0))
    model = PerToken()
    marker, _ = embed(tmp_path, model)
    assert sum(len(batch) for batch in model.batches) == 4
    assert (marker.rows, marker.failed_windows) == (sum(LENGTHS), {})
    blocks = list(VectorFile(tmp_path / "outputs" / "shard-00000.parquet"))
    assert len(blocks) > 5
    keys, vectors = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("windows_N", "vectors_ND"))
    for key, length in enumerate(LENGTHS):
        mine = np.flatnonzero(keys == key)
        assert mine.tolist() == list(range(mine[0], mine[0] + length))
        assert vectors[mine].tolist() == [[length, place] for place in range(length)]


def test_per_token_one_bad_token_fails_its_window_and_no_other(tmp_path: Path) -> None:
    class Poisoned(PerToken):
        def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
            made = super().start(batch)()
            made.vectors_BD[(made.vectors_BD == (9, 4)).all(axis=1)] = np.inf
            return lambda: made

    marker, _ = embed(tmp_path, Poisoned())
    assert marker.failed_windows == {str(LENGTHS.index(9)): "the model gave NaN or infinity"}
    assert marker.rows == sum(LENGTHS) - 9


def test_a_piece_is_written_once_much_is_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[int] = []
    publish = Pieces.publish

    def note(pieces: Pieces, rows: Vectors) -> None:
        published.append(len(rows.windows_N))
        publish(pieces, rows)

    monkeypatch.setattr(Pieces, "publish", note)
    monkeypatch.setattr(loop_module, "MOST_WAITING_BYTES", 1)
    embed(tmp_path, FakeModel(), token_budget=1, piece_seconds=1e9)
    assert published == [1] * len(LENGTHS)
    published.clear()
    monkeypatch.setattr(loop_module, "MOST_WAITING_BYTES", 2 * 2 * 4)  # two vectors of two numbers
    (tmp_path / "again" / "work").mkdir(parents=True)
    embed(tmp_path / "again", FakeModel(), token_budget=1, piece_seconds=1e9)
    assert published == [2, 2, 2], "the last one goes into the output"


class Observed(FakeModel):
    """Notes what it is given to tokenise, where, and how many batches it has started and not finished."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[list[int]] = []
        self.threads: set[str] = set()
        self.num_in_flight = self.most_in_flight = 0
        self.order: list[str] = []

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        self.blocks.append([len(sequence) for sequence in sequences])
        self.threads.add(threading.current_thread().name)
        return super().tokenise(sequences)

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        finish = super().start(batch)
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        self.order.append("start")

        def finished() -> EmbeddedBatch:
            self.num_in_flight -= 1
            self.order.append("finish")
            return finish()

        return finished


@pytest.mark.parametrize(
    ("block_residues", "blocks"),
    [
        (1, [[40], [33], [20], [9], [7], [5], [1]]),
        (41, [[40, 33], [20, 9, 7, 5], [1]]),
        (73, [[40, 33], [20, 9, 7, 5, 1]]),
        (10**6, [[40, 33, 20, 9, 7, 5, 1]]),
    ],
)
def test_windows_are_tokenised_in_blocks_the_longest_first(
    block_residues: int, blocks: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "BLOCK_RESIDUES", block_residues)
    model = Observed()
    marker, _ = embed(tmp_path, model)
    assert model.blocks == blocks
    assert model.threads == {"tokenise_0"}
    assert sorted(length for batch in model.batches for length in batch) == sorted(LENGTHS)
    assert (marker.rows, marker.facts.num_tokens) == (7, sum(LENGTHS))
    (rows,) = VectorFile(tmp_path / "outputs" / "shard-00000.parquet")
    assert rows.vectors_ND[:, 0].tolist() == LENGTHS


def test_equal_lengths_are_taken_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, np.arange(6), [b"A", b"CC", b"D", b"EE", b"F", b"G"])
    assert loop_module._blocks(read_shard(path), [5, 0, 3, 1, 4]) == [[1, 3, 0, 4, 5]]


@pytest.mark.parametrize("block_residues", [1, 10**6])
def test_the_device_has_one_batch_to_do_while_another_is_finished_and_no_more(
    block_residues: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "BLOCK_RESIDUES", block_residues)
    model = Observed()
    embed(tmp_path, model, token_budget=1)
    assert (model.most_in_flight, model.num_in_flight) == (2, 0)
    assert model.order == ["start", *["start", "finish"] * 6, "finish"]


class Twin(FakeModel):
    """While the second batch is started a twin publishes the shard, or one of another plan does."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        super().__init__()
        self.folder, self.fingerprint = folder, fingerprint

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        if len(self.batches) == 1:
            outputs, name = self.folder / "outputs", "shard-00000"

            def write(file: BinaryIO) -> None:
                with VectorWriter(file, 2, {"fingerprint": self.fingerprint}) as writer:
                    writer.write(Vectors(np.arange(7), np.array(LENGTHS, np.int32), np.zeros((7, 2), np.float32)))

            draft = write_draft(outputs / name, write)
            facts = embed(self.folder / "aside", FakeModel())[0].facts
            publish_output(outputs, name, draft, self.fingerprint, list(range(7)), {}, facts)
        return super().start(batch)


@pytest.mark.parametrize(("fingerprint", "num_batches"), [("f", 2), ("another", 7)])
def test_a_shard_that_a_twin_finishes_meanwhile_is_not_gone_on_with(
    fingerprint: str, num_batches: int, tmp_path: Path
) -> None:
    (tmp_path / "aside" / "work").mkdir(parents=True)
    model = Twin(tmp_path, fingerprint)
    marker, events = embed(tmp_path, model, token_budget=1)
    assert len(model.batches) == num_batches
    assert marker.fingerprint == "f"
    (rows,) = VectorFile(tmp_path / "outputs" / "shard-00000.parquet")
    assert rows.vectors_ND.any() == (fingerprint != "f")
    assert events[-1] == ShardFinished("shard-00000", 7, 0)
    assert not (tmp_path / "work" / "shard-00000").exists()
