"""`hpc-embed stage-model`: a model pinned and put where the nodes find it."""

from __future__ import annotations

from pathlib import Path

from hpc_embed.checkpoints.files import weight_files
from hpc_embed.commands.printing import print_json, print_line, print_table
from hpc_embed.config import OutputSettings, StageSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.registry import ANY_ENCODER
from hpc_embed.run.files import write_json
from hpc_embed.run.identity import STAGED, copy_checkpoint, digest_of_checkpoint, pin_model
from hpc_embed.units import format_bytes


def run(settings: StageSettings, output: OutputSettings) -> int:
    """Fetch, copy, check and describe."""
    model, identity = pin_model(settings.model, settings.revision, None)
    if not identity.folder:
        raise UsageError(f"--model {settings.model}: has no weights to stage.", remedy="See `hpc-embed models`.")
    target = Path(settings.models_dir).resolve() / identity.name.replace("/", "--")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_checkpoint(Path(identity.folder), target)
    except OSError as error:
        raise EnvironmentFault(
            f"{target}: cannot be written ({error.strerror}).", remedy="Choose --models-dir."
        ) from error
    is_packed = identity.registry_name != ANY_ENCODER.name
    if digest_of_checkpoint(target, is_packed=is_packed) != identity.digest:
        raise EnvironmentFault(
            f"{target}: holds another version of {identity.name}.", remedy="Remove it, and try again."
        )
    facts = {
        "name": identity.name,
        "source": identity.source,
        "revision": identity.revision,
        "digest": identity.digest,
        "licence": model.licence,
        "bytes": sum(path.stat().st_size for path in weight_files(target)),
        "folder": str(target),
    }
    write_json(target / STAGED, facts)
    if output.json:
        print_json(facts)
    else:
        size = format_bytes(sum(path.stat().st_size for path in weight_files(target)))
        print_table((), [*(facts | {"bytes": size}).items()])
        print_line(f"use it: hpc-embed plan --model {target}")
    return 0
