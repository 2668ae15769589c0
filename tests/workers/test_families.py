"""The contract, with every pooling, on checkpoints of the newer families as they lie on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpc_embed.model import PER_TOKEN, Model
from hpc_embed.run.identity import pin_model
from hpc_embed.run.plan import Embedding
from hpc_embed.run.shards import write_shard
from hpc_embed.run.vectors import VectorFile
from hpc_embed.workers.base import BaseEmbeddingWorker
from hpc_embed.workers.registry import make_worker
from hpc_embed.workers.transformer import TransformerWorker
from hpc_embed.workers.verification import verify
from tests.workers.checkpoints import PACKED
from tests.workers.test_contract import SEQUENCES, vectors_of, write_shards

FAMILY_OF = {
    "esmc": "esmc",
    "prot_t5": "t5",
    "prost_t5": "t5",
    "ankh": "ankh",
    "nucleotide": "nucleotide_transformer",
}


def worker_of(folder: Path, pooling: str) -> tuple[Model, BaseEmbeddingWorker]:
    model, identity = pin_model(str(folder), None, None)
    embedding = Embedding(
        pooling=pooling,
        layer=model.num_layers,
        precision="fp32",
        on_long="window",
        max_residues=model.max_residues,
        on_invalid="unknown",
        case="upper",
    )
    return model, make_worker(identity, embedding, num_threads=1)


@pytest.mark.parametrize("name", PACKED)
def test_a_checkpoint_keeps_the_contract_with_every_pooling(name: str, tmp_path: Path) -> None:
    folder = PACKED[name][1](tmp_path / "model")
    model, _ = worker_of(folder, "mean")
    assert (model.family, model.kind) == (FAMILY_OF[name], PACKED[name][0])
    assert ("cls" in model.poolings) == (model.family not in ("t5", "ankh"))
    paths = write_shards(tmp_path, model)
    rows = {}
    for pooling in model.poolings:
        outputs = tmp_path / pooling
        outputs.mkdir()
        processed, failed = worker_of(folder, pooling)[1].process_files_worker(paths, "cpu", 4096, outputs)
        assert (processed, failed) == (paths, [])
        files = [VectorFile(outputs / path.name) for path in paths]
        assert {file.dimension for file in files} == {model.dimension}
        blocks = [next(iter(file)) for file in files]
        assert all(np.isfinite(block.vectors_ND).all() for block in blocks)
        rows[pooling] = {
            key: block.vectors_ND[block.windows_N == key] for block in blocks for key in block.windows_N.tolist()
        }
    for key, mean in rows["mean"].items():
        assert np.abs(rows[PER_TOKEN][key].mean(axis=0) - mean[0]).max() <= 1e-5 * (1 + np.abs(mean).max())
        assert (rows["max"][key][0] == rows[PER_TOKEN][key].max(axis=0)).all()


@pytest.mark.parametrize("name", PACKED)
def test_a_residue_is_a_row_and_a_prefix_is_none(name: str, tmp_path: Path) -> None:
    kind, make = PACKED[name]
    _, worker = worker_of(make(tmp_path / "model"), PER_TOKEN)
    loaded = worker.load("cpu")
    made = loaded.start(loaded.tokenise(SEQUENCES[kind]))()
    expected = [len(sequence) for sequence in SEQUENCES[kind]] if kind == "protein" else [40, 1, 5, 35]
    assert made.num_tokens_B.tolist() == expected


@pytest.mark.parametrize("name", PACKED)
def test_a_vector_is_bit_identical_whatever_the_token_budget(name: str, tmp_path: Path) -> None:
    folder = PACKED[name][1](tmp_path / "model")
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, np.arange(4), SEQUENCES[PACKED[name][0]])
    found = []
    for budget in (100_000, 1):
        outputs = tmp_path / str(budget)
        outputs.mkdir()
        worker_of(folder, "mean")[1].process_files_worker([path], "cpu", budget, outputs)
        found.append(vectors_of(outputs / path.name))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", PACKED)
def test_verify_agrees_with_what_transformers_makes_of_the_folder(name: str, tmp_path: Path) -> None:
    model, worker = worker_of(PACKED[name][1](tmp_path / "model"), "mean")
    assert isinstance(worker, TransformerWorker)
    _, found = verify(worker, "cpu", model.kind)
    assert {each.precision for each in found} >= {"fp32"}
    assert all(each.is_well for each in found)
