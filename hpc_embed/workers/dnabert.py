"""DNABERT-2 and DNABERT-S behind the worker contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hpc_embed.run.identity import UNTRAINED_SEED
from hpc_embed.workers.base import Tokens
from hpc_embed.workers.transformer import TransformerWorker

if TYPE_CHECKING:
    import torch

    from hpc_embed.engine.embedding import Encoder


class DnaBertWorker(TransformerWorker):
    """Runs checkpoints of either model."""

    def make_encoder(self, device: torch.device, precision: str) -> tuple[Encoder, int]:
        from hpc_embed.engine.dnabert import DnaBert, DnaBertShape, random_weights

        if self.identity.is_untrained:
            shape = DnaBertShape()
            tensors = random_weights(shape, UNTRAINED_SEED)
        else:
            shape = DnaBertShape(**self.shape_of_config())
            tensors = self.read_tensors()
        encoder = DnaBert(shape, tensors, source=self.identity.name, device=device, precision=precision)
        return encoder, shape.hidden

    def make_tokeniser(self) -> Callable[[Sequence[bytes]], Sequence[Tokens]]:
        from hpc_embed.engine.tokens import BpeTokenizer, read_bpe_tokenizer, untrained_bpe_json

        if self.identity.is_untrained:
            return BpeTokenizer(untrained_bpe_json()).tokens
        return read_bpe_tokenizer(self.folder()).tokens
