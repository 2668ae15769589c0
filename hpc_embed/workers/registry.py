"""From a pinned model to the worker that runs it."""

from __future__ import annotations

from importlib import import_module

from hpc_embed.registry import find_model
from hpc_embed.run.identity import ModelIdentity
from hpc_embed.run.plan import Embedding
from hpc_embed.workers.base import BaseEmbeddingWorker


def make_worker(
    identity: ModelIdentity,
    embedding: Embedding,
    *,
    num_threads: int | None = None,
    weights_copy: str | None = None,
    force_precision: bool = False,
    needs_proof: bool = True,
) -> BaseEmbeddingWorker:
    """The worker of a model; importing it does not import torch."""
    module, name = find_model(identity.registry_name).worker.split(":")
    worker_class = getattr(import_module(module), name)
    worker = worker_class(
        identity,
        embedding,
        num_threads=num_threads,
        weights_copy=weights_copy,
        force_precision=force_precision,
        needs_proof=needs_proof,
    )
    assert isinstance(worker, BaseEmbeddingWorker)
    return worker
