"""DNABERT's byte-pair encoding, through the tokenizers library.

It has no normaliser: lower-case bases, N and other letters become [UNK], which is why planning upper-cases.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.family import BytePairs, Special

BERT_NAMES = BytePairs()


class BpeTokenizer:
    """A byte-pair encoding with [CLS] and [SEP] around each sequence.

    Special ids are looked up by name: the published config.json says that padding is 0, and its tokenizer 3.
    """

    def __init__(self, tokenizer_json: str, names: BytePairs = BERT_NAMES) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()  # some published copies pad to 2,000 tokens
        self._tokenizer.no_truncation()
        self.cls, self.sep, self.pad, self.unknown = (
            self._id(name) for name in (names.front, names.back, "[PAD]", "[UNK]")
        )

        self.special = Special(1, 1)
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        self.letters_V = np.ones(max(vocabulary.values()) + 1, dtype=np.uint8)
        for piece, token in vocabulary.items():
            self.letters_V[token] = min(len(piece), 255)
        self.letters_V[self.unknown] = 1  # each unknown letter is one token
        self.letters_V[[self.cls, self.sep]] = 0

    @property
    def vocabulary_size(self) -> int:
        size: int = self._tokenizer.get_vocab_size()
        return size

    def __call__(self, sequences: Sequence[bytes]) -> list[NDArray[np.uint16]]:
        """`[CLS]`, byte-pair tokens, `[SEP]` for each sequence."""
        texts = [sequence.decode("ascii") for sequence in sequences]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array([self.cls, *encoding.ids, self.sep], dtype=np.uint16) for encoding in encodings]

    def _id(self, name: str) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise EnvironmentFault(f"tokenizer.json has no {name}.", remedy="Fetch the checkpoint again.")
        return int(found)


def read_bpe_tokenizer(folder: Path, names: BytePairs) -> BpeTokenizer:
    """The tokenizer of a checkpoint folder."""
    path = folder / "tokenizer.json"
    try:
        return BpeTokenizer(path.read_text(encoding="utf-8"), names)
    except FileNotFoundError as error:
        raise EnvironmentFault(f"{path}: no such file.", remedy="Fetch the checkpoint again.") from error
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{path}: cannot be read ({error}).", remedy="Fetch the checkpoint again.") from error
    except Exception as error:  # the tokenizers library raises plain Exception for what it cannot parse
        if type(error) is not Exception:
            raise
        raise EnvironmentFault(f"{path}: not a tokenizer ({error}).", remedy="Fetch the checkpoint again.") from error


def untrained_bpe_json() -> str:
    """A stand-in for the published tokenizer, for untrained models and tests: same special tokens, and every
    word of up to four bases, with as many of five as 4,096 entries leave room for.
    """
    words = ["".join(letters) for length in range(1, 6) for letters in product("ACGT", repeat=length)]
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *words])}
    merges = [[word[:split], word[split:]] for word in words if (split := _split_of(len(word)))]
    special = [
        {
            "id": index,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, index in list(vocabulary.items())[:5]
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "[UNK]",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocabulary,
        "merges": merges,
    }
    return json.dumps({"version": "1.0", "added_tokens": special, "model": model})


def _split_of(length: int) -> int:
    """Where a word is put together from two shorter ones; 0 for a single letter."""
    return {2: 1, 3: 2, 4: 2, 5: 4}.get(length, 0)
