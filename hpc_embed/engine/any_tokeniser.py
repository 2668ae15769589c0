"""The checkpoint's own tokenizer, as transformers loads it, for any encoder."""

# N = tokens of one sequence

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault, in_one_line

PROBES = ("MKTAYIAKQRQISFVKSHFSRQ", "ACGTTGCAACGTACGTTAGCCA")


def marked(tokens_N: NDArray[np.int64], is_special_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Token ids, those of special tokens as -1 - id."""
    return np.where(is_special_N, -1 - tokens_N, tokens_N)


def unmarked(window_N: NDArray[np.integer]) -> NDArray[np.integer]:
    """The ids alone."""
    signed_N = window_N.astype(np.int64)
    return np.where(signed_N < 0, -1 - signed_N, signed_N)


class NativeTokeniser:
    """transformers' AutoTokenizer on letters, put apart by spaces where the vocabulary wants them so."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # windows longer than a tokeniser's own limit are ours to judge
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise EnvironmentFault(
                f"{folder}: transformers finds no tokenizer in it ({in_one_line(error)}).",
                remedy="Fetch the checkpoint again.",
            ) from error
        self.is_spaced = self._num_unknown(spaced=True) < self._num_unknown(spaced=False)

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.int64]]:
        """Marked tokens of each sequence, as the checkpoint's own post-processor surrounds them."""
        texts = [sequence.decode("ascii", errors="replace") for sequence in sequences]
        return [marked(*row) for row in self._rows(texts, spaced=self.is_spaced)] if texts else []

    def _rows(self, texts: Sequence[str], *, spaced: bool) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        given = [" ".join(text) if spaced else text for text in texts]
        made = self._tokenizer(given, return_special_tokens_mask=True, return_attention_mask=False)
        unknown = self._tokenizer.unk_token_id
        rows = []
        for ids, mask in zip(made["input_ids"], made["special_tokens_mask"], strict=True):
            ids_N = np.array(ids, dtype=np.int64)
            # an unknown letter is a residue all the same
            rows.append((ids_N, np.array(mask, dtype=bool) & (ids_N != (-1 if unknown is None else unknown))))
        return rows

    def _num_unknown(self, *, spaced: bool) -> int:
        unknown = self._tokenizer.unk_token_id
        if unknown is None:
            return 0
        rows = self._rows(PROBES, spaced=spaced)
        # a whole sequence that is one unknown word counts as all of its letters
        return sum(
            len(probe) * int((ids == unknown).sum()) // max(int((~special).sum()), 1)
            for probe, (ids, special) in zip(PROBES, rows, strict=True)
        )
