"""Shards embedded as one worker of several does it, in this process."""

from __future__ import annotations

from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan
from hpc_embed.workers.registry import make_worker


def embed(plan: Plan, layout: RunLayout, *shards: int) -> None:
    """Those of the plan, or all of them."""
    worker = make_worker(plan.model, plan.embedding, num_threads=1)
    paths = [layout.shard(index) for index in shards or range(len(plan.shards))]
    outcome = worker.process_files_worker(
        paths, "cpu", 512, layout.outputs, fingerprint=plan.fingerprint, work_dir=layout.work
    )
    assert outcome.processed == paths
