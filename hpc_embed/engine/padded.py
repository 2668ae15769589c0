"""Encoders that transformers knows natively, in padded batches: the plain way, for what has no packed form here."""

# B = windows, N = tokens of the longest one, D = hidden

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.any_tokeniser import unmarked
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.embedding import behind
from hpc_embed.engine.pooling import pool
from hpc_embed.engine.transfers import to_device
from hpc_embed.errors import EnvironmentFault, in_one_line
from hpc_embed.families.family import Special
from hpc_embed.registry import PER_TOKEN, WITH_SPECIAL
from hpc_embed.run.outputs import Outputs

SHORTEST_SHARE = 0.8
"""A window shorter than this share of its batch's longest one begins a batch of its own."""
NOTHING = Special(0, 0)


class Padded(NamedTuple):
    """Vectors of B windows, still on the device."""

    vectors_BD: Tensor
    num_tokens_B: NDArray[np.int32]
    num_computed_tokens: int


class NativeEncoder:
    """A model of transformers on a device. Special tokens are marked in the windows by `marked`."""

    def __init__(self, folder: Path, device: torch.device, precision: str) -> None:
        """EnvironmentFault for what transformers cannot load."""
        self._device, self._is_bf16 = device, precision == "bf16"
        self._model = _load(folder).train(False).to(device)
        self._positions = getattr(self._model.config, "max_position_embeddings", None)
        self.hidden: int = self._model.config.hidden_size

    def embed(self, windows: Sequence[NDArray[np.integer]], outputs: Outputs) -> Padded:
        """Every output of one pass, rows as run/outputs.py lays them out."""
        made = [self._embed(chunk, outputs) for chunk in chunks(windows)]
        return Padded(
            torch.cat([vectors_RD for vectors_RD, _ in made]),
            np.concatenate([num_tokens_B for _, num_tokens_B in made]),
            sum(len(chunk) * max(map(len, chunk)) for chunk in chunks(windows)),
        )

    @torch.inference_mode()
    def _embed(self, windows: Sequence[NDArray[np.integer]], outputs: Outputs) -> tuple[Tensor, NDArray[np.int32]]:
        longest = max(map(len, windows))
        tokens_BN = np.zeros((len(windows), longest), dtype=np.int64)
        is_real_BN, is_letter_BN = (np.zeros_like(tokens_BN, dtype=bool) for _ in range(2))
        for row, window in enumerate(windows):
            tokens_BN[row, : len(window)] = unmarked(window)
            is_real_BN[row, : len(window)] = True
            is_letter_BN[row, : len(window)] = window >= 0
        mask_BN = is_real_BN.astype(np.int64)
        states = self._run(to_device(tokens_BN, self._device), to_device(mask_BN, self._device), outputs.layers)

        def pooled(pooling: str) -> tuple[Tensor, NDArray[np.int32]]:
            keep_BN = is_real_BN if pooling in WITH_SPECIAL else is_letter_BN
            made = [self._pool(pooling, hidden_BND, keep_BN) for hidden_BND in states]
            return torch.cat([vectors_RD for vectors_RD, _ in made], dim=1), made[0][1]

        made = {pooling: pooled(pooling) for pooling in outputs.poolings}
        counted = [name for name in outputs.poolings if outputs.counts_special or name not in WITH_SPECIAL]
        num_tokens_B, vectors = made[outputs.per_letter or counted[0]][1], [made[name][0] for name in outputs.pooled]
        if outputs.per_letter is None:
            return torch.cat(vectors, dim=1), num_tokens_B
        return behind(made[outputs.per_letter][0], num_tokens_B, vectors), num_tokens_B

    def _pool(self, pooling: str, hidden_BND: Tensor, keep_BN: NDArray[np.bool_]) -> tuple[Tensor, NDArray[np.int32]]:
        """The poolings of packed rows serve: what is kept lies packed, and none of it is special."""
        rows_B = keep_BN.sum(axis=1)
        if pooling == PER_TOKEN:
            return hidden_BND[to_device(keep_BN, self._device)].float(), rows_B.astype(np.int32)
        has_none_B = rows_B == 0  # a window of special tokens alone: its vector is zero
        keep_BN = keep_BN | (has_none_B[:, None] & (np.arange(keep_BN.shape[1]) == 0))
        kept_TD = hidden_BND[to_device(keep_BN, self._device)].float()
        batch = make_batch([np.zeros(max(rows, 1), dtype=np.int32) for rows in rows_B], self._device, NOTHING)
        vectors_BD, num_tokens_B = pool(pooling, kept_TD, batch)
        return vectors_BD.masked_fill(to_device(has_none_B, self._device)[:, None], 0.0), num_tokens_B

    def _run(self, tokens_BN: Tensor, mask_BN: Tensor, layers: Sequence[int]) -> list[Tensor]:
        if self._positions is not None and tokens_BN.shape[1] > self._positions and self._has_table():
            raise EnvironmentFault(
                f"a window has {tokens_BN.shape[1]} tokens, the model positions for {self._positions}.",
                remedy="Plan with a smaller --max-residues.",
            )
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16):
            out = self._model(input_ids=tokens_BN, attention_mask=mask_BN, output_hidden_states=True)
        last = len(out.hidden_states) - 1
        return [out.last_hidden_state if layer == last else out.hidden_states[layer] for layer in layers]

    def _has_table(self) -> bool:
        return any("position_embedding" in name for name, _ in self._model.named_parameters())


def chunks(windows: Sequence[NDArray[np.integer]]) -> Iterator[list[NDArray[np.integer]]]:
    """Windows in their order, longest first, cut where padding would begin to cost."""
    chunk: list[NDArray[np.integer]] = []
    for window in windows:
        if chunk and not SHORTEST_SHARE * len(chunk[0]) <= len(window) <= len(chunk[0]):
            yield chunk
            chunk = []
        chunk.append(window)
    if chunk:
        yield chunk


def _load(folder: Path) -> Any:
    """transformers' encoder of a checkpoint, in float32; of an encoder with a decoder its first half."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        is_text_encoder = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        kind = transformers.AutoModelForTextEncoding if is_text_encoder else transformers.AutoModel
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"{folder}: transformers {transformers.__version__} cannot load it ({in_one_line(error)}).",
            remedy="Choose a model that it knows natively, or of `hpc-embed models`.",
        ) from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise EnvironmentFault(
            f"{folder}: not a whole checkpoint of {config.model_type} ({missing[0]} is missing).",
            remedy="Fetch the checkpoint again, or choose another --model.",
        )
    return model.get_encoder() if getattr(config, "is_encoder_decoder", False) and not is_text_encoder else model
