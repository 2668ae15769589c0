"""From FASTA to a run folder: scan, find equal windows, deal them into shards, write the plan last."""

from __future__ import annotations

import itertools
import math
import mmap
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed import __version__
from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.planning.cost import cost_of, flops, millitokens, tokens_of_lengths
from hpc_embed.planning.dealing import deal
from hpc_embed.planning.forecast import seconds_on
from hpc_embed.planning.outputs import layers_of, poolings_of, stride_of
from hpc_embed.planning.scan import ScanResult, open_input, refuse_wrong_kind, scan
from hpc_embed.progress import counting, note
from hpc_embed.registry import Model
from hpc_embed.run.files import make_folders, remove, remove_leftovers, temporary_sibling, whole_file
from hpc_embed.run.identity import ModelIdentity, pin_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.licences import is_non_commercial
from hpc_embed.run.plan import (
    Cost,
    Embedding,
    InputFile,
    Plan,
    ShardFacts,
    Totals,
    changes,
    fingerprint,
    read_plan,
)
from hpc_embed.run.shards import write_shard
from hpc_embed.sequences.fasta import expand_inputs

DEFAULT_SHARD_MINUTES = 30.0
MAX_SHARDS = 100_000

Ints = NDArray[np.int64]


class Planned(NamedTuple):
    """A plan, and whether this call made it or found it."""

    plan: Plan
    is_new: bool


class Dealt(NamedTuple):
    """Equal windows made one, and every unique window's shard."""

    key_of_window_N: Ints
    first_window_U: Ints
    """The first window of each key."""
    shard_of_key_U: Ints


def make_plan(settings: PlanSettings, layout: RunLayout, *, usual_shards: int | None = None) -> Planned:
    """Plan a run, or find that the run folder holds this very plan.

    `usual_shards` is the number of shards where the settings name none. Raises RunConflict where the folder
    holds another plan, BadInput for bad FASTA, UsageError and EnvironmentFault for a model that won't do.
    """
    opened = [open_input(source) for source in expand_inputs(settings.fasta)]
    kind = next((one.kind for one in opened if one.kind), None)
    model, identity = pin_model(settings.model, settings.revision, kind)
    embedding = _embedding(settings, model)
    if not settings.force_kind:
        for one in opened:
            refuse_wrong_kind(one, model)
    with _scratch(layout) as scratch, counting("reading", None, "records") as count:
        scanned = scan(opened, model, settings, scratch, count)
        print_mark = fingerprint(identity, embedding, tuple(scanned.inputs))
        if layout.plan.exists():
            return Planned(_existing(layout, settings, identity, embedding, tuple(scanned.inputs), print_mark), False)
        if not scanned.lengths:
            raise BadInput(
                f"none of the {scanned.statuses.total()} records can be embedded.",
                remedy="See the reasons: all are empty, too long or hold unknown letters.",
            )
        return Planned(_write_run(scanned, model, identity, embedding, settings, layout, usual_shards), True)


@contextmanager
def _scratch(layout: RunLayout) -> Iterator[Path]:
    try:
        make_folders(layout.root)
    except OSError as error:
        raise UsageError(
            f"--run-dir {layout.root}: cannot be made ({error.strerror}).", remedy="Choose another folder."
        ) from error
    remove_leftovers(layout.root)
    scratch = temporary_sibling(layout.root / "planning")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _embedding(settings: PlanSettings, model: Model) -> Embedding:
    poolings, layers = poolings_of(settings, model), layers_of(settings, model)
    if settings.max_residues and model.max_residues and settings.max_residues > model.max_residues:
        note(
            f"warning: --max-residues {settings.max_residues} is beyond the {model.max_residues} that "
            f"{model.name} is made for."
        )
    return Embedding(
        pooling=",".join(poolings),
        layer=layers[0] if len(layers) == 1 else layers,
        precision=settings.precision,
        on_long=settings.on_long,
        max_residues=settings.max_residues or model.max_residues,
        on_invalid=settings.on_invalid,
        case=settings.case,
        stride=stride_of(settings, model, poolings),
    )


