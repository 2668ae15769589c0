"""Composition vectors by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from hpc_embed.model import AMINO_ACIDS
from tests.workers.test_contract import worker_of


def vectors(name: str, *sequences: bytes) -> NDArray[np.float32]:
    model = worker_of(name).load("cpu")
    return model.start(model.tokenise(sequences))().vectors_BD


def test_amino_acids_and_dipeptides_are_frequencies() -> None:
    vector = vectors("aa_composition", b"AAC")[0]
    assert vector[:20].tolist() == pytest.approx([2 / 3, 1 / 3] + [0] * 18)
    pairs = {(a, b): vector[20 + 20 * i + j] for i, a in enumerate(AMINO_ACIDS) for j, b in enumerate(AMINO_ACIDS)}
    assert {pair: value for pair, value in pairs.items() if value} == {("A", "A"): 0.5, ("A", "C"): 0.5}


def test_unknown_residues_count_neither_alone_nor_in_pairs() -> None:
    vector = vectors("aa_composition", b"AXA")[0]
    assert vector[0] == 1
    assert vector[20:].sum() == 0


def test_a_sequence_and_its_reverse_complement_have_one_tetranucleotide_vector() -> None:
    one, other = vectors("tetranucleotide", b"ACGTTAGGC", b"GCCTAACGT")
    assert one.shape == (136,)
    assert one.tolist() == other.tolist()
    assert one.sum() == pytest.approx(1)


def test_a_sequence_shorter_than_a_word_is_zero_and_not_nan() -> None:
    assert vectors("tetranucleotide", b"ACG").sum() == 0


def test_tetranucleotides_stand_in_the_order_of_their_alphabetically_first_form() -> None:
    words = {b"AAAA": 0, b"TTTT": 0, b"AAAC": 1, b"GTTT": 1, b"AAAG": 2, b"AAAT": 3, b"AACA": 4, b"TTAA": 135}
    assert vectors("tetranucleotide", *words).argmax(axis=1).tolist() == list(words.values())
    order = ["".join(letters) for letters in product("ACGT", repeat=4)]
    complement = str.maketrans("ACGT", "TGCA")
    first_forms = [word for word in order if word <= word.translate(complement)[::-1]]
    assert len(first_forms) == 136
    made = vectors("tetranucleotide", *(form.encode() for form in first_forms))
    assert np.array_equal(made, np.eye(136))
