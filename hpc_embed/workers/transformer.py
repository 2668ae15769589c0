"""What the transformer families share: weights found and checked, batches begun on the device, pooling."""

from __future__ import annotations

import platform
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpc_embed import __version__
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.identity import copy_checkpoint, digest_of_checkpoint, read_config, weight_files, whole_number
from hpc_embed.workers.base import BaseEmbeddingWorker, EmbeddedBatch, LoadedModel, Tokens

if TYPE_CHECKING:  # torch is imported inside a worker's process only
    import torch
    from torch import Tensor

    from hpc_embed.engine.embedding import Encoder
    from hpc_embed.engine.references import Reference

TRIAL_WINDOW_TOKENS = 256
CONFIG_KEYS = {
    "num_layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
}


class TransformerWorker(BaseEmbeddingWorker):
    """A worker whose family brings an encoder and a tokeniser."""

    @abstractmethod
    def make_encoder(self, device: torch.device, precision: str) -> tuple[Encoder, int]:
        """The encoder on its device, and its hidden size."""

    @abstractmethod
    def make_tokeniser(self) -> Callable[[Sequence[bytes]], Sequence[Tokens]]:
        """The function from sequences to tokens."""

    @abstractmethod
    def make_reference(self, device: torch.device) -> Reference:
        """The reference implementation with the same weights."""

    def load(self, device_id: int | str) -> LoadedModel:
        """Check the weights against the plan, and put the model on its device."""
        import torch

        from hpc_embed.engine.device import choose_precision, find_device

        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        device = find_device(device_id)
        precision = choose_precision(self.embedding.precision, device, force=self.force_precision)
        if not self.identity.is_untrained:
            self._check_weights()
        encoder, hidden = self.make_encoder(device, precision)
        return _LoadedTransformer(self, encoder, self.make_tokeniser(), hidden, device, precision)

    def folder(self) -> Path:
        """Where the checkpoint is read from: where it was planned, or the node's own copy of it."""
        planned = Path(self.identity.folder)
        if self.weights_copy is None:
            return planned
        return copy_checkpoint(planned, Path(self.weights_copy) / f"hpc-embed-{self.identity.digest[:16]}")

    def dimensions_of_config(self) -> dict[str, int]:
        """Dimensions in the checkpoint's config.json, as keywords of either encoder's shape."""
        config = read_config(self.folder())
        return {name: whole_number(config, key, self.folder()) for name, key in CONFIG_KEYS.items()}

    def eps_of_config(self, usual: float) -> float:
        """What LayerNorm adds to the variance, the family's usual number where config.json does not say."""
        eps = read_config(self.folder()).get("layer_norm_eps", usual)
        return eps if isinstance(eps, float) else usual

    def read_tensors(self) -> dict[str, Tensor]:
        """The checkpoint's tensors."""
        from hpc_embed.engine.checkpoints import read_weights

        return read_weights(weight_files(self.folder()))

    def _check_weights(self) -> None:
        if not weight_files(Path(self.identity.folder)):
            raise EnvironmentFault(
                f"{self.identity.folder}: the weights of {self.identity.name} are not there.",
                remedy="Put them where this node sees them, and plan again.",
            )
        if digest_of_checkpoint(self.folder()) != self.identity.digest:
            raise EnvironmentFault(
                f"{self.folder()}: the weights are not those that were planned.",
                remedy="Restore them, or plan into another --run-dir.",
            )


class _LoadedTransformer:
    def __init__(
        self,
        worker: BaseEmbeddingWorker,
        encoder: Encoder,
        tokeniser: Callable[[Sequence[bytes]], Sequence[Tokens]],
        hidden: int,
        device: torch.device,
        precision: str,
    ) -> None:
        import torch

        from hpc_embed.engine.device import describe, reset_peak

        self._embedding = worker.embedding
        self._encoder = encoder
        self._tokeniser = tokeniser
        self._device = device
        self.device = describe(device)
        self.precision = precision
        self.dimension = hidden
        self.versions = {
            "hpc_embed": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "attention": encoder.attention_name,
        }
        reset_peak(device)

    def tokenise(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        return self._tokeniser(sequences)

    def start(self, batch: Sequence[Tokens]) -> Callable[[], EmbeddedBatch]:
        """Queue the batch on the device, and the copy of its vectors behind it."""
        from hpc_embed.engine.embedding import embed_windows
        from hpc_embed.engine.transfers import to_host

        num_tokens = sum(map(len, batch))
        made = embed_windows(self._encoder, batch, self._embedding.pooling, self._embedding.layer, self._device)
        vectors_BD = to_host(made.vectors_BD)
        return lambda: EmbeddedBatch(vectors_BD(), made.num_tokens_B, num_tokens, made.num_computed_tokens)

    def measure_token_budget(self) -> int:
        from hpc_embed.engine.device import measure_token_budget

        def run_tokens(num_tokens: int) -> None:
            window = np.full(TRIAL_WINDOW_TOKENS, 5, dtype=np.uint8)
            self.start([window] * (num_tokens // TRIAL_WINDOW_TOKENS))()

        return measure_token_budget(run_tokens, self._device)

    def is_out_of_memory(self, error: Exception) -> bool:
        from hpc_embed.engine.device import is_out_of_memory

        return is_out_of_memory(error)

    def release_memory(self) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def peak_memory_bytes(self) -> int:
        from hpc_embed.engine.device import peak_bytes

        return peak_bytes(self._device)
