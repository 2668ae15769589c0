"""ESM-2 behind the worker contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.registry import Model, find_model
from hpc_embed.run.identity import UNTRAINED_SEED
from hpc_embed.workers.base import Tokens
from hpc_embed.workers.transformer import TransformerWorker

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hpc_embed.engine.embedding import Encoder
    from hpc_embed.engine.esm2 import Esm2Shape
    from hpc_embed.engine.references import Reference

HEADS = {320: 20, 480: 20, 640: 20, 1280: 20, 2560: 40, 5120: 40}
"""Attention heads of each published hidden size."""


class Esm2Worker(TransformerWorker):
    """Runs any of the six sizes."""

    def make_encoder(self, device: torch.device, precision: str) -> tuple[Encoder, int]:
        from hpc_embed.engine.esm2 import Esm2

        shape, tensors = self._shape_and_tensors()
        encoder = Esm2(shape, tensors, source=self.identity.name, device=device, precision=precision)
        return encoder, shape.hidden

    def make_reference(self, device: torch.device) -> Reference:
        from hpc_embed.engine.references import esm2_reference

        return esm2_reference(self._shape_and_tensors() if self.identity.is_untrained else self.folder(), device)

    def make_tokeniser(self) -> Callable[[Sequence[bytes]], Sequence[Tokens]]:
        from hpc_embed.engine.tokens import esm2_tokens

        return esm2_tokens

    def _shape_and_tensors(self) -> tuple[Esm2Shape, dict[str, Tensor]]:
        from hpc_embed.engine.esm2 import Esm2Shape, random_weights

        if self.identity.is_untrained:
            shape = Esm2Shape(**published_shape(find_model(self.identity.registry_name)))
            return shape, random_weights(shape, UNTRAINED_SEED)
        eps = self.eps_of_config(Esm2Shape.layer_norm_eps)
        return Esm2Shape(**self.dimensions_of_config(), layer_norm_eps=eps), self.read_tensors()


def published_shape(model: Model) -> dict[str, int]:
    """Dimensions of a published size, as keywords of Esm2Shape."""
    return {
        "num_layers": model.num_layers,
        "hidden": model.hidden,
        "num_heads": HEADS[model.hidden],
        "intermediate": 4 * model.hidden,
    }
