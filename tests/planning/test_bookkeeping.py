"""What the plan rests on: each letter in the digest, each setting in the fingerprint, each window where it belongs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import RunConflict
from hpc_embed.planning.forecast import forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Embedding, InputFile, Plan, fingerprint
from hpc_embed.run.shard_table import ShardFacts
from hpc_embed.run.shards import read_shard

RECORDS = b">a first\nMKVLAAGIVG\n>b\nWYVT\n>long\nACDEFGHIKLMNPQRSTVWY\n"
EMBEDDING = Embedding(
    pooling="mean",
    layer=6,
    precision="auto",
    on_long="window",
    max_residues=1022,
    on_invalid="unknown",
    case="upper",
)
INPUTS = tuple(InputFile(path="x", digest=digest, num_records=1, num_residues=1) for digest in ("d0", "d1"))


def plan(folder: Path, content: bytes = RECORDS, run: str = "run", **settings: object) -> Plan:
    (folder / "in.fa").write_bytes(content)
    chosen = {"model": "aa_composition", "num_shards": 2, "force_kind": True, **settings}
    return make_plan(PlanSettings(fasta=(str(folder / "in.fa"),), **chosen), RunLayout(folder / run)).plan  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        RECORDS.replace(b"WYVT", b"WYVA"),
        RECORDS.replace(b"WYVT", b"TVYW"),
        RECORDS.replace(b">b", b">c"),
        RECORDS.replace(b"a first", b"a second"),
        RECORDS.replace(b">a first\nMKVLAAGIVG\n>b\nWYVT\n", b">b\nWYVT\n>a first\nMKVLAAGIVG\n"),
        RECORDS + b">more\nMK\n",
        RECORDS.replace(b"WYVT", b"WYVt"),
    ],
    ids=["a letter", "order of letters", "id", "description", "order of records", "a record more", "case"],
)
def test_another_input_in_the_same_folder_is_refused(changed: bytes, tmp_path: Path) -> None:
    plan(tmp_path)
    with pytest.raises(RunConflict, match="input"):
        plan(tmp_path, changed)


@pytest.mark.parametrize("name", [field.name for field in fields(Embedding)])
def test_every_setting_of_the_embedding_is_in_the_fingerprint(name: str, tmp_path: Path) -> None:
    model = plan(tmp_path).model
    value = getattr(EMBEDDING, name)
    other = replace(EMBEDDING, **{name: value + 1 if isinstance(value, int) else "other"})  # type: ignore[arg-type]
    assert fingerprint(model, other, INPUTS) != fingerprint(model, EMBEDDING, INPUTS)


@pytest.mark.parametrize("name", ["name", "digest"])
def test_model_and_every_input_in_its_order_are_in_the_fingerprint(name: str, tmp_path: Path) -> None:
    model = plan(tmp_path).model
    ours = fingerprint(model, EMBEDDING, INPUTS)
    assert fingerprint(replace(model, **{name: "other"}), EMBEDDING, INPUTS) != ours
    for inputs in (INPUTS[:1], INPUTS[1:], INPUTS[::-1], (INPUTS[0], replace(INPUTS[1], digest="d2"))):
        assert fingerprint(model, EMBEDDING, inputs) != ours
    assert fingerprint(replace(model, folder="elsewhere"), EMBEDDING, INPUTS) == ours


def test_windows_of_later_batches_of_records_are_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(pq.ParquetFile):  # type: ignore[misc]
        def iter_batches(self) -> object:
            return super().iter_batches(batch_size=2)

    monkeypatch.setattr(pq, "ParquetFile", Small)
    content = b"".join(b">r%d\n%s\n" % (i, b"MKVWY"[: i + 1]) for i in range(5))
    plan(tmp_path, content)
    monkeypatch.undo()
    rows = pq.read_table(tmp_path / "run" / "records.parquet").to_pylist()
    assert [(row["ordinal"], row["windows"]) for row in rows] == [(i, [i]) for i in range(5)]


def sequences(folder: Path, made: Plan, run: str) -> list[bytes]:
    shards = [read_shard(RunLayout(folder / run).shard(index)) for index in range(len(made.shards))]
    return sorted(sequence for shard in shards for sequence in shard.sequences_N)


def test_a_truncated_record_has_exactly_as_many_residues_as_the_limit(tmp_path: Path) -> None:
    made = plan(tmp_path, run="cut", max_residues=7, on_long="truncate")
    assert sequences(tmp_path, made, "cut") == [b"ACDEFGH", b"MKVLAAG", b"WYVT"]


def test_lower_case_is_raised_or_kept_as_asked(tmp_path: Path) -> None:
    for case, expected in (("upper", [b"MKV"]), ("keep", [b"MKv"])):
        made = plan(tmp_path, b">a\nMKv\n", run=case, case=case)
        assert sequences(tmp_path, made, case) == expected
        assert made.totals.num_unknown_letters == (case == "keep")


def test_the_spread_of_a_forecast_is_the_largest_shard_over_the_mean(tmp_path: Path) -> None:
    facts = [ShardFacts(num_windows=1, num_residues=1, num_tokens=1, flops=flops) for flops in (10, 20, 60)]
    figures = forecast(replace(plan(tmp_path), shards=tuple(facts)), "run", "a100")
    assert figures.spread == 2
    assert figures.total_flops == 90
