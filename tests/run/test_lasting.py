"""Digests and files that a version must find as the one before wrote them, or no run goes on after an update."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpc_embed.run.files import write_json
from hpc_embed.run.identity import ModelIdentity
from hpc_embed.run.intake import Intake
from hpc_embed.run.layout import RunLayout, shard_table_path, withdrawn_folder
from hpc_embed.run.markers import digest_of_outputs
from hpc_embed.run.outputs import Outputs, outputs_of
from hpc_embed.run.plan import PLAN_FORMAT, Cost, Embedding, Plan, Totals, fingerprint, read_plan
from hpc_embed.run.shard_table import ShardFacts
from tests.planning.test_bookkeeping import EMBEDDING, INPUTS

MODEL = ModelIdentity(
    name="esm2_t6_8M", registry_name="esm2_t6_8M", source="hub", revision="r", folder="f", digest="ab" * 32
)
PLAN = Plan(
    version="0",
    fingerprint="cd" * 32,
    kind="protein",
    dimension=320,
    model=MODEL,
    embedding=EMBEDDING,
    inputs=INPUTS,
    totals=Totals(**dict.fromkeys(Totals.__dataclass_fields__, 3)),
    cost=Cost(linear_flops=5, quadratic_flops=7),
    shards=tuple(ShardFacts(num_windows=n, num_residues=9, num_tokens=11, flops=13) for n in (1, 2)),
)


@pytest.mark.parametrize(
    ("embedding", "intake", "digest"),
    [
        (EMBEDDING, None, "7fe728a4d712"),
        (EMBEDDING, Intake(), "7fe728a4d712"),
        (EMBEDDING, Intake(gaps="drop"), "4fdf8396489f"),
        (replace(EMBEDDING, stride=500), None, "ded6c0f6277f"),
        (replace(EMBEDDING, pooling="mean,max", layer=(6, 0), max_residues=None), None, "90c0a632703a"),
    ],
    ids=["as by default", "nothing taken otherwise", "gaps dropped", "windows that overlap", "several outputs"],
)
def test_a_fingerprint_lasts(embedding: Embedding, intake: Intake | None, digest: str) -> None:
    assert fingerprint(MODEL, embedding, INPUTS, intake)[:12] == digest


def test_the_digest_of_outputs_lasts() -> None:
    assert digest_of_outputs(["ab", "", "cd"])[:12] == "62819ff3c163"


@pytest.mark.parametrize(
    ("pooling", "layer", "outputs"),
    [
        ("mean", 6, Outputs(("mean",), (6,))),
        ("mean,max", [6, 0], Outputs(("mean", "max"), (6, 0))),
        ("per_window,mean", (6,), Outputs(("mean",), (6,), is_per_window=True)),
    ],
)
def test_outputs_are_read_from_their_names(pooling: str, layer: int | list[int], outputs: Outputs) -> None:
    assert outputs_of(pooling, layer) == outputs


def test_layers_from_json_are_those_of_the_plan() -> None:
    several = replace(EMBEDDING, layer=(6, 0))
    assert Embedding(**json.loads(json.dumps(asdict(several)))) == several


def test_json_is_written_a_field_a_line_with_letters_as_they_are(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "é", "inner": {"number": 1}})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n "name": "é",\n "inner": {\n  "number": 1\n }\n}\n'


@pytest.mark.parametrize("intake", [Intake(), Intake(gaps="drop", genetic_code=11)], ids=["nothing", "something"])
def test_a_plan_says_what_it_is_and_is_read_again(intake: Intake, tmp_path: Path) -> None:
    path = RunLayout(tmp_path).plan
    replace(PLAN, intake=intake).write(path)
    content = json.loads(path.read_text("utf-8"))
    assert next(iter(content)) == "format"
    assert content["format"] == PLAN_FORMAT == 2
    assert content["num_shards"] == 2
    assert "shards" not in content
    assert content.get("intake") == (intake.settings or None)
    read = read_plan(path)
    assert replace(read, shards=tuple(read.shards)) == replace(PLAN, intake=intake)


def test_the_shard_table_is_small_and_without_what_nobody_reads(tmp_path: Path) -> None:
    path = RunLayout(tmp_path).plan
    PLAN.write(path)
    column = pq.read_metadata(shard_table_path(path)).row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert not column.is_stats_set


def test_what_is_withdrawn_lies_in_its_own_folder(tmp_path: Path) -> None:
    assert withdrawn_folder(tmp_path) == tmp_path / "withdrawn"
