"""From input to a run folder: scan, find equal windows, deal them into shards, write the plan last."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

from hpc_embed import __version__
from hpc_embed.checkpoints.licences import is_non_commercial
from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput, RunConflict, UsageError
from hpc_embed.memory import keep_freed_memory
from hpc_embed.model import Model
from hpc_embed.planning.cost import cost_of
from hpc_embed.planning.distribution import Distributed, Resources, distribute
from hpc_embed.planning.mending import find_lost, mend
from hpc_embed.planning.outputs import layers_of, poolings_of, precision_of, stride_of
from hpc_embed.planning.preparation import columns_of, endings_of, intake_of, tell_intake
from hpc_embed.planning.scan import OpenedInput, Scanned, open_inputs, refuse_wrong_kind, scan
from hpc_embed.planning.scratch import scratch_folder, scratch_key
from hpc_embed.planning.verdicts import STATUSES, Judge
from hpc_embed.progress import counting, note
from hpc_embed.run import files
from hpc_embed.run.files import make_folders
from hpc_embed.run.identity import ModelIdentity, pin_model
from hpc_embed.run.intake import Intake
from hpc_embed.run.layout import RunLayout, shard_folders, shard_name
from hpc_embed.run.markers import judge, read_marker, withdraw
from hpc_embed.run.plan import AS_IT_WAS, Embedding, InputFile, Plan, Totals, changes, fingerprint, read_plan
from hpc_embed.run.survey import survey
from hpc_embed.sequences.sources import expand_inputs

MEBIBYTE = 1 << 20
MOST_THREADS = 8
"""More are of no use where one disk feeds them, and a login node is shared."""
THREAD_MEBIBYTES = 128
"""What a thread needs for its block, or its group of shards."""


class Planned(NamedTuple):
    """A plan, and whether this call made it or found it."""

    plan: Plan
    is_new: bool
    is_mended: bool = False
    """Found with files lost or damaged, which are made anew."""


def make_plan(settings: PlanSettings, layout: RunLayout, *, usual_shards: int | None = None) -> Planned:
    """Plan a run, or find that the run folder holds this very plan.

    `usual_shards` is the number of shards where the settings name none. Raises RunConflict where the folder
    holds another plan, BadInput for bad FASTA, UsageError and EnvironmentFault for a model that won't do.
    """
    keep_freed_memory()
    with ExitStack() as stack:
        intake = intake_of(settings)
        sources = expand_inputs(settings.fasta, endings_of(intake))
        opened = open_inputs(sources, stack, columns_of(intake))
        is_translated = intake.translate is not None
        kind = "protein" if is_translated else next((one.kind for one in opened if one.kind), None)
        model, identity = pin_model(settings.model, settings.revision, kind)
        embedding = _embedding(settings, model)
        if not settings.force_kind:
            if is_translated and model.kind == "dna":
                raise UsageError(f"--translate: {model.name} embeds nucleotides.", remedy="Leave --translate out.")
            for one in opened:
                refuse_wrong_kind(one, model, is_translated=is_translated)
        fastq = [one.source for one in opened if one.format == "FASTQ"]
        tell_intake(intake, fastq, [one.source for one in opened if one.is_alignment])
        return _plan(opened, model, identity, embedding, intake, settings, layout, usual_shards)


def _plan(
    opened: list[OpenedInput],
    model: Model,
    identity: ModelIdentity,
    embedding: Embedding,
    intake: Intake,
    settings: PlanSettings,
    layout: RunLayout,
    usual_shards: int | None,
) -> Planned:
    resources = _resources(settings)
    old = read_plan(layout.plan) if files.exists(layout.plan) else None
    lost = find_lost(old, layout, resources.num_threads) if old else None
    deals = old is None or bool(lost)
    key = scratch_key([(one.source, one.seen) for one in opened], model, settings, keeps_letters=deals)
    with scratch_folder(layout.root, key) as scratch:
        with counting("reading", None, "records") as count:
            judge = Judge(model, settings, intake)
            scanned = scan(opened, judge, scratch, resources.num_threads, count, keeps_letters=deals)
        inputs = tuple(scanned.inputs)
        num_u_as_t = sum(part.num_u_as_t for part in scanned.parts)
        intake = replace(intake, reads_u_as_t=num_u_as_t > 0)
        print_mark = fingerprint(identity, embedding, inputs, intake)
        if old is not None:
            if lost and not lost.has_table and old.fingerprint != print_mark:
                raise RunConflict(f"{layout.plan}: of another run than {layout.shard_table.name}.", remedy=AS_IT_WAS)
            _refuse_another(old, layout, settings, identity, embedding, intake, inputs, print_mark)
            _make_folders(old, layout)
            if not lost:
                return Planned(old, False)
            return Planned(mend(lost, old, layout, scanned, model, settings, resources), False, is_mended=True)
        if not scanned.num_windows:
            raise BadInput(
                f"none of the {sum(scanned.statuses)} records can be embedded.",
                remedy="See the reasons: all are empty, too long or hold unknown letters.",
            )
        cost = cost_of(model)
        done = distribute(scanned, model, cost, settings, layout, usual_shards, resources)
    plan = Plan(
        version=__version__,
        fingerprint=print_mark,
        kind=model.kind,
        dimension=model.dimension * embedding.outputs.width,
        model=identity,
        embedding=embedding,
        inputs=inputs,
        totals=_totals(scanned, done),
        cost=cost,
        shards=done.shards,
        num_special_tokens=model.num_special_tokens,
        intake=intake,
        is_kind_forced=settings.force_kind,
        records_sha256=done.records.sha256,
    )
    _make_room(plan, layout)
    plan.write(layout.plan)
    if is_non_commercial(identity.licence):
        note(f"warning: {model.name} is under {identity.licence}: not for commercial use.")
    if scanned.num_cut:
        note(
            f"warning: of {scanned.num_cut:,} lines comments, numbers of positions or blanks between columns are left "
            f"out; the first: {scanned.first_cut}."
        )
    if num_u_as_t:
        note(f"RNA: {num_u_as_t:,} U are read as T, the letter that {model.name} knows.")
    if plan.totals.num_unknown_letters:
        note(
            f"warning: {plan.totals.num_unknown_letters:,} letters that {model.name} does not know are embedded as "
            f"unknown; the first: {scanned.first_unknown}."
        )
    return Planned(plan, True)


def _make_room(plan: Plan, layout: RunLayout) -> None:
    """Make the folders of a run, and take back what another plan has left in them: names then tell what is done."""
    _make_folders(plan, layout)
    for index in sorted(survey(layout, len(plan.shards)).done):
        judged = judge(layout.outputs, shard_name(index))
        marker = read_marker(layout.outputs, shard_name(index))
        if marker is None or marker.fingerprint != plan.fingerprint:
            withdraw(layout.outputs, shard_name(index), judged)


def _make_folders(plan: Plan, layout: RunLayout) -> None:
    for root in (layout.outputs, layout.work):
        for folder in shard_folders(root, len(plan.shards)):
            make_folders(folder)
    make_folders(layout.logs)


def _resources(settings: PlanSettings) -> Resources:
    """Threads and memory; no figure of a plan depends on them."""
    most = settings.plan_threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
    memory = settings.plan_memory_mebibytes
    return Resources(max(1, min(most, memory // THREAD_MEBIBYTES)), memory // 6 * MEBIBYTE)


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
        precision=precision_of(settings, model),
        on_long=settings.on_long,
        max_residues=settings.max_residues or model.max_residues,
        on_invalid=settings.on_invalid,
        case=settings.case,
        stride=stride_of(settings, model, poolings),
    )


def _refuse_another(
    old: Plan,
    layout: RunLayout,
    settings: PlanSettings,
    identity: ModelIdentity,
    embedding: Embedding,
    intake: Intake,
    inputs: tuple[InputFile, ...],
    print_mark: str,
) -> None:
    """RunConflict where the folder holds another plan than the one that is asked for."""
    if old.fingerprint != print_mark:
        wanted = replace(old, model=identity, embedding=embedding, intake=intake, inputs=inputs)
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


def _totals(scanned: Scanned, done: Distributed) -> Totals:
    by_status = dict(zip(STATUSES, scanned.statuses, strict=True))
    return Totals(
        num_records=sum(scanned.statuses),
        num_embedded=by_status["embedded"],
        num_windowed=by_status["windowed"],
        num_truncated=by_status["truncated"],
        num_skipped=by_status["skipped"],
        num_duplicate_ids=sum(scanned.statuses) - done.records.num_distinct_ids,
        num_unknown_letters=sum(part.num_unknown_letters for part in scanned.parts),
        num_residues=sum(file.num_residues for file in scanned.inputs),
        num_windows=scanned.num_windows,
        num_unique_windows=sum(shard.num_windows for shard in done.shards),
        num_tokens=sum(shard.num_tokens for shard in done.shards),
    )
