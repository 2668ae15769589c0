"""Plans: what they hold, that they repeat, what they refuse."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.planning import distribution, keys, planner, records, routing, scan, scratch
from hpc_embed.planning.cost import cost_of
from hpc_embed.planning.dealing import Dealing
from hpc_embed.planning.forecast import INDEX_BYTES_PER_ROW, describe, forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.planning.scratch import scratch_folder
from hpc_embed.planning.verdicts import Judge, Judged
from hpc_embed.registry import find_model
from hpc_embed.run import leftovers
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import PLAN_FORMAT, Plan, read_plan
from hpc_embed.run.shards import read_shard
from hpc_embed.sequences import kernel, sources
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.fasta import read_fasta

FASTA = b">a first\nMKVLAAGIVG\n>b\nMKVLAAGIVG\n>empty\n>a again\nMKV\n>long\n" + b"MKVLAAGIVGLLLAGCS" * 100 + b"W\n"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_bytes(FASTA)
    return path


def plan(fasta: Path | tuple[str, ...], run: Path, **settings: object) -> Plan:
    inputs = fasta if isinstance(fasta, tuple) else (str(fasta),)
    chosen = {"fasta": inputs, "model": "esm2_t6_8M:untrained", "num_shards": 2, **settings}
    return make_plan(PlanSettings(**chosen), RunLayout(run)).plan  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_record_has_its_status_and_its_windows(fasta: Path, tmp_path: Path) -> None:
    made = plan(fasta, tmp_path / "run")
    rows = pq.read_table(tmp_path / "run" / "records.parquet").to_pylist()
    assert [(row["ordinal"], row["id"], row["status"], row["reason"], row["windows"]) for row in rows] == [
        (0, "a", "embedded", "", [0]),
        (1, "b", "embedded", "", [0]),
        (2, "empty", "skipped", "empty", []),
        (3, "a", "embedded", "", [1]),
        (4, "long", "windowed", "1701 residues, the limit is 1022", [2, 3]),
    ]
    assert (made.totals.num_duplicate_ids, made.totals.num_windows, made.totals.num_unique_windows) == (1, 5, 4)


def test_identical_windows_are_embedded_once_and_shards_hold_each_key_once(fasta: Path, tmp_path: Path) -> None:
    plan(fasta, tmp_path / "run")
    shards = [read_shard(RunLayout(tmp_path / "run").shard(index)) for index in range(2)]
    by_key = {
        key: sequence
        for shard in shards
        for key, sequence in zip(shard.windows_N.tolist(), shard.sequences_N, strict=True)
    }
    assert sum(len(shard.windows_N) for shard in shards) == 4
    assert by_key[0] == b"MKVLAAGIVG"
    assert by_key[1] == b"MKV"
    assert by_key[2] + by_key[3] == b"MKVLAAGIVGLLLAGCS" * 100 + b"W"


def test_the_same_input_gives_the_same_bytes(fasta: Path, tmp_path: Path) -> None:
    plan(fasta, tmp_path / "one")
    plan(fasta, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_planning_again_changes_nothing(fasta: Path, tmp_path: Path) -> None:
    plan(fasta, tmp_path / "run")
    before = contents(tmp_path / "run")
    assert not make_plan(
        PlanSettings(fasta=(str(fasta),), model="esm2_t6_8M:untrained"), RunLayout(tmp_path / "run")
    ).is_new
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pooling": "cls"}, "pooling"),
        ({"layer": 3}, "layer"),
        ({"precision": "bf16"}, "precision"),
        ({"max_residues": 500}, "max_residues"),
        ({"on_long": "truncate"}, "on_long"),
        ({"model": "esm2_t12_35M:untrained"}, "model"),
        ({"num_shards": 3}, "2 shards"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused_and_names_what_changed(
    fasta: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    plan(fasta, tmp_path / "run")
    with pytest.raises(RunConflict, match=named):
        plan(fasta, tmp_path / "run", **change)


def test_other_sequences_or_other_ids_in_the_same_folder_are_refused(fasta: Path, tmp_path: Path) -> None:
    plan(fasta, tmp_path / "run")
    for other in (FASTA.replace(b">b\n", b">c\n"), FASTA.replace(b"MKV\n", b"MKL\n")):
        fasta.write_bytes(other)
        with pytest.raises(RunConflict, match="input"):
            plan(fasta, tmp_path / "run")


def test_other_line_lengths_and_compression_are_the_same_input(fasta: Path, tmp_path: Path) -> None:
    plan(fasta, tmp_path / "run")
    fasta.write_bytes(gzip.compress(FASTA.replace(b"MKVLAAGIVG\n", b"MKVLA\nAGIVG\n")))
    assert plan(fasta, tmp_path / "run") == read_plan(tmp_path / "run" / "plan.json")


@pytest.mark.parametrize(
    ("policy", "status", "windows"),
    [("truncate", "truncated", 1), ("skip", "skipped", 0), ("window", "windowed", 2)],
)
def test_overlong_records_go_the_way_that_was_chosen(
    fasta: Path, tmp_path: Path, policy: str, status: str, windows: int
) -> None:
    plan(fasta, tmp_path / "run", on_long=policy)
    row = pq.read_table(tmp_path / "run" / "records.parquet").to_pylist()[4]
    assert (row["status"], len(row["windows"])) == (status, windows)


def test_invalid_letters_are_skipped_with_a_reason_or_counted(fasta: Path, tmp_path: Path) -> None:
    fasta.write_bytes(b">a\nMKJ\n>b\nMKV\n")
    plan(fasta, tmp_path / "skip", on_invalid="skip")
    row = pq.read_table(tmp_path / "skip" / "records.parquet").to_pylist()[0]
    assert (row["status"], row["reason"]) == ("skipped", "letter 'J' unknown to esm2_t6_8M:untrained")
    assert plan(fasta, tmp_path / "unknown").totals.num_unknown_letters == 1


def test_dna_for_a_protein_model_is_refused_unless_forced(tmp_path: Path) -> None:
    fasta = tmp_path / "dna.fa"
    fasta.write_bytes(b">d\n" + b"ACGT" * 100)
    with pytest.raises(BadInput, match="these are nucleotides, and esm2_t6_8M:untrained embeds proteins"):
        plan(fasta, tmp_path / "run")
    assert plan(fasta, tmp_path / "run", force_kind=True).totals.num_embedded == 1


def test_proteins_for_a_dna_model_are_refused(fasta: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="these are proteins"):
        plan(fasta, tmp_path / "run", model="dnabert_s:untrained")


def test_the_default_model_follows_the_kind_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "dna.fa").write_bytes(b">d\n" + b"ACGT" * 100)
    (tmp_path / "protein.fa").write_bytes(FASTA)
    assert plan(tmp_path / "dna.fa", tmp_path / "d", model="composition").model.name == "tetranucleotide"
    assert plan(tmp_path / "protein.fa", tmp_path / "p", model="composition").model.name == "aa_composition"


def test_layers_and_poolings_that_a_model_lacks_are_refused(fasta: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layers 0 to 6"):
        plan(fasta, tmp_path / "run", layer=7)
    with pytest.raises(UsageError, match="mean_with_special"):
        plan(fasta, tmp_path / "run", pooling="median")


def test_there_are_never_more_shards_than_windows(fasta: Path, tmp_path: Path) -> None:
    assert len(plan(fasta, tmp_path / "run", num_shards=100).shards) == 4


def test_a_damaged_plan_is_told_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(RunConflict, match="holds no plan"):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text(json.dumps({"format": PLAN_FORMAT, "version": "0"}))
    with pytest.raises(RunConflict, match="not a whole plan"):
        read_plan(tmp_path / "plan.json")


def test_cost_of_650m_is_1357_megaflops_a_token_at_352_tokens() -> None:
    cost = cost_of(find_model("esm2_t33_650M"))
    assert (cost.linear_flops + 352 * cost.quadratic_flops) / 1e6 == pytest.approx(1357, rel=2e-3)


def test_cost_of_dnabert_s_is_234_megaflops_a_token_at_200_tokens() -> None:
    cost = cost_of(find_model("dnabert_s"))
    assert (cost.linear_flops + 200 * cost.quadratic_flops) / 1e6 == pytest.approx(234, rel=2e-3)


def test_forecast_tells_tokens_and_spread(fasta: Path, tmp_path: Path) -> None:
    figures = forecast(plan(fasta, tmp_path / "run"), "run", "a100")
    assert figures.totals.num_tokens == (10 + 2) + (3 + 2) + (1701 + 4)
    flops = [shard.flops for shard in read_plan(tmp_path / "run" / "plan.json").shards]
    assert figures.spread == max(flops) / (sum(flops) / 2)
    assert figures.spread > 1
    assert figures.dataset_bytes == (4 * 320 + INDEX_BYTES_PER_ROW) * 5


def test_the_forecast_is_for_so_many_devices_of_a_kind(fasta: Path, tmp_path: Path) -> None:
    made = plan(fasta, tmp_path / "run")
    one, four = (forecast(made, "r", "cpu", number) for number in (1, 4))
    assert four.device_seconds == one.device_seconds / 4
    assert "on one cpu core," in dict(describe(one))["estimate"]
    assert "on 4 cpu cores," in dict(describe(four))["estimate"]
    assert "on one h100," in dict(describe(forecast(made, "r", "h100")))["estimate"]
    assert one.device_seconds > forecast(made, "r", "h100").device_seconds


def test_a_forecast_tells_what_a_run_of_several_devices_takes(tmp_path: Path) -> None:
    (tmp_path / "in.fa").write_bytes(b"".join(b">r%d\n%b\n" % (at, b"MKVLAAGIVW" * (1 + at % 40)) for at in range(400)))
    settings = PlanSettings(fasta=(str(tmp_path / "in.fa"),), model="esm2_t33_650M:untrained", num_shards=20)
    figures = forecast(make_plan(settings, RunLayout(tmp_path / "run")).plan, "r", "a100")
    assert [run.num_devices for run in figures.runs] == [8, 20]
    eight, twenty = figures.runs
    assert 3 * figures.device_seconds / 20 < twenty.makespan_seconds < eight.makespan_seconds
    assert eight.device_seconds > figures.device_seconds
    assert "start-up included" in dict(describe(figures))["on 8"]
    assert forecast(make_plan(settings, RunLayout(tmp_path / "run")).plan, "r", "cpu", 4).runs == []


def test_a_forecast_says_what_it_assumes(tmp_path: Path) -> None:
    short = tmp_path / "short.fasta"
    short.write_text(">a\nMKVLAAGIVG\n")
    made = plan(short, tmp_path / "run")
    assert forecast(made, "r", "cpu").assumes == "a rate measured on a few CPUs; no padding, start-up or queue"
    for device, rate in [("a100", "40% of data-sheet peak"), ("l4", "60% of data-sheet bandwidth")]:
        figures = forecast(made, "r", device)
        assert figures.assumes == f"{rate}; no padding, start-up or queue"
        assert ("", f"assumes {figures.assumes}") in describe(figures)


def odd_input(folder: Path) -> tuple[str, ...]:
    """A plain file of several stretches and a gzip file, with repeated sequences and ids, long and odd records."""
    draw = random.Random(7)
    known = ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=draw.randint(0, 300))) for _ in range(50)]
    records = [
        f">p{draw.randint(0, 300)} {draw.choice('eè')}\n{'X' * draw.choice([0, 3000])}{draw.choice(known)}\n"
        f"{draw.choice(known).lower()}*\n"
        for _ in range(400)
    ]
    (folder / "a.fa").write_text("\n".join(records))
    (folder / "b.fa.gz").write_bytes(gzip.compress("".join(records[:150]).encode()))
    return str(folder / "a.fa"), str(folder / "b.fa.gz")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that comes in blocks comes in many."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(scan, "PART_BYTES", 40_000)
    monkeypatch.setattr(keys, "ROWS_PER_BUCKET", 100)
    monkeypatch.setattr(keys, "WINDOWS_PER_RANGE", 300)
    monkeypatch.setattr(records, "ROW_GROUP_ROWS", 64)
    monkeypatch.setattr(records, "IDS_PER_BUCKET", 100)
    monkeypatch.setattr(routing, "GROUP_BYTES", 20_000)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.long
def test_numbers_of_threads_and_memory_do_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = odd_input(tmp_path)
    for threads in (1, 2, 8):
        plan(inputs, tmp_path / str(threads), num_shards=23, plan_threads=threads)
    monkeypatch.setattr(planner, "MEBIBYTE", 50)  # so that everything goes through files
    plan(inputs, tmp_path / "files", num_shards=23)
    for other in ("2", "8", "files"):
        assert contents(tmp_path / other) == contents(tmp_path / "1")
    assert not list(tmp_path.glob("*/.planning*"))


@pytest.mark.usefixtures("small_steps")
def test_the_plan_is_what_a_plain_loop_over_the_records_gives(tmp_path: Path) -> None:
    made = plan(odd_input(tmp_path), tmp_path / "run", num_shards=23)
    rows = pq.read_table(tmp_path / "run/records.parquet").to_pylist()
    oracle = [(file, record) for file, path in enumerate(odd_input(tmp_path)) for record in read_fasta(path)]
    assert [(row["source"], row["id"], row["description"], row["line"]) for row in rows] == [
        (file, record.id, record.description, record.line) for file, record in oracle
    ]
    shards = [read_shard(RunLayout(tmp_path / "run").shard(index)) for index in range(23)]
    assert all((np.diff(shard.windows_N) > 0).all() for shard in shards)
    assert [len(shard.windows_N) for shard in shards] == [facts.num_windows for facts in made.shards]
    assert [sum(map(len, shard.sequences_N)) for shard in shards] == [facts.num_residues for facts in made.shards]
    by_key = {key: letters for shard in shards for key, letters in zip(*shard, strict=True)}
    for row, (_, record) in zip(rows, oracle, strict=True):
        assert b"".join(by_key[key] for key in row["windows"]) == record.sequence.upper().rstrip(b"*")
    first_seen = dict.fromkeys(by_key[key] for row in rows for key in row["windows"])
    assert list(first_seen) == [by_key[key] for key in range(len(by_key))]
    assert made.totals.num_duplicate_ids == len(oracle) - len({record.id for _, record in oracle})


@pytest.mark.usefixtures("small_steps")
@pytest.mark.long
def test_without_a_compiler_the_plan_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = odd_input(tmp_path)
    plan(inputs, tmp_path / "kernel")
    monkeypatch.setattr(kernel, "_library", lambda: None)
    plan(inputs, tmp_path / "python")
    assert contents(tmp_path / "python") == contents(tmp_path / "kernel")


@pytest.mark.usefixtures("small_steps")
@pytest.mark.long
def test_an_interrupted_plan_goes_on_with_the_parts_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = odd_input(tmp_path)
    plan(inputs, tmp_path / "whole", plan_threads=1)
    judge, judged = Judge.judge, []

    def interrupted_judge(self: Judge, block: Block) -> Judged:
        judged.append(block)
        if len(judged) == 40:
            raise KeyboardInterrupt
        return judge(self, block)

    def counted_judge(self: Judge, block: Block) -> Judged:
        judged.append(block)
        return judge(self, block)

    monkeypatch.setattr(Judge, "judge", interrupted_judge)
    with pytest.raises(KeyboardInterrupt):
        plan(inputs, tmp_path / "run", plan_threads=1)
    num_whole = len(list(tmp_path.glob("run/.planning-*/*.json")))
    assert num_whole > 1
    judged.clear()
    monkeypatch.setattr(Judge, "judge", counted_judge)
    plan(inputs, tmp_path / "run", plan_threads=1)
    num_again = len(judged)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    judged.clear()
    plan(inputs, tmp_path / "other", plan_threads=1)
    assert num_again <= len(judged) - 5 * num_whole


def test_a_plan_that_was_killed_while_it_tidied_up_is_made_by_the_next(
    fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException): ...

    def remove_some(folder: Path) -> None:
        next(folder.glob("*.leaves")).unlink()
        raise Killed

    plan(fasta, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(scratch, "remove_tree", remove_some)
        plan(fasta, tmp_path / "run")
    assert list((tmp_path / "run").glob(".*planning*/*.json"))
    monkeypatch.setattr(leftovers, "is_writer_alive", lambda name: False)
    plan(fasta, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*planning*"))


def test_what_an_abandoned_plan_left_goes_away_with_the_next(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "run/.planning-of-another").mkdir(parents=True)
    plan(fasta, tmp_path / "run")
    assert not list((tmp_path / "run").glob(".planning*"))


def test_two_plans_at_a_time_of_one_run_are_refused(
    fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "scratch_key", lambda *_, **__: "same")
    with scratch_folder(tmp_path / "run", "same"), pytest.raises(RunConflict, match="another `hpc-embed plan`"):
        plan(fasta, tmp_path / "run")


@pytest.mark.long
def test_a_record_of_a_million_windows_and_records_of_ten_residues_are_planned(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_bytes(b">long\n" + b"MKVLA" * 1_000_000 + b"\n" + b">s\nMKVLAAGIVG\n" * 100_000)
    made = plan((str(tmp_path / "x.fa"),), tmp_path / "run", max_residues=5)
    assert (made.totals.num_windows, made.totals.num_unique_windows) == (1_200_000, 2)


@pytest.mark.usefixtures("small_steps")
def test_a_fault_in_writing_the_records_ends_the_plan_before_its_shards_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_failed = threading.Event()

    def fail(*_: object) -> int:
        has_failed.set()
        raise OSError(errno.ENOSPC, "no space")

    def dealing(*arguments: object) -> Dealing:
        assert has_failed.wait(10)
        time.sleep(0.1)  # until the fault is known
        return Dealing(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(distribution, "write_records", fail)
    monkeypatch.setattr(distribution, "Dealing", dealing)
    with pytest.raises(OSError, match="no space"):
        plan(odd_input(tmp_path), tmp_path / "run", num_shards=23)
    assert not list((tmp_path / "run").rglob("shard-*"))
