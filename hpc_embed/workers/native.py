"""Any encoder that transformers knows natively behind the worker contract: padded, and slower than the packed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.workers.base import EmbeddedBatch, LoadedModel, Tokens
from hpc_embed.workers.loaded import CheckpointWorker, LoadedOnDevice

if TYPE_CHECKING:
    import torch


class NativeWorker(CheckpointWorker):
    """Runs what has no packed form here."""

    def load(self, device_id: int | str) -> LoadedModel:
        """Check the weights against the plan, and let transformers put the model on its device."""
        import torch

        from hpc_embed.engine.device import choose_precision, find_device

        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        device = find_device(device_id)
        self.check_weights()
        return _LoadedNative(self, device, choose_precision(self.embedding.precision, device))


class _LoadedNative(LoadedOnDevice):
    def __init__(self, worker: NativeWorker, device: torch.device, precision: str) -> None:
        import transformers

        from hpc_embed.engine.any_tokeniser import NativeTokeniser
        from hpc_embed.engine.padded import NativeEncoder

        self._outputs = worker.embedding.outputs
        self.tokenise: Callable[[Sequence[bytes]], Sequence[Tokens]] = NativeTokeniser(worker.folder())
        self._encoder = NativeEncoder(worker.folder(), device, precision)
        versions = {"transformers": transformers.__version__, "attention": "transformers"}
        super().__init__(device, precision, self._encoder.hidden * self._outputs.width, versions)

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Queue the batch on the device, and the copy of its vectors behind it."""
        from hpc_embed.engine.transfers import to_host

        num_tokens = sum(map(len, batch))
        made = self._encoder.embed(batch, self._outputs)
        vectors_BD = to_host(made.vectors_BD)
        return lambda: EmbeddedBatch(vectors_BD(), made.num_tokens_B, num_tokens, made.num_computed_tokens)
