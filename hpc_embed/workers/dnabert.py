"""DNABERT-2 and DNABERT-S behind the worker contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.run.identity import UNTRAINED_SEED
from hpc_embed.workers.base import Tokens
from hpc_embed.workers.transformer import TransformerWorker

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hpc_embed.engine.dnabert import DnaBertShape
    from hpc_embed.engine.embedding import Encoder
    from hpc_embed.engine.references import Reference


class DnaBertWorker(TransformerWorker):
    """Runs checkpoints of either model."""

    def make_encoder(self, device: torch.device, precision: str) -> tuple[Encoder, int]:
        from hpc_embed.engine.dnabert import DnaBert

        shape, tensors = self._shape_and_tensors()
        encoder = DnaBert(shape, tensors, source=self.identity.name, device=device, precision=precision)
        return encoder, shape.hidden

    def make_reference(self, device: torch.device) -> Reference:
        from hpc_embed.engine.references import dnabert_reference

        return dnabert_reference(*self._shape_and_tensors(), device)

    def make_tokeniser(self) -> Callable[[Sequence[bytes]], Sequence[Tokens]]:
        from hpc_embed.engine.tokens import BpeTokenizer, read_bpe_tokenizer, untrained_bpe_json

        if self.identity.is_untrained:
            return BpeTokenizer(untrained_bpe_json()).tokens
        return read_bpe_tokenizer(self.folder()).tokens

    def _shape_and_tensors(self) -> tuple[DnaBertShape, dict[str, Tensor]]:
        from hpc_embed.engine.dnabert import DnaBertShape, random_weights

        if self.identity.is_untrained:
            shape = DnaBertShape()
            return shape, random_weights(shape, UNTRAINED_SEED)
        eps = self.eps_of_config(DnaBertShape.layer_norm_eps)
        return DnaBertShape(**self.dimensions_of_config(), layer_norm_eps=eps), self.read_tensors()
