"""One contract test over every registered worker."""

from __future__ import annotations

import pickle
from pathlib import Path
from queue import Queue

import numpy as np
import pytest

from hpc_embed.errors import EnvironmentFault, Interrupted
from hpc_embed.model import Model
from hpc_embed.progress import Event, ShardFailed, ShardFinished, WorkerReady
from hpc_embed.registry import ANY_ENCODER, models
from hpc_embed.run.identity import pin_model
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import Embedding
from hpc_embed.run.shards import write_shard
from hpc_embed.run.vectors import VectorFile
from hpc_embed.workers.base import BaseEmbeddingWorker
from hpc_embed.workers.registry import make_worker

SEQUENCES = {
    "protein": [b"MKTAYIAKQRQISFVKSHFSRQ", b"M", b"GGAVLIMFWP" * 9, b"MJXK"],
    "dna": [b"ACGTTGCAACGT" * 20, b"A", b"ACGTN", b"GATTACA" * 30],
}
UNTRAINED = [name for name, model in models().items() if model.family != ANY_ENCODER.family]
"""Those that run without a checkpoint; the others are tried in test_native.py."""
SMALL_ENOUGH = [
    name
    for name, model in models().items()
    if name in UNTRAINED
    and model.num_parameters < 200_000_000
    and model.hidden != 640
    and model.family != "nucleotide_transformer"
]
"""The larger sizes share every line of code with these and take minutes on a CPU; the newer families keep the contract
on small checkpoints in test_families.py."""


def worker_of(name: str, pooling: str | None = None, precision: str = "auto") -> BaseEmbeddingWorker:
    model = models()[name]
    _, identity = pin_model(f"{name}:untrained" if model.has_weights else name, None, model.kind)
    embedding = Embedding(
        pooling=pooling or model.pooling,
        layer=model.num_layers,
        precision=precision,
        on_long="window",
        max_residues=model.max_residues,
        on_invalid="unknown",
        case="upper",
    )
    return make_worker(identity, embedding, num_threads=1)


def write_shards(folder: Path, model: Model) -> list[Path]:
    sequences = SEQUENCES[model.kind]
    paths = [folder / "shard-00000.parquet", folder / "shard-00001.parquet"]
    write_shard(paths[0], np.array([0, 1]), sequences[:2])
    write_shard(paths[1], np.array([2, 7]), sequences[2:])
    return paths


def vectors_of(path: Path) -> dict[int, bytes]:
    return {
        int(key): vector.tobytes()
        for rows in VectorFile(path)
        for key, vector in zip(rows.windows_N, rows.vectors_ND, strict=True)
    }


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_worker_keeps_the_contract(name: str, tmp_path: Path) -> None:
    model, outputs = models()[name], tmp_path / "outputs"
    outputs.mkdir()
    worker = pickle.loads(pickle.dumps(worker_of(name)))  # noqa: S301
    good = write_shards(tmp_path, model)
    damaged = tmp_path / "shard-00002.parquet"
    damaged.write_bytes(b"PAR1 no")
    events: Queue[Event] = Queue()

    processed, failed = worker.process_files_worker(
        [*good, damaged], "cpu", 4096, outputs, fingerprint="f", events=events
    )

    assert processed == good
    assert [path for path, _ in failed] == [damaged]
    assert "damaged" in failed[0].message
    seen = [events.get() for _ in range(events.qsize())]
    assert isinstance(seen[0], WorkerReady)
    assert [event.shard for event in seen if isinstance(event, ShardFinished)] == ["shard-00000", "shard-00001"]
    assert [event.shard for event in seen if isinstance(event, ShardFailed)] == ["shard-00002"]
    for path, keys in zip(good, ([0, 1], [2, 7]), strict=True):
        marker = read_marker(outputs, path.stem)
        assert marker is not None
        assert (marker.rows, marker.fingerprint, dict(marker.failed_windows)) == (2, "f", {})
        file = VectorFile(outputs / path.name)
        assert file.dimension == model.dimension
        rows = next(iter(file))
        assert sorted(rows.windows_N.tolist()) == keys
        assert np.isfinite(rows.vectors_ND).all()
        assert (rows.num_tokens_N > 0).all()


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_a_vector_is_bit_identical_whatever_the_shard_and_the_token_budget(name: str, tmp_path: Path) -> None:
    model = models()[name]
    by_shard = {}
    for label, budget in (("together", 100_000), ("apart", 1)):
        outputs = tmp_path / label
        outputs.mkdir()
        path = tmp_path / f"{label}.parquet"
        write_shard(path, np.arange(4), SEQUENCES[model.kind])
        worker_of(name).process_files_worker([path], "cpu", budget, outputs)
        by_shard[label] = vectors_of(outputs / path.name)
    assert by_shard["together"] == by_shard["apart"]
    assert len(by_shard["apart"]) == 4


@pytest.mark.parametrize("name", SMALL_ENOUGH)
def test_token_budget_is_measured_and_positive(name: str) -> None:
    assert worker_of(name).get_optimal_batch_size("cpu") >= 256


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_precision_is_refused_on_a_cpu_without_it_before_any_weight_is_made(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_embed.engine.processor.flags", set)
    worker = worker_of("esm2_t6_8M", precision=precision)
    with pytest.raises(EnvironmentFault, match=f"has no {precision.upper()}"):
        worker.load("cpu")
    worker.force_precision = True
    assert worker.load("cpu").precision == precision


@pytest.mark.parametrize("name", UNTRAINED)
def test_unknown_keyword_arguments_are_a_type_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="batch_sise"):
        worker_of(name).process_files_worker([], "cpu", 1, tmp_path, batch_sise=3)  # type: ignore[call-arg]


def test_a_stopped_worker_publishes_what_it_finished_and_goes_on_from_there(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, np.arange(4), SEQUENCES["protein"])
    worker = worker_of("aa_composition")
    with pytest.raises(Interrupted):
        worker.process_files_worker([path], "cpu", 1, outputs, should_stop=lambda: True)
    pieces = list((outputs / "work" / "shard-00000").glob("piece-*.parquet"))
    assert len(pieces) == 1
    assert not (outputs / "shard-00000.parquet").exists()

    events: Queue[Event] = Queue()
    worker.process_files_worker([path], "cpu", 1, outputs, events=events)
    marker = read_marker(outputs, "shard-00000")
    assert marker is not None
    assert (marker.rows, marker.facts.num_windows_computed) == (4, 3)
    assert not pieces[0].exists()


@pytest.mark.parametrize("name", ["esm2_t6_8M", "dnabert_s"])
def test_without_pooling_each_token_has_its_vector_and_their_mean_is_the_mean(name: str, tmp_path: Path) -> None:
    kind = models()[name].kind
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, np.arange(4), SEQUENCES[kind])
    blocks = {}
    for pooling in ("mean", "per_token"):
        outputs = tmp_path / pooling
        outputs.mkdir()
        processed, _ = worker_of(name, pooling).process_files_worker([path], "cpu", 64, outputs)
        assert processed == [path]
        (blocks[pooling],) = VectorFile(outputs / path.name)
    means, tokens = blocks["mean"], blocks["per_token"]
    for key, num_tokens, mean in zip(*means, strict=True):
        rows = tokens.vectors_ND[tokens.windows_N == key]
        assert len(rows) == num_tokens
        assert np.abs(rows.mean(axis=0) - mean).max() <= 1e-5
