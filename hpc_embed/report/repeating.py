"""The command that makes a run again, from its plan."""

from __future__ import annotations

import shlex

from hpc_embed.run.plan import Plan
from hpc_embed.sequences.pipes import STANDARD_INPUT


def command_to_repeat(plan: Plan, run_dir: str) -> str:
    """For a shell, into a run folder beside the old one; the same fingerprint where files and model are the same."""
    embedding, model = plan.embedding, plan.model
    layers = embedding.layer if isinstance(embedding.layer, tuple) else (embedding.layer,)
    options = {
        "run-dir": f"{run_dir}-again",
        "model": model.name,
        "revision": model.revision,
        "pooling": embedding.pooling,
        "layer": ",".join(map(str, layers)),
        "precision": embedding.precision,
        "on-long": embedding.on_long,
        "max-residues": embedding.max_residues,
        "stride": embedding.stride,
        "on-invalid": embedding.on_invalid,
        "case": embedding.case,
        "num-shards": len(plan.shards),
        **{name.replace("_", "-"): value for name, value in plan.intake.settings.items() if name != "reads_u_as_t"},
    }
    insists = ["--force-kind"] if plan.is_kind_forced else []
    flags = [word for name, value in options.items() if value not in (None, "") for word in (f"--{name}", str(value))]
    files = [file.path for file in plan.inputs]
    separator = ["--"] if any(file.startswith("-") and file != STANDARD_INPUT for file in files) else []
    return shlex.join(["hpc-embed", "local", *flags, *insists, *separator, *files])
