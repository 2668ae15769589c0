"""Several outputs of one run are what runs of their own give; rows for bases and for windows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.engine.bytepairs import untrained_bpe_json
from hpc_embed.errors import UsageError
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.run.layout import RunLayout
from hpc_embed.workers.registry import make_worker
from tests.conftest import Run
from tests.workers.checkpoints import PACKED, native

PROTEINS = b">long\n" + b"MKVLAAGIVGLLLAGCSWMKTAYIAKQRQ" + b"\n>b\nMKVLAAGIVG\n>empty\n\n>a\nM\n"
DNA = b">long\n" + b"ACGTTGCAACGTNACGTTTGACA" * 3 + b"\n>b\nGATTACA\n>empty\n\n>a\nA\n"
LIMIT = 17
"""Residues of a window, so that the first record has several."""


def dataset(
    folder: Path,
    checkpoint: Path | str,
    pooling: str,
    layer: str,
    fasta: bytes = PROTEINS,
    *,
    stride: int | None = None,
    max_residues: int | None = LIMIT,
) -> RunLayout:
    """A whole run in this process."""
    folder.mkdir()
    (folder / "in.fa").write_bytes(fasta)
    layout = RunLayout(folder / "run")
    settings = PlanSettings(
        fasta=(str(folder / "in.fa"),),
        model=str(checkpoint),
        pooling=pooling,
        layer=layer,
        max_residues=max_residues,
        stride=stride,
        num_shards=2,
        force_kind=True,
    )
    plan = make_plan(settings, layout).plan
    worker = make_worker(plan.model, plan.embedding, num_threads=1)
    shards = [layout.shard(index) for index in range(len(plan.shards))]
    outcome = worker.process_files_worker(shards, "cpu", 64, layout.outputs, fingerprint=plan.fingerprint)
    assert outcome.processed == shards
    gather(plan, layout, GatherSettings())
    return layout


Vectors = list[NDArray[np.float32] | None]


def column(layout: RunLayout, name: str) -> Vectors:
    values = pq.read_table(layout.dataset)[name].to_pylist()
    return [None if value is None else np.array(value, dtype=np.float32) for value in values]


def same_bits(ours: Vectors, theirs: Vectors) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(one is other if one is None or other is None else np.array_equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", ["prost_t5", "nucleotide"])
def test_each_column_has_the_bits_of_a_run_of_its_own(name: str, tmp_path: Path) -> None:
    kind, make = PACKED[name]
    checkpoint, fasta = make(tmp_path / "model"), PROTEINS if kind == "protein" else DNA
    together = dataset(tmp_path / "together", checkpoint, "mean_with_special,mean,max", "-1,0", fasta)
    beside = dataset(tmp_path / "beside", checkpoint, "per_token,mean,max", "0,-1", fasta)
    facts = json.loads(together.dataset_facts.read_text())
    assert facts["columns"][:3] == [
        "embedding_mean_with_special_2",
        "embedding_mean_with_special_0",
        "embedding_mean_2",
    ]
    for pooling, layer in (("mean", 2), ("mean", 0), ("max", 2), ("mean_with_special", 2), ("per_token", 2)):
        alone = column(dataset(tmp_path / f"{pooling}{layer}", checkpoint, pooling, str(layer), fasta), "embedding")
        for layout in (together, beside):
            if f"embedding_{pooling}_{layer}" in json.loads(layout.dataset_facts.read_text())["columns"]:
                ours = column(layout, f"embedding_{pooling}_{layer}")
                assert [each is None for each in ours] == [False, False, True, False]
                assert same_bits(ours, alone), (pooling, layer)


def test_transformers_own_models_give_several_outputs_too(tmp_path: Path) -> None:
    checkpoint = native(tmp_path / "bert", "bert")
    together = dataset(tmp_path / "together", checkpoint, "mean,per_token,max", "-1,1")
    alone = dataset(tmp_path / "alone", checkpoint, "max", "1")
    assert same_bits(column(together, "embedding_max_1"), column(alone, "embedding"))
    with pytest.raises(UsageError, match="how many special tokens"):
        dataset(tmp_path / "mixed", checkpoint, "mean,cls", "-1")


def offsets_by_hand(sequence: bytes) -> list[int]:
    """The word of six, or the letter, that each base lies in."""
    tokens, at = [], 0
    for run in sequence.decode().replace("N", " N ").split():
        for place in range(len(run)):
            whole = len(run) // 6 * 6
            tokens.append(at + (place // 6 if place < whole else whole // 6 + place - whole))
        at += len(run) // 6 + len(run) % 6
    return tokens


def test_each_base_has_its_words_vector(tmp_path: Path) -> None:
    checkpoint = PACKED["nucleotide"][1](tmp_path / "model")
    fasta = b">a\nACGTTGCAACGTNACGT\n>b\nGATTACA\n>c\nN\n"
    bases = column(dataset(tmp_path / "bases", checkpoint, "per_base", "-1", fasta), "embedding")
    tokens = column(dataset(tmp_path / "tokens", checkpoint, "per_token", "-1", fasta), "embedding")
    for sequence, by_base, by_token in zip((b"ACGTTGCAACGTNACGT", b"GATTACA", b"N"), bases, tokens, strict=True):
        assert by_base is not None
        assert by_token is not None
        assert np.array_equal(by_base, by_token[offsets_by_hand(sequence)])


def test_bases_follow_the_offsets_of_the_byte_pair_tokeniser() -> None:
    from tokenizers import Tokenizer

    from hpc_embed.engine.bytepairs import BpeTokenizer

    ours, theirs = BpeTokenizer(untrained_bpe_json()), Tokenizer.from_str(untrained_bpe_json())
    for sequence in ("ACGTTGCAACGTNACGTRYacgt", "GATTACA" * 9, "N"):
        (tokens,) = ours([sequence.encode()])
        spans = theirs.encode(sequence, add_special_tokens=False).offsets
        assert ours.letters_V[tokens].tolist() == [0, *(stop - start for start, stop in spans), 0]


def test_windows_stay_apart_with_their_places(tmp_path: Path) -> None:
    checkpoint = PACKED["prost_t5"][1](tmp_path / "model")
    apart = dataset(tmp_path / "apart", checkpoint, "per_window,max", "-1")
    table = pq.read_table(apart.dataset)
    assert table["id"].to_pylist() == ["long", "long", "b", "empty", "a"]
    assert list(zip(table["start"].to_pylist(), table["stop"].to_pylist(), strict=True)) == [
        (0, 14),
        (14, 29),
        (0, 10),
        (None, None),
        (0, 1),
    ]
    assert table["num_windows"].to_pylist() == [2, 2, 1, 0, 1]
    sequence = PROTEINS.split(b"\n")[1]
    pieces = b">1\n" + sequence[:14] + b"\n>2\n" + sequence[14:] + b"\n"
    by_hand = column(dataset(tmp_path / "by_hand", checkpoint, "max", "-1", pieces), "embedding")
    ours = column(apart, "embedding")
    for expected, vector in zip(by_hand, ours[:2], strict=True):
        assert vector is not None
        assert expected is not None
        assert np.array_equal(vector, expected)
    assert json.loads(apart.dataset_facts.read_text())["statuses"] == {"embedded": 2, "skipped": 1, "windowed": 1}


@pytest.mark.parametrize("stride", [5, 17])
def test_with_a_stride_each_residue_counts_by_the_windows_that_hold_it(tmp_path: Path, stride: int) -> None:
    checkpoint = PACKED["prost_t5"][1](tmp_path / "model")
    sequence = PROTEINS.split(b"\n")[1]
    last = len(sequence) - LIMIT  # begin at most a stride apart, evenly, and end with the record
    number = 1 + -(-last // stride)
    starts = [last * at // (number - 1) for at in range(number)]
    assert max(b - a for a, b in pairwise(starts)) <= stride
    pieces = b"".join(b">%d\n%b\n" % (start, sequence[start : start + LIMIT]) for start in starts)
    residues = column(dataset(tmp_path / "residues", checkpoint, "per_token", "-1", pieces), "embedding")
    every_pair = np.concatenate([each for each in residues if each is not None]).astype(np.float64)
    layout = dataset(tmp_path / "stride", checkpoint, "mean,max", "-1", stride=stride)
    mean, largest = (column(layout, f"embedding_{pooling}_2")[0] for pooling in ("mean", "max"))
    assert mean is not None
    assert np.abs(mean - every_pair.mean(axis=0)).max() <= 1e-5 * (1 + np.abs(mean).max())
    assert largest is not None
    assert np.array_equal(largest, every_pair.max(axis=0).astype(np.float32))
    apart = pq.read_table(dataset(tmp_path / "apart", checkpoint, "per_window", "-1", stride=stride).dataset)
    assert apart["start"].to_pylist() == [*starts, 0, None, 0]
    assert apart["stop"].to_pylist() == [*(start + LIMIT for start in starts), 10, None, 1]


@pytest.mark.parametrize(
    ("stride", "max_residues", "pooling", "problem"),
    [
        (18, LIMIT, "mean", "would leave gaps"),
        (5, None, "mean", "no record is split"),
        (5, LIMIT, "per_token", "would have several rows"),
    ],
)
def test_a_stride_that_means_nothing_is_refused(
    tmp_path: Path, stride: int, max_residues: int | None, pooling: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        dataset(tmp_path / "x", "prot_t5_xl:untrained", pooling, "-1", stride=stride, max_residues=max_residues)


def test_the_plan_tells_rows_and_columns(run: Run, lambda_phage: Path) -> None:
    said = run(
        "plan", lambda_phage, "--model", "nt_v2_50m:untrained", "--pooling", "per_window,mean,max", "--layer", "-1,3"
    )
    assert "pooling per_window,mean,max, layers 12, 3" in said.stdout
    assert "5 rows, about 40 KiB" in said.stdout


@pytest.mark.parametrize(
    ("pooling", "layer", "problem"),
    [
        ("mean,median", "-1", "--pooling median: esm2_t6_8M:untrained has none of that name."),
        ("per_window,per_token", "-1", "rows for letters are rows of no window"),
        ("mean", "1,two", "--layer 1,two: not a layer or several."),
        ("mean", "0,9", "has layers 0 to 6"),
        ("per_base", "-1", "has none of that name"),
    ],
)
def test_what_cannot_be_given_is_refused(tmp_path: Path, pooling: str, layer: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        dataset(tmp_path / "x", "esm2_t6_8M:untrained", pooling, layer)