def _existing(
    layout: RunLayout,
    settings: PlanSettings,
    identity: ModelIdentity,
    embedding: Embedding,
    inputs: tuple[InputFile, ...],
    print_mark: str,
) -> Plan:
    old = read_plan(layout.plan)
    if old.fingerprint != print_mark:
        wanted = replace(old, model=identity, embedding=embedding, inputs=inputs)
        raise RunConflict(
            f"{layout.root} holds a plan made with other settings ({', '.join(changes(old, wanted))}).",
            remedy="Choose another --run-dir, or restore the settings.",
        )
    asked = settings.num_shards
    if asked and min(asked, old.totals.num_unique_windows) != len(old.shards):
        raise RunConflict(
            f"{layout.root} holds a plan of {len(old.shards)} shards.",
            remedy="Choose another --run-dir, or leave --num-shards as it was.",
        )
    return old


def _write_run(
    scanned: ScanResult,
    model: Model,
    identity: ModelIdentity,
    embedding: Embedding,
    settings: PlanSettings,
    layout: RunLayout,
    usual_shards: int | None,
) -> Plan:
    cost = cost_of(model)
    dealt = _deal(scanned, model, cost, settings, usual_shards)
    shards = _write_shards(scanned, dealt, model, cost, layout)
    duplicates = _write_records(scanned, dealt.key_of_window_N, layout.records)
    inputs = tuple(scanned.inputs)
    plan = Plan(
        version=__version__,
        fingerprint=fingerprint(identity, embedding, inputs),
        kind=model.kind,
        dimension=model.dimension * embedding.outputs.width,
        model=identity,
        embedding=embedding,
        inputs=inputs,
        totals=_totals(scanned, shards, duplicates),
        cost=cost,
        shards=shards,
        num_special_tokens=model.num_special_tokens,
    )
    for folder in (layout.outputs, layout.work, layout.logs):
        make_folders(folder)
    plan.write(layout.plan)
    if is_non_commercial(identity.licence):
        note(f"warning: {model.name} is under {identity.licence}: not for commercial use.")
    if scanned.num_unknown_letters:
        note(
            f"warning: {scanned.num_unknown_letters:,} letters that {model.name} does not know are embedded as "
            f"unknown; the first: {scanned.first_unknown}."
        )
    return plan


def _deal(scanned: ScanResult, model: Model, cost: Cost, settings: PlanSettings, usual_shards: int | None) -> Dealt:
    lengths_N = scanned.lengths_N
    first_window_U, key_of_window_N = unique_windows(scanned.digests)
    lengths_U = lengths_N[first_window_U]
    all_lengths = np.arange(int(lengths_U.max()) + 1)
    cost_of_length = millitokens(cost, tokens_of_lengths(model, all_lengths))
    num_shards = _num_shards(cost, settings, usual_shards, tokens_of_lengths(model, lengths_U))
    shard_of_key_U = deal(lengths_U, np.maximum(cost_of_length, 1), num_shards)
    return Dealt(key_of_window_N, first_window_U, shard_of_key_U)


def unique_windows(digests: bytes | bytearray) -> tuple[Ints, Ints]:
    """First window of each key, and the key of each window; keys count unique windows in input order."""
    halves_N2 = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    order_N = np.lexsort((halves_N2[:, 1], halves_N2[:, 0]))  # stable: of equals the first stays first
    sorted_N2 = halves_N2[order_N]
    is_new_N = np.ones(len(order_N), dtype=bool)
    is_new_N[1:] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    firsts_U = order_N[is_new_N]
    rank_U = np.empty(len(firsts_U), dtype=np.int64)
    rank_U[np.argsort(firsts_U, kind="stable")] = np.arange(len(firsts_U))
    key_of_window_N = np.empty(len(order_N), dtype=np.int64)
    key_of_window_N[order_N] = rank_U[np.cumsum(is_new_N) - 1]
    return np.sort(firsts_U), key_of_window_N


