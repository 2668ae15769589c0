"""What plan, markers and dataset.json tell of a run, finished or not, at a cost that does not grow with it."""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

import numpy as np

from hpc_embed.errors import RunConflict
from hpc_embed.run import files
from hpc_embed.run.layout import SHARDS_PER_FOLDER, RunLayout, shard_name
from hpc_embed.run.markers import Failure, WorkFacts, read_failure, read_marker
from hpc_embed.run.plan import Plan
from hpc_embed.run.survey import survey

MOST_MARKERS = SHARDS_PER_FOLDER
"""Each is a file to open; of more shards than that, so many evenly spread ones are told of."""
MOST_FAILURES = 20


class Work(NamedTuple):
    """The try that finished a shard."""

    shard: int
    ended: float
    """When its marker was written, by the file server's clock, in seconds since the epoch."""
    flops: float
    """Of the windows that this try computed."""
    num_tokens: float
    """Planned, of the same windows."""
    facts: WorkFacts

    @property
    def started(self) -> float:
        return self.ended - self.facts.seconds


class RunFacts(NamedTuple):
    """A run as its folder shows it."""

    plan: Plan
    layout: RunLayout
    num_done: int
    num_failed: int
    num_begun: int
    """Shards with pieces, and neither done nor failed."""
    works: list[Work]
    failures: list[Failure]
    failed_windows: Counter[str]
    """Windows without a vector by reason, in the shards told of."""
    statuses: dict[str, int]
    """Records by status: the dataset's where there is one, else the plan's."""
    is_gathered: bool


def run_facts(plan: Plan, layout: RunLayout) -> RunFacts:
    """Look at the run folder; EnvironmentFault where it cannot be read for now."""
    seen = survey(layout, len(plan.shards))
    failed = sorted(seen.failed - seen.done)
    works, failed_windows = _works(plan, layout, _spread(sorted(seen.done)))
    statuses = _gathered_statuses(plan, layout)
    failures = [read_failure(layout.outputs, shard_name(index)) for index in failed[:MOST_FAILURES]]
    return RunFacts(
        plan=plan,
        layout=layout,
        num_done=len(seen.done),
        num_failed=len(failed),
        num_begun=len(seen.begun - seen.done - seen.failed),
        works=works,
        failures=[failure for failure in failures if failure],
        failed_windows=failed_windows,
        statuses=_planned_statuses(plan) if statuses is None else statuses,
        is_gathered=statuses is not None,
    )


def _spread(shards: list[int]) -> list[int]:
    if len(shards) <= MOST_MARKERS:
        return shards
    return [shards[at] for at in np.linspace(0, len(shards) - 1, MOST_MARKERS).astype(int)]


def _works(plan: Plan, layout: RunLayout, shards: list[int]) -> tuple[list[Work], Counter[str]]:
    works, failed_windows = [], Counter[str]()
    for index in shards:
        marker = read_marker(layout.outputs, shard_name(index))
        if marker is None or marker.fingerprint != plan.fingerprint or not _has_numbers(marker.facts):
            continue
        planned = plan.shards[index]
        share = marker.facts.num_windows_computed / max(planned.num_windows, 1)
        ended = files.storage.status(layout.marker(index)).st_mtime
        works.append(Work(index, ended, planned.flops * share, planned.num_tokens * share, marker.facts))
        failed_windows.update(marker.failed_windows.values())
    return works, failed_windows


def _has_numbers(facts: WorkFacts) -> bool:
    """Anybody may have written the marker."""
    numbers = (facts.seconds, facts.num_tokens, facts.padding_efficiency, facts.token_budget, facts.peak_memory_bytes)
    return all(type(number) in (int, float) and 0 <= number < 1 << 62 for number in numbers)


def _planned_statuses(plan: Plan) -> dict[str, int]:
    totals = plan.totals
    counts = {"embedded": totals.num_embedded, "windowed": totals.num_windowed}
    counts |= {"truncated": totals.num_truncated, "skipped": totals.num_skipped}
    return {status: count for status, count in counts.items() if count}


def _gathered_statuses(plan: Plan, layout: RunLayout) -> dict[str, int] | None:
    """Of this plan's dataset, None where there is none."""
    if not any(layout.dataset.glob("part-*.parquet")):
        return None
    try:
        content = json.loads(files.read_bytes(layout.dataset_facts))
        statuses = {str(status): int(count) for status, count in content["statuses"].items()}
        return statuses if content["fingerprint"] == plan.fingerprint else None
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunConflict(f"{layout.dataset_facts}: damaged.", remedy="Gather again.") from error
