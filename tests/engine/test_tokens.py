"""Tokens of every family, beside transformers' tokenisers where it has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from hpc_embed.checkpoints.vocabulary import pieces_of_model, read_vocabulary
from hpc_embed.engine.tokens import make_tokeniser, piece_table, untrained_kmers, untrained_pieces
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.esmc import ESMC, esmc_shape
from hpc_embed.families.family import Kmers, Pieces
from hpc_embed.families.nucleotide import NUCLEOTIDE_TRANSFORMER, nucleotide_shape
from hpc_embed.families.t5 import T5, t5_shape

PROT_T5, PROST_T5 = (t5_shape(1, 16, 2, 16, 8, vocabulary=vocabulary) for vocabulary in (128, 150))
assert isinstance(T5.tokens, Pieces)
assert isinstance(NUCLEOTIDE_TRANSFORMER.tokens, Kmers)
IDS = untrained_pieces(T5.tokens, PROST_T5)
KMER_IDS = untrained_kmers(NUCLEOTIDE_TRANSFORMER.tokens)
NAME_OF_KMER = {token: name for name, token in KMER_IDS.items()}


def ids_in(folder: Path) -> Mapping[str, int]:
    vocabulary = read_vocabulary(folder)
    assert vocabulary is not None
    return vocabulary.ids


def kmers(sequence: bytes) -> list[str]:
    (tokens,) = make_tokeniser(NUCLEOTIDE_TRANSFORMER, nucleotide_shape(1, 16), None)([sequence])
    return [NAME_OF_KMER[token] for token in tokens.tolist()]


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        (b"ACGTACGTACGTAC", ["ACGTAC", "GTACGT", "A", "C"]),
        (b"ACGTACGNACGTACGT", ["ACGTAC", "G", "N", "ACGTAC", "G", "T"]),
        (b"NNACGTACNN", ["N", "N", "ACGTAC", "N", "N"]),
        (b"ACGTA", ["A", "C", "G", "T", "A"]),
        (b"A", ["A"]),
        (b"", []),
        (b"ACGTARACGTAC", ["A", "C", "G", "T", "A", "<unk>", "ACGTAC"]),
    ],
)
def test_dna_is_cut_into_words_of_six_from_the_left_and_letters_around_what_is_none(
    sequence: bytes, expected: list[str]
) -> None:
    assert kmers(sequence) == ["<cls>", *expected]


def test_kmers_are_those_of_transformers_tokeniser(tmp_path: Path) -> None:
    from transformers import EsmTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(KMER_IDS) + "\n")
    theirs = EsmTokenizer(str(tmp_path / "vocab.txt"), eos_token=None)
    ours = make_tokeniser(NUCLEOTIDE_TRANSFORMER, nucleotide_shape(1, 16), tmp_path)
    for sequence in ("ACGTACGTACGTAC", "ACGTACGNACGTACGT", "GATTACA" * 30, "NNNACGTNACGTACGTTTGACN"):
        assert ours([sequence.encode()])[0].tolist() == theirs(sequence)["input_ids"]


def test_esmc_has_esm2s_letters_and_ids() -> None:
    from transformers import EsmcTokenizer

    sequence = "ACDEFGHIKLMNPQRSTVWYXBUZO.-"
    (ours,) = make_tokeniser(ESMC, esmc_shape(1, 16, 2, 16), None)([sequence.encode()])
    assert ours.tolist() == EsmcTokenizer()(sequence)["input_ids"]


def test_prot_t5_ends_with_its_token_and_writes_rare_residues_as_x() -> None:
    tokeniser = make_tokeniser(T5, PROT_T5, None)
    tokens = tokeniser([b"PRTEINO", b"UZOBXJ"])
    assert [row.tolist() for row in tokens] == [[13, 8, 11, 9, 12, 17, 23, 1], [23, 23, 23, 23, 23, 2, 1]]
    assert tuple(tokeniser.special) == (0, 1)


def test_prost_t5_puts_its_direction_in_front() -> None:
    tokeniser = make_tokeniser(T5, PROST_T5, None)
    assert tokeniser([b"MK"])[0].tolist() == [149, 19, 14, 1]
    assert tuple(tokeniser.special) == (1, 1)


def sentencepiece_model(pieces: list[str]) -> bytes:
    """A ModelProto by hand: pieces with a score and a type, then a trainer's fields."""
    content = b""
    for piece in pieces:
        text = piece.encode()
        inner = bytes([0x0A, len(text)]) + text + b"\x15\x00\x00\x80\xbf" + b"\x18\x02"
        content += bytes([0x0A, len(inner)]) + inner
    long_field = b"x" * 300
    return content + b"\x12" + bytes([300 & 0x7F | 0x80, 300 >> 7]) + long_field + b"\x18\xac\x02"


def test_pieces_are_read_from_a_sentencepiece_model_and_what_was_added(tmp_path: Path) -> None:
    pieces = sorted((name for name, token in IDS.items() if token < 149), key=IDS.__getitem__)
    content = sentencepiece_model(pieces)
    assert list(pieces_of_model(content)) == pieces
    (tmp_path / "spiece.model").write_bytes(content)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<AA2fold>": 149, "a": 128}))
    assert ids_in(tmp_path) == IDS | {"a": 128}
    assert make_tokeniser(T5, PROST_T5, tmp_path)([b"MU"])[0].tolist() == [149, 19, 23, 1]


@pytest.mark.parametrize("is_unigram", [True, False])
def test_pieces_are_read_from_a_tokenizer_json(tmp_path: Path, is_unigram: bool) -> None:
    names = sorted((name for name, token in IDS.items() if token < 149), key=IDS.__getitem__)
    vocabulary = [[name, -1.0] for name in names] if is_unigram else {name: at for at, name in enumerate(names)}
    added = [{"id": 149, "content": "<AA2fold>"}]
    content = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert ids_in(tmp_path) == IDS


def test_letters_without_a_mark_do_where_none_has_one() -> None:
    assert isinstance(T5.tokens, Pieces)
    table = piece_table(T5.tokens, {"</s>": 1, "<unk>": 2, "A": 7, "X": 8})
    assert table([b"AUM"])[0].tolist() == [7, 8, 2, 1]


@pytest.mark.parametrize("content", [b"\x0a\xff", b"", b"not a model"])
def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(EnvironmentFault):
        make_tokeniser(T5, PROT_T5, tmp_path)
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(EnvironmentFault, match="no tokenizer"):
        make_tokeniser(T5, PROT_T5, tmp_path)
