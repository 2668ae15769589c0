"""A checkpoint's own tokenizer, by transformers, given letters as its authors give them: slow, and what our tables are
held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_embed.checkpoints.vocabulary import has_tokenizer, read_vocabulary
from hpc_embed.errors import EnvironmentFault, in_one_line
from hpc_embed.families.family import Family, Pieces

CLASSES = {
    "esm2": "EsmTokenizer",
    "nucleotide_transformer": "EsmTokenizer",
    "esmc": "EsmcTokenizer",
    "t5": "T5Tokenizer",
    "ankh": "T5Tokenizer",
    "dnabert": "PreTrainedTokenizerFast",
}
"""transformers' own, by family; not AutoTokenizer, which asks whether to run remote code."""
Own = Callable[[str], list[int]]


def own_tokenizers(family: Family, folder: Path) -> list[Own]:
    """Functions from a sequence to its tokens, one for each way in which the authors spell sequences.

    Raises EnvironmentFault where transformers cannot load the tokenizer.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()  # longer than a tokenizer's own limit: ours to judge
    kind = getattr(transformers, CLASSES[family.name])
    try:
        # ESM C's authors have it in their code, as transformers does
        loaded: Any = kind.from_pretrained(folder, local_files_only=True) if has_tokenizer(folder) else kind()
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"{folder}: transformers cannot load its tokenizer ({in_one_line(error)}), so nothing proves our tokens.",
            remedy="pip install sentencepiece for a spiece.model; --no-proof goes on without a proof.",
        ) from error
    return [_spelling(loaded, spell) for spell in _spellings(family, folder)]


def _spelling(tokenizer: Any, spell: Callable[[str], str]) -> Own:
    def tokens_of(sequence: str) -> list[int]:
        tokens: list[int] = tokenizer(spell(sequence))["input_ids"]
        return tokens

    return tokens_of


def _spellings(family: Family, folder: Path) -> list[Callable[[str], str]]:
    if not isinstance(family.tokens, Pieces):
        return [lambda sequence: sequence]
    vocabulary = read_vocabulary(folder)
    front = family.tokens.front
    prefix = f"{front} " if vocabulary is not None and front in vocabulary.ids else ""
    rewritten = str.maketrans(dict(family.tokens.rewritten))
    return [
        lambda sequence: prefix + " ".join(sequence.translate(rewritten)),
        lambda sequence: prefix + sequence.translate(rewritten),
    ]
