"""How far a run is, read from its markers, failures and pieces."""

from __future__ import annotations

from typing import NamedTuple

from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import is_done, read_failure, read_marker
from hpc_embed.run.pieces import num_windows_in_pieces
from hpc_embed.run.plan import Plan


class ShardStatus(NamedTuple):
    """One shard's state."""

    shard: str
    state: str
    """done, failed, begun or waiting."""
    num_windows: int
    num_windows_done: int
    tokens_per_second: float
    reason: str


class RunStatus(NamedTuple):
    """A run's state."""

    run_dir: str
    model: str
    shards: list[ShardStatus]
    is_gathered: bool

    def count(self, state: str) -> int:
        """Shards in that state."""
        return sum(shard.state == state for shard in self.shards)


def run_status(plan: Plan, layout: RunLayout) -> RunStatus:
    """Look at every shard."""
    shards = [_shard_status(plan, layout, index) for index in range(len(plan.shards))]
    return RunStatus(str(layout.root), plan.model.name, shards, layout.dataset.is_dir())


def _shard_status(plan: Plan, layout: RunLayout, index: int) -> ShardStatus:
    name, num_windows = shard_name(index), plan.shards[index].num_windows
    if is_done(layout.outputs, name, plan.fingerprint):
        marker = read_marker(layout.outputs, name)
        rate = marker.facts.tokens_per_second if marker else 0.0
        num_failed = len(marker.failed_windows) if marker else 0
        reason = f"{num_failed} windows failed" if num_failed else ""
        return ShardStatus(name, "done", num_windows, num_windows - num_failed, rate, reason)
    num_done = num_windows_in_pieces(layout.pieces(index))
    if failure := read_failure(layout.outputs, name):
        return ShardStatus(name, "failed", num_windows, num_done, 0.0, f"{failure.tries} tries: {failure.reason}")
    return ShardStatus(name, "begun" if num_done else "waiting", num_windows, num_done, 0.0, "")
