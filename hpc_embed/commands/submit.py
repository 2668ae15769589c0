"""`hpc-embed submit`: hand a planned run to Slurm."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.cluster.script import plain_script
from hpc_embed.cluster.submit import Submitted, dry_run_text, submit
from hpc_embed.cluster.task import outlook
from hpc_embed.commands.printing import print_json, print_line
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
        _print_script(plain_script(plan, layout, settings, work), output)
        return 0
    if settings.dry_run:
        num_to_do = len(outlook(plan, layout, work).to_do)
        _print_script(dry_run_text(plan, layout, settings, work, num_to_do), output)
        return 0
    submitted = submit(plan, layout, settings, work, dataset)
    if output.json:
        print_json(submitted._asdict())
    else:
        _print(submitted, where.run_dir)
    return 0


def _print_script(script: str, output: OutputSettings) -> None:
    if output.json:
        print_json({"script": script})
    else:
        print(script, end="")


def _print(submitted: Submitted, run_dir: str) -> None:
    others = {
        "done": submitted.num_done,
        "queued or running already": submitted.num_queued,
        "left aside after failing (--retry-failed)": submitted.num_quarantined,
    }
    print_line(
        "; ".join([f"{submitted.num_submitted} shards submitted", *(f"{n} {what}" for what, n in others.items() if n)])
    )
    jobs = [
        f"arrays {', '.join(submitted.arrays)}" if submitted.arrays else "",
        f"gather job {submitted.gather_job}" if submitted.gather_job else "",
    ]
    if any(jobs):
        print_line(", ".join(job for job in jobs if job))
        print_line(f"look: hpc-embed status --run-dir {run_dir}")
    elif not submitted.num_queued and not submitted.num_quarantined:
        print_line(f"every shard is done: hpc-embed gather --run-dir {run_dir}")