def _num_shards(cost: Cost, settings: PlanSettings, usual_shards: int | None, tokens_U: Ints) -> int:
    if settings.num_shards:
        wanted = int(settings.num_shards)
    elif usual_shards and not settings.shard_minutes:
        wanted = usual_shards
    else:
        minutes = settings.shard_minutes or DEFAULT_SHARD_MINUTES
        seconds = seconds_on(settings.device, cost, float(flops(cost, tokens_U).sum()), int(tokens_U.sum()))
        wanted = math.ceil(seconds / 60 / minutes)
    return max(1, min(wanted, len(tokens_U), MAX_SHARDS))


def _write_shards(
    scanned: ScanResult, dealt: Dealt, model: Model, cost: Cost, layout: RunLayout
) -> tuple[ShardFacts, ...]:
    make_folders(layout.shards)
    lengths_U = scanned.lengths_N[dealt.first_window_U]
    ends_N = np.cumsum(scanned.lengths_N)
    stops_U = ends_N[dealt.first_window_U]
    keys_by_shard = np.argsort(dealt.shard_of_key_U, kind="stable")
    edges = np.searchsorted(dealt.shard_of_key_U[keys_by_shard], np.arange(dealt.shard_of_key_U.max() + 2))
    facts = []
    with scanned.spool_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as spool:
        for index, (low, high) in enumerate(itertools.pairwise(edges)):
            keys = keys_by_shard[low:high]
            spans = zip((stops_U[keys] - lengths_U[keys]).tolist(), stops_U[keys].tolist(), strict=True)
            write_shard(layout.shard(index), keys, [spool[start:stop] for start, stop in spans])
            tokens = tokens_of_lengths(model, lengths_U[keys])
            facts.append(
                ShardFacts(
                    num_windows=len(keys),
                    num_residues=int(lengths_U[keys].sum()),
                    num_tokens=int(tokens.sum()),
                    flops=int(flops(cost, tokens).sum()),
                )
            )
    for stale in range(len(facts), MAX_SHARDS):
        if not layout.shard(stale).exists():
            break
        remove(layout.shard(stale))
    return tuple(facts)


def _write_records(scanned: ScanResult, key_of_window_N: Ints, path: Path) -> int:
    """Write records.parquet with each record's window keys; the number of records whose id occurred before."""
    source = pq.ParquetFile(scanned.records_path)
    fields = [
        pa.field("ordinal", pa.int64()),
        *source.schema_arrow,
        pa.field("windows", pa.list_(pa.int64())),
    ]
    schema = pa.schema([field for field in fields if field.name != "num_windows"])
    ordinal = window = 0
    ids: list[pa.ChunkedArray] = []
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in source.iter_batches():
            offsets = window + np.concatenate(([0], np.cumsum(batch["num_windows"].to_numpy())))
            keys = key_of_window_N[offsets[0] : offsets[-1]]
            windows = pa.ListArray.from_arrays((offsets - window).astype(np.int32), pa.array(keys))
            ordinals = pa.array(np.arange(ordinal, ordinal + len(batch)))
            columns = [batch[name] for name in batch.schema.names if name != "num_windows"]
            writer.write_table(pa.Table.from_arrays([ordinals, *columns, windows], schema=schema))
            ids.append(batch["id"])
            ordinal, window = ordinal + len(batch), int(offsets[-1])
    source.close()
    return ordinal - int(pc.count_distinct(pa.chunked_array(ids)).as_py())


def _totals(scanned: ScanResult, shards: tuple[ShardFacts, ...], num_duplicate_ids: int) -> Totals:
    return Totals(
        num_records=scanned.statuses.total(),
        num_embedded=scanned.statuses["embedded"],
        num_windowed=scanned.statuses["windowed"],
        num_truncated=scanned.statuses["truncated"],
        num_skipped=scanned.statuses["skipped"],
        num_duplicate_ids=num_duplicate_ids,
        num_unknown_letters=scanned.num_unknown_letters,
        num_residues=sum(file.num_residues for file in scanned.inputs),
        num_windows=len(scanned.lengths),
        num_unique_windows=sum(shard.num_windows for shard in shards),
        num_tokens=sum(shard.num_tokens for shard in shards),
    )
