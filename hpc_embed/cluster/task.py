"""The work of one machine: local's, or one array task's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hpc_embed.cluster.crew import Crew, CrewResult
from hpc_embed.cluster.devices import threads_per_worker
from hpc_embed.cluster.needs import refuse_missing_packages
from hpc_embed.cluster.places import places_of
from hpc_embed.cluster.slurm import parse_ranges
from hpc_embed.cluster.worker_process import Assignment
from hpc_embed.config import WorkSettings
from hpc_embed.errors import UsageError
from hpc_embed.progress import counting, note
from hpc_embed.run.files import make_folders
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.links import refuse_links
from hpc_embed.run.markers import Failure, is_done, read_failure
from hpc_embed.run.plan import Plan
from hpc_embed.run.survey import survey
from hpc_embed.workers.registry import make_worker


class Outlook(NamedTuple):
    """Shards that are not done."""

    to_do: list[int]
    left_aside: dict[int, Failure]
    """Those that failed too often, with what went wrong; none where they are to be tried again."""


def outlook(plan: Plan, layout: RunLayout, settings: WorkSettings) -> Outlook:
    """What is to be done of the whole run, by the names in its folders: what `submit` goes by."""
    seen = survey(layout, len(plan.shards))
    missing = [index for index in range(len(plan.shards)) if index not in seen.done]
    return _outlook(missing, [index for index in missing if index in seen.failed], layout, settings)


def own_outlook(shards: Iterable[int], plan: Plan, layout: RunLayout, settings: WorkSettings) -> Outlook:
    """What is to be done of some shards, by their markers; no other shard is looked at."""
    missing = [index for index in shards if not is_done(layout.outputs, shard_name(index), plan.fingerprint)]
    return _outlook(missing, missing, layout, settings)


def _outlook(missing: list[int], may_have_failed: list[int], layout: RunLayout, settings: WorkSettings) -> Outlook:
    if settings.retry_failed:
        return Outlook(missing, {})
    failures = {index: read_failure(layout.outputs, shard_name(index)) for index in may_have_failed}
    left_aside = {
        index: failure for index, failure in failures.items() if failure and failure.tries >= settings.max_tries
    }
    return Outlook([index for index in missing if index not in left_aside], left_aside)


def parse_shards(text: str, num_shards: int) -> list[int]:
    """`all`, or numbers and ranges: `0-9,12`."""
    if text == "all":
        return list(range(num_shards))
    try:
        chosen = parse_ranges(text)
    except ValueError as error:
        raise UsageError(f"--shards {text}: {error}.", remedy="Write 0-9,12 or all.") from error
    if min(chosen) >= num_shards:
        raise UsageError(f"--shards {text}: the plan has shards 0 to {num_shards - 1}.", remedy="Choose among these.")
    return sorted(index for index in set(chosen) if index < num_shards)  # the last bundle may reach beyond


def embed_shards(
    plan: Plan, layout: RunLayout, shards: Sequence[int], settings: WorkSettings, devices: list[int | str]
) -> CrewResult:
    """Embed those of the shards that have no valid marker, one worker process per device."""
    refuse_missing_packages(plan.model.registry_name)
    refuse_links(layout)
    for folder in sorted({path.parent for i in shards for path in (layout.marker(i), layout.pieces(i))}):
        make_folders(folder)
        remove_leftovers(folder)
    todo, left_aside = own_outlook(shards, plan, layout, settings)
    failed = {
        shard_name(index): f"left aside after {failure.tries} tries, --retry-failed tries again: {failure.reason}"
        for index, failure in left_aside.items()
    }
    if not todo:
        note("nothing to do: every shard is done" if not failed else "nothing to do")
        return CrewResult([], failed)
    num_done = len(shards) - len(todo) - len(failed)
    if num_done:
        note(f"{num_done} of {len(shards)} shards are done already")
    if plan.model.is_untrained:
        note(f"warning: {plan.model.name} has random weights; its vectors are for trying out, not for use.")
    if not plan.shards[todo[0]].sha256:
        note(f"the plan is of {plan.version}, which wrote no checksums of shards: they are taken as they are.")
    assignment = Assignment(
        worker=make_worker(
            plan.model,
            plan.embedding,
            num_threads=threads_per_worker(devices),
            weights_copy=settings.weights_copy,
            force_precision=settings.force_precision,
            needs_proof=settings.proof,
        ),
        outputs=layout.outputs,
        work=layout.work,
        fingerprint=plan.fingerprint,
        token_budget=settings.token_budget,
        piece_seconds=settings.piece_seconds,
        digests={shard_name(index): plan.shards[index].sha256 for index in todo},
    )
    residues = sum(plan.shards[index].num_residues for index in todo)
    with counting("embedding", residues, "residues") as count:
        result = Crew(assignment, places_of(devices), settings.max_tries).run(
            [layout.shard(index) for index in todo], count
        )
    return CrewResult(result.finished, {**failed, **result.failed})
