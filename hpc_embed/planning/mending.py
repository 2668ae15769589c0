"""What a run folder has lost of its plan, made anew: shard files, shard table, records.parquet.

All is dealt again beside, as it was the first time, and the letters and keys of each shard must be those that the plan
has digests of. Then what was lost is put in its place; nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hpc_embed.config import PlanSettings
from hpc_embed.errors import RunConflict
from hpc_embed.model import Model
from hpc_embed.planning.distribution import Resources, distribute
from hpc_embed.planning.lookahead import in_turn
from hpc_embed.planning.scan import Scanned
from hpc_embed.progress import note
from hpc_embed.run import files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.run.record_proof import refuse_false_records
from hpc_embed.run.shard_table import ShardFacts, ShardTable
from hpc_embed.run.shards import is_shard_whole
from hpc_embed.run.survey import survey

MOST_NAMED = 3


class Lost(NamedTuple):
    """Files of a plan that are missing, or are not as they were written."""

    shards: list[int]
    """None of those that are done, whose shard files nobody reads any more."""
    has_table: bool
    has_records: bool

    def __bool__(self) -> bool:
        return bool(self.shards) or not (self.has_table and self.has_records)

    def paths(self, layout: RunLayout) -> list[Path]:
        return [
            *([] if self.has_records else [layout.records]),
            *([] if self.has_table else [layout.shard_table]),
            *(layout.shard(index) for index in self.shards),
        ]


def find_lost(plan: Plan, layout: RunLayout, num_threads: int) -> Lost:
    """Prove all of a plan's files. Raises EnvironmentFault where one cannot be read for now."""
    has_table = _is_whole(lambda: list(plan.shards))
    digests = [facts.sha256 for facts in plan.shards] if has_table else [""] * len(plan.shards)
    has_records = _is_whole(lambda: refuse_false_records(plan, layout.records))
    return Lost(_lost_shards(layout, digests, num_threads), has_table, has_records)


def _is_whole(prove: Callable[[], object]) -> bool:
    try:
        prove()
    except RunConflict:
        return False
    return True


def _lost_shards(layout: RunLayout, digests: Sequence[str], num_threads: int) -> list[int]:
    done = survey(layout, len(digests)).done
    left = [index for index in range(len(digests)) if index not in done]
    with ThreadPoolExecutor(num_threads, "proving") as threads:
        calls = (partial(is_shard_whole, layout.shard(index), digests[index]) for index in left)
        return [index for index, is_whole in zip(left, in_turn(threads, calls), strict=True) if not is_whole]


def mend(
    lost: Lost,
    plan: Plan,
    layout: RunLayout,
    scanned: Scanned,
    model: Model,
    settings: PlanSettings,
    resources: Resources,
) -> Plan:
    """Make anew what is lost; the plan as it is then, with digests where it had none.

    Raises RunConflict, before anything is touched, where this version deals otherwise than the one that planned.
    """
    anew = RunLayout(scanned.folder / "anew")
    files.make_folders(anew.root)
    as_it_was = replace(settings, num_shards=len(plan.shards))
    made = distribute(scanned, model, plan.cost, as_it_was, anew, None, resources)
    _refuse_other_dealing(plan, layout, made.shards, lost)
    digests = [facts.sha256 for facts in made.shards]
    lost = lost._replace(shards=_lost_shards(layout, digests, resources.num_threads))
    for index in lost.shards:
        files.put(anew.shard(index), layout.shard(index))
        files.remove(layout.failure(index))
    mended = replace(plan, shards=made.shards)
    if not lost.has_records or not plan.records_sha256:
        files.put(anew.records, layout.records)
        mended = replace(mended, records_sha256=made.records.sha256)
    if not lost.has_table or mended != plan:
        mended.write(layout.plan)
    names = [path.name for path in lost.paths(layout)]
    note(f"made anew: {', '.join([*names[:MOST_NAMED], *(['…'] if len(names) > MOST_NAMED else [])])}")
    return mended


def _refuse_other_dealing(plan: Plan, layout: RunLayout, made: tuple[ShardFacts, ...], lost: Lost) -> None:
    if lost.has_table:
        is_same = _without_digests(made) == _without_digests(plan.shards)
        pairs = zip(made, plan.shards, strict=True) if is_same else ()
        is_same = is_same and all(old.sha256 in ("", new.sha256) for new, old in pairs)
    else:
        is_same = isinstance(plan.shards, ShardTable) and plan.shards.is_of(made)
    if not is_same:
        raise RunConflict(
            f"{layout.root}: this version deals windows to shards otherwise than {plan.version}, which planned.",
            remedy=f"Plan again with hpc-embed {plan.version}, or into another --run-dir.",
        )


def _without_digests(shards: Sequence[ShardFacts]) -> tuple[ShardFacts, ...]:
    return tuple(replace(facts, sha256="") for facts in shards)
