"""What the plan rests on: each letter in the digest, each setting in the fingerprint, each window where it belongs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import RunConflict
from hpc_embed.planning import forecast as forecast_module
from hpc_embed.planning.forecast import INDEX_BYTES_PER_ROW, describe, forecast, seconds_on
from hpc_embed.planning.planner import make_plan
from hpc_embed.planning.simulation import Site, simulate
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Cost, Embedding, InputFile, Plan, Totals, fingerprint
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


def test_a_run_on_several_devices_is_foretold_with_a_start_that_loads_the_weights_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def note(seconds: list[float], shards_per_task: int, site: Site) -> object:
        asked.append((seconds, shards_per_task, site))
        return simulate(seconds, shards_per_task, site)

    monkeypatch.setattr(forecast_module, "simulate", note)
    made = plan(tmp_path)
    weight_bytes = 2 * made.cost.linear_flops
    forecast(made, "run", "a100")
    seconds = [seconds_on("a100", made.cost, shard.flops, shard.num_tokens) for shard in made.shards]
    assert asked == [(seconds, 1, Site(2, weight_bytes=weight_bytes, start_seconds=20 + weight_bytes / 1e9))]


def test_a_forecast_tells_a_person_everything_in_its_order(tmp_path: Path) -> None:
    made = plan(tmp_path, RECORDS + b">a\nMKZ\n>e\n", max_residues=7)
    assert describe(forecast(made, "embed-run", "a100")) == [
        ("run folder", "embed-run"),
        ("model", "aa_composition, pooling frequency"),
        ("records", "5: 2 whole, 2 in windows, 1 SKIPPED (reasons in records.parquet)"),
        ("repeated ids", "1 records (kept, told apart by ordinal)"),
        ("unknown letters", "1, embedded as unknown"),
        ("residues", "37"),
        ("windows", "7, of which 7 different"),
        ("tokens", "37"),
        ("shards", "2, largest over mean 1.0811"),
        ("estimate", "less than 0.1 s on one a100, all shards"),
        ("", "assumes 40% of data-sheet peak; no padding, start-up or queue"),
        ("on 2", "24 s, start-up included; 47 s held"),
        ("dataset", "5 rows, about 8.7 KiB"),
    ]
    totals = replace(made.totals, num_embedded=1200, num_windowed=0, num_truncated=4, num_skipped=0)
    made = replace(made, totals=totals, model=replace(made.model, licence="a licence"))
    rows = describe(forecast(made, "embed-run", "a100"))
    assert rows[1:5] == [
        ("model", "aa_composition, pooling frequency"),
        ("licence", "a licence"),
        ("records", "5: 1,200 whole, 4 truncated"),
        ("repeated ids", "1 records (kept, told apart by ordinal)"),
    ]
    plain = describe(forecast(plan(tmp_path, run="plain"), "embed-run", "a100"))
    assert plain[2:4] == [("records", "3: 3 whole"), ("residues", "34")]


@pytest.mark.parametrize(
    ("pooling", "layer", "rows", "num_vectors", "told"),
    [
        ("mean", 6, 5, 5, "mean"),
        ("mean,max", (6, 3, 0), 5, 5, "mean,max, layers 6, 3, 0"),
        ("per_token", 6, 5, 70, "per_token"),
        ("per_base", 6, 5, 60, "per_base"),
        ("per_window", 6, 9 + 2, 9 + 2, "per_window"),
        ("per_token,mean", 6, 5, 70 + 5, "per_token,mean"),
    ],
)
def test_a_forecast_counts_the_rows_of_every_pooling(
    pooling: str, layer: int | tuple[int, ...], rows: int, num_vectors: int, told: str, tmp_path: Path
) -> None:
    totals = Totals(
        num_records=5, num_embedded=2, num_windowed=1, num_truncated=0, num_skipped=2, num_duplicate_ids=0,
        num_unknown_letters=0, num_residues=60, num_windows=9, num_unique_windows=8, num_tokens=70,
    )  # fmt: skip
    embedding = replace(EMBEDDING, pooling=pooling, layer=layer)
    made = replace(plan(tmp_path), totals=totals, embedding=embedding, dimension=24)
    figures = forecast(made, "here", "a100")
    assert (figures.dataset_rows, figures.pooling) == (rows, told)
    assert figures.dataset_bytes == 4 * 24 * num_vectors + INDEX_BYTES_PER_ROW * rows
    assert (figures.run_dir, figures.model, figures.licence) == ("here", "aa_composition", made.model.licence)
    assert figures.fingerprint == made.fingerprint


def test_a_run_of_one_shard_or_of_very_many_is_not_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(tmp_path)
    shard = made.shards[0]
    monkeypatch.setattr(forecast_module, "MOST_SIMULATED", 3)
    simulated = [bool(forecast(replace(made, shards=[shard] * number), "r", "a100").runs) for number in (1, 2, 3, 4)]
    assert simulated == [False, True, True, False]


def test_seconds_are_those_of_the_data_sheet_s_peak_or_of_its_bandwidth() -> None:
    cost = Cost(linear_flops=10**6, quadratic_flops=4 * 33 * 1280)
    assert seconds_on("a100", cost, 312e12 * 0.4 * 7, 1) == pytest.approx(7, rel=1e-14)
    moved = 10**9 * 33 * 1280 * 50
    assert seconds_on("l4", cost, 1.0, 10**9) == pytest.approx(moved / (0.3e12 * 0.6), rel=1e-14)
