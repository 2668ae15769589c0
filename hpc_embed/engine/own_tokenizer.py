"""A checkpoint's own tokenizer, as transformers makes it of the checkpoint's files, and what those files lack."""

# N = tokens of one text

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.checkpoints.any_encoder import infer_model_type
from hpc_embed.checkpoints.files import tokeniser_folder
from hpc_embed.errors import EnvironmentFault, in_one_line

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")
KINDS_BY_SPECIAL_TOKEN = {"[CLS]": "bert", "<cls>": "esm"}
"""Which of transformers' tokenizers reads a vocab.txt, where config.json does not tell its model_type."""
LONGEST_WORD = 1 << 30
"""WordPiece makes one [UNK] of a word of more than 100 letters, and a sequence is one word."""
MARKS = ("##", "▁", "Ġ")
"""What stands in front of a piece and is no letter: WordPiece's, SentencePiece's, byte-level BPE's."""


class Row(NamedTuple):
    """Tokens of one text."""

    ids_N: NDArray[np.int64]
    is_special_N: NDArray[np.bool_]


class OwnTokenizer:
    """Texts to tokens, with the special tokens that the checkpoint's files put around them."""

    def __init__(self, folder: Path) -> None:
        """EnvironmentFault where transformers makes no tokenizer of the folder."""
        from transformers.utils import logging

        logging.set_verbosity_error()  # windows longer than a tokenizer's own limit are ours to judge
        self.folder = folder
        self.notes: list[str] = []
        self._tokenizer = _load(folder)
        self.ids: Mapping[str, int] = self._tokenizer.get_vocab()
        if self._lowers() and not self._has_lower_case():
            self._tokenizer = _load(folder, do_lower_case=False)
            self.notes.append("its vocabulary has capitals alone, so letters are not lower-cased")
        self._mend_long_words()
        unknown = self._tokenizer.unk_token or getattr(self._model(), "unk_token", None)
        self.unknown: str = unknown or "nothing"
        self.unknown_id: int | None = self.ids.get(unknown)
        """None for a tokenizer that leaves out what it does not know, or knows every byte."""
        self._num_around = self._find_around()

    def __call__(self, texts: Sequence[str], *, with_special: bool = True) -> list[Row]:
        """A row each. An unknown token is no special one: a letter that nobody knows is a letter all the same."""
        num_front, num_back = self._num_around if with_special else (0, 0)
        rows = []
        for ids_N in self._ids(texts, with_special=with_special):
            is_special_N = np.zeros(len(ids_N), dtype=bool)
            is_special_N[:num_front] = is_special_N[len(ids_N) - num_back :] = True
            rows.append(Row(ids_N, is_special_N))
        return rows

    def _ids(self, texts: Sequence[str], *, with_special: bool) -> list[NDArray[np.int64]]:
        if not texts:
            return []
        made = self._tokenizer(
            list(texts), add_special_tokens=with_special, return_attention_mask=False, return_token_type_ids=False
        )
        return [np.array(ids, dtype=np.int64) for ids in made["input_ids"]]

    def _find_around(self) -> tuple[int, int]:
        """Special tokens in front of a text and behind; what transformers' own mask says of them may be of another
        length than the tokens."""
        (whole,), (bare,) = (self._ids(["A"], with_special=with_special) for with_special in (True, False))
        num_special = len(whole) - len(bare)
        starts = (at for at in range(num_special + 1) if np.array_equal(whole[at : at + len(bare)], bare))
        num_front = next(starts, num_special)
        return num_front, num_special - num_front

    def name_of(self, token: int) -> str:
        """As the vocabulary writes it."""
        return str(self._tokenizer.convert_ids_to_tokens(int(token)))

    def lengths_V(self) -> NDArray[np.int64]:
        """How many letters each token is written with."""
        lengths_V = np.zeros(max(self.ids.values(), default=0) + 1, dtype=np.int64)
        for name, token in self.ids.items():
            lengths_V[token] = len(name.removeprefix(next(filter(name.startswith, MARKS), "")))
        if self.unknown_id is not None:
            lengths_V[self.unknown_id] = 1
        return lengths_V

    def what_it_lacks(self) -> str:
        """A remedy for a tokenizer that does not know its model's letters."""
        here = [name for name in VOCABULARY_FILES if (self.folder / name).is_file()]
        if here:
            return f"{here[0]} is of another model, or of another kind of sequence: compare it with the published one."
        above = self.folder.parent / "vocab.txt"
        where = f" There is one at {above}." if above.is_file() else ""
        return f"Put the checkpoint's own vocab.txt, tokenizer.json or spiece.model beside its config.json.{where}"

    def _model(self) -> Any:
        """Of the tokenizers library, None for a tokenizer that is written in Python."""
        return getattr(getattr(self._tokenizer, "backend_tokenizer", None), "model", None)

    def _lowers(self) -> bool:
        normalizer = getattr(getattr(self._tokenizer, "backend_tokenizer", None), "normalizer", None)
        return normalizer is not None and normalizer.normalize_str("A") == "a"

    def _has_lower_case(self) -> bool:
        special = set(self._tokenizer.all_special_tokens)
        return any(name != name.upper() for name in self.ids if name not in special)

    def _mend_long_words(self) -> None:
        model = self._model()
        if hasattr(model, "max_input_chars_per_word"):
            model.max_input_chars_per_word = LONGEST_WORD


def _load(folder: Path, **options: object) -> Any:
    """EnvironmentFault for what transformers cannot read, or does not know."""
    try:
        return _class_of(folder).from_pretrained(tokeniser_folder(folder), local_files_only=True, **options)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        needs_library = (folder / "spiece.model").is_file() and not (folder / "tokenizer.json").is_file()
        raise EnvironmentFault(
            f"{folder}: transformers makes no tokenizer of it ({in_one_line(error)}).",
            remedy="Install what reads its spiece.model: pip install sentencepiece protobuf."
            if needs_library
            else "Put the checkpoint's own tokenizer files beside its config.json, as published.",
        ) from error


def _class_of(folder: Path) -> Any:
    """The class that the files name, else that of the model_type, else what the vocabulary looks like.

    transformers' own choice would ask on the terminal whether to run code that config.json names.
    """
    from transformers import PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    settings = read_json(folder / "tokenizer_config.json")
    name = settings.get("tokenizer_class")
    kind = str(infer_model_type(read_json(folder / "config.json")) or _kind_of_vocabulary(folder / "vocab.txt"))
    found = tokenizer_class_from_name(
        str(name or TOKENIZER_MAPPING_NAMES.get(kind) or PreTrainedTokenizerFast.__name__)
    )
    if found is None or (not name and "auto_map" in settings):
        raise EnvironmentFault(
            f"{folder}: its tokenizer, {name or 'unnamed'}, runs code of its own, which is never run here.",
            remedy="Choose a model of `hpc-embed models`, or one that transformers knows natively.",
        )
    return found


def _kind_of_vocabulary(path: Path) -> str:
    words = set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()
    return next((kind for name, kind in KINDS_BY_SPECIAL_TOKEN.items() if name in words), "")


def read_json(path: Path) -> dict[str, object]:
    """An object of a file, empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
