"""`hpc-embed submit`: hand a planned run to Slurm."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.cluster.script import plain_script
from hpc_embed.cluster.submit import Submitted, dry_run_text, submit
from hpc_embed.cluster.task import outlook
from hpc_embed.commands.printing import print_json
from hpc_embed.config import GatherSettings, OutputSettings, RunSettings, SubmitSettings, WorkSettings
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan


def run(
    where: RunSettings,
    settings: SubmitSettings,
    work: WorkSettings,
    dataset: GatherSettings,
    output: OutputSettings,
) -> int:
    """Submit what is neither done nor queued, or print the script."""
    layout = RunLayout(Path(where.run_dir))
    plan = read_plan(layout.plan)
    if settings.print_script:
        print(plain_script(plan, layout, settings, work), end="")
        return 0
    if settings.dry_run:
        print(dry_run_text(plan, layout, settings, work, len(outlook(plan, layout, work).to_do)), end="")
        return 0
    submitted = submit(plan, layout, settings, work, dataset)
    if output.json:
        print_json(submitted._asdict())
    else:
        _print(submitted, where.run_dir)
    return 0


def _print(submitted: Submitted, run_dir: str) -> None:
    others = {
        "done": submitted.num_done,
        "queued or running already": submitted.num_queued,
        "left aside after failing (--retry-failed)": submitted.num_quarantined,
    }
    print(
        "; ".join([f"{submitted.num_submitted} shards submitted", *(f"{n} {what}" for what, n in others.items() if n)])
    )
    jobs = [
        f"arrays {', '.join(submitted.arrays)}" if submitted.arrays else "",
        f"gather job {submitted.gather_job}" if submitted.gather_job else "",
    ]
    if any(jobs):
        print(", ".join(job for job in jobs if job))
        print(f"look: hpc-embed status --run-dir {run_dir}")
    elif not submitted.num_queued and not submitted.num_quarantined:
        print(f"every shard is done: hpc-embed gather --run-dir {run_dir}")
