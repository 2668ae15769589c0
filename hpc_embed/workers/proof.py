"""No vector from a checkpoint that has not proven itself here: tokens equal to those of its own tokenizer, vectors as
near to the reference's as the precision allows. Made once in an environment, kept, and cited."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING

import torch

from hpc_embed.engine import processor
from hpc_embed.engine.device import describe, free_bytes, is_out_of_memory
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.parts import parts
from hpc_embed.registry import find_model
from hpc_embed.run.proofs import Proof, digest_of_code, find_proof, keep_proof, one_at_a_time
from hpc_embed.units import format_bytes
from hpc_embed.workers import verification
from hpc_embed.workers.verification import LARGEST_DISTANCE, agreement, reference_tokens, reference_vectors

if TYPE_CHECKING:
    from hpc_embed.workers.base import LoadedModel, Tokens
    from hpc_embed.workers.transformer import LoadedTransformer, TransformerWorker

NO_PROOF = "--no-proof goes on without a proof, and the dataset says so."
ROOM = 1.2
"""Memory that a reference takes, over that of its weights."""


def proven(
    worker: TransformerWorker, load: Callable[[], LoadedTransformer], device: torch.device, precision: str
) -> LoadedModel:
    """The loaded model, with its proof, which is made where none is kept.

    Raises EnvironmentFault for a checkpoint whose tokens or vectors are not the reference's, or that no reference
    can be had for.
    """
    facts = _facts(worker, device, precision)
    proof = find_proof(facts, worker.folder())
    if proof is None:
        with one_at_a_time(facts):  # who waited here finds what the first has kept
            proof = find_proof(facts, worker.folder())
            if proof is None:
                loaded, proof = _prove(worker, load, device, facts)
                kept = keep_proof(proof)
                return _with(loaded, proof, () if kept is None else (kept,))
    return _with(load(), proof)


def _with(loaded: LoadedTransformer, proof: Proof, notes: tuple[str, ...] = ()) -> LoadedModel:
    loaded.proof = str(proof)
    loaded.notes = (*loaded.notes, *notes)
    return loaded


def _prove(
    worker: TransformerWorker, load: Callable[[], LoadedTransformer], device: torch.device, facts: dict[str, str]
) -> tuple[LoadedTransformer, Proof]:
    sequences = verification.proof_sequences(find_model(worker.identity.registry_name).kind)
    tokeniser = worker.make_tokeniser()
    tokens = tokeniser(sequences)
    expected_BD = _expected(worker, reference_tokens(worker, sequences, tokens), device)
    loaded = load()
    found = agreement(loaded.encoder, facts["precision"], tokens, expected_BD, device, tokeniser.special)
    if not found.is_well:
        raise EnvironmentFault(
            f"{worker.identity.name}: its vectors are not those of the reference implementation (1 - cos "
            f"{found.largest_distance:.0e}, at most {LARGEST_DISTANCE[found.precision]:.0e} in {found.precision} on "
            f"{describe(device)}).",
            remedy=f"See `hpc-embed verify {worker.identity.folder}`, and report it. {NO_PROOF}",
        )
    return loaded, Proof(
        facts=facts,
        reference=_reference_name(),
        num_tokens=sum(map(len, tokens)),
        largest_distance=max(found.largest_distance, 0.0),
        day=datetime.now(UTC).date().isoformat(),
    )


def _expected(worker: TransformerWorker, tokens: Sequence[Tokens], device: torch.device) -> torch.Tensor:
    """The reference's vectors; of a model that the device has no room for, by the CPU. Its memory is given back."""
    num_bytes = int(ROOM * 4 * _num_parameters(worker))
    places = [place for place in dict.fromkeys((device, torch.device("cpu"))) if free_bytes(place) > num_bytes]
    for place in places:
        try:
            return reference_vectors(worker, tokens, place)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    raise EnvironmentFault(
        f"{worker.identity.name}: no room for the {format_bytes(num_bytes)} of the reference implementation, beside "
        "which a checkpoint proves itself when it is first loaded.",
        remedy=f"Give the first start more memory, once. {NO_PROOF}",
    )


def _num_parameters(worker: TransformerWorker) -> int:
    return sum(prod(part.size) for part in parts(worker.family, worker.shape(), worker.family.names[0]))


def _facts(worker: TransformerWorker, device: torch.device, precision: str) -> dict[str, str]:
    """What a proof holds for."""
    is_cpu = device.type == "cpu"
    name = f"{processor.name()} with {processor.instructions()}" if is_cpu else describe(device)
    libraries = {name: _version(name) for name in ("torch", "transformers", "tokenizers")}
    return {
        "digest": worker.identity.digest,
        "code": digest_of_code(),
        **libraries,
        "device": name,
        "precision": precision,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise EnvironmentFault(
            f"{package} is not installed, beside which a checkpoint proves itself when it is first loaded.",
            remedy=f"pip install 'hpc-embed[torch]'. {NO_PROOF}",
        ) from None


def _reference_name() -> str:
    return f"transformers {_version('transformers')}"
