"""`hpc-embed verify`: our vectors beside the reference implementation's, on the model's own weights."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

from hpc_embed.commands.printing import print_json, print_line, print_table
from hpc_embed.config import OutputSettings, VerifySettings
from hpc_embed.errors import EnvironmentFault, Incomplete, UsageError
from hpc_embed.model import Model
from hpc_embed.run.identity import ModelIdentity, pin_model
from hpc_embed.run.plan import Embedding
from hpc_embed.workers.registry import make_worker

if TYPE_CHECKING:  # torch is imported where it is needed only
    from hpc_embed.workers.base import BaseEmbeddingWorker
    from hpc_embed.workers.verification import Agreement


def run(settings: VerifySettings, output: OutputSettings) -> int:
    """Print the largest difference and the largest 1 - cos of each precision; Incomplete beyond the bounds."""
    if importlib.util.find_spec("torch") is None:
        raise EnvironmentFault("torch is not installed.", remedy="pip install 'hpc-embed[torch]'")
    model, identity = pin_model(settings.model, settings.revision, None)
    if not model.has_weights:
        raise UsageError(f"{settings.model}: has no weights to verify.", remedy="See `hpc-embed models`.")
    embedding = Embedding(
        pooling=model.pooling,
        layer=model.num_layers,
        precision="auto",
        on_long="error",
        max_residues=model.max_residues,
        on_invalid="error",
        case="upper",
    )
    worker = make_worker(identity, embedding)
    device, found = _found(worker, settings, model)
    if output.json:
        facts = {"model": identity.name, "source": identity.source, "revision": identity.revision}
        print_json(facts | {"digest": identity.digest, "device": device, "agreements": list(map(_as_json, found))})
    else:
        _print(identity, device, found)
    beyond = [f"{each.precision} with {each.attention}" for each in found if not each.is_well and not each.fault]
    if beyond:
        raise Incomplete(
            f"{identity.name} on {device}: the vectors in {', '.join(beyond)} lie beyond the bound.",
            remedy="Use --precision fp32 for this model, and report it.",
        )
    return 0


def _found(worker: BaseEmbeddingWorker, settings: VerifySettings, model: Model) -> tuple[str, list[Agreement]]:
    from hpc_embed.workers.native import NativeWorker
    from hpc_embed.workers.transformer import TransformerWorker
    from hpc_embed.workers.verification import verify, verify_any

    if isinstance(worker, TransformerWorker):
        return verify(worker, settings.device, model.kind)
    if isinstance(worker, NativeWorker):
        return verify_any(worker, settings.device)
    raise UsageError(f"{settings.model}: its worker names no reference.", remedy="See `hpc-embed models`.")


def _as_json(agreement: Agreement) -> dict[str, object]:
    """JSON has no infinity, which a back end that failed is off by."""
    fields = agreement._asdict() | {"is_well": agreement.is_well}
    return {name: None if value == math.inf else value for name, value in fields.items()}


def _print(identity: ModelIdentity, device: str, found: list[Agreement]) -> None:
    from hpc_embed.workers.verification import LARGEST_DISTANCE

    weights = "random weights" if identity.is_untrained else f"{identity.source} {identity.revision}".strip()
    print_line(f"{identity.name} ({weights}) on {device}, beside the reference implementation in fp32:")
    print_table(
        ("precision", "attention", "largest difference", "largest 1 - cos", "bound", ""),
        [
            (
                each.precision,
                each.attention,
                f"{each.largest_difference:.1e}",
                f"{each.largest_distance:.1e}",
                f"{LARGEST_DISTANCE[each.precision]:.0e}",
                each.fault or ("ok" if each.is_well else "BEYOND"),
            )
            for each in found
        ],
    )
