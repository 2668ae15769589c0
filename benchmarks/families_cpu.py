"""How fast does one core embed with each newer family, beside its reference implementation?

    python -m benchmarks.families_cpu [--layers 2] [--records 32] [--json]

Each model has its true dimensions but for the number of layers, which all do the same work, and random weights. Its
windows are pieces of the globins, as long as evenly spaced proteins of mmseqs2-examples (protein_lengths.txt), or
pieces of phage lambda's genome, as long as in dna_cpu. The reference runs one window at a time, and padded: in batches
of eight in file order, and sorted under 1,024 tokens. All ways take turns, three each; the median counts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.dna_cpu import FASTA as GENOME
from benchmarks.dna_cpu import contigs
from benchmarks.measuring import Answer, Figure, Measured, Table, Windows
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.references import REFERENCES
from hpc_embed.engine.tokens import make_tokeniser
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Shape
from hpc_embed.registry import find_model
from hpc_embed.sequences.fasta import read_fasta

CPU = torch.device("cpu")
GLOBINS = Path(__file__).parent.parent / "examples/globins45.fasta"
MODELS = ("esmc_300m", "prot_t5_xl", "ankh_base", "nt_v2_100m")
TOKEN_BUDGET = 4096
NUM_TURNS = 3
PROTEIN_LENGTHS = Path(__file__).with_name("protein_lengths.txt")
LONGEST_PROTEIN = 1022
PAD = {"t5": 0, "ankh": 0}
"""Its id where it is not 1."""
OURS, SEVERAL = "hpc-embed, packed, FP32", "hpc-embed, three poolings of three layers"
POOLINGS = "mean_with_special,mean,max"
BATCH_8, ONE = "reference, batches of 8 in file order", "reference, one at a time"
THEIRS = {
    BATCH_8: measuring.in_file_order(8),
    ONE: measuring.in_file_order(1),
    "reference, sorted, 1,024 tokens": measuring.sorted_by_length(1024),
}


def answer(models: tuple[str, ...], num_layers: int, num_records: int, seconds: float) -> Answer:
    """Measure every model every way."""
    tables, figures = [], []
    for name in models:
        windows = windows_of(name, num_records)
        ways = (*THEIRS, OURS, SEVERAL)
        told = (num_layers, windows, seconds / NUM_TURNS)
        turns = [{way: measuring.in_fresh_process(run_way, name, way, *told) for way in ways} for _ in range(NUM_TURNS)]
        found = {way: measuring.median_of([turn[way] for turn in turns]) for way in ways}
        ours, lengths = found[OURS], [len(window) for window in windows]
        rows = [
            (way, f"{each.tokens_per_second:,.0f}", f"{each.padding_efficiency:.2f}", _times(ours, each))
            for way, each in found.items()
        ]
        title = f"{name}, {num_layers} layers: {len(windows)} windows of {min(lengths)} to {max(lengths)} tokens"
        first = ours.vectors.shape[1]
        gap = max(float(np.abs(each.vectors[:, :first] - ours.vectors).max()) for each in found.values())
        note = f"Largest difference of any number: {gap:.1e}."
        tables.append(Table(title, ("way", "tokens/s", "padding efficiency", "ours over it"), rows, note))
        figures += [Figure(f"{name}: {way}: tokens", each.tokens_per_second, "tokens/s") for way, each in found.items()]
        for way in (ONE, BATCH_8, SEVERAL):
            ratio = ours.tokens_per_second / found[way].tokens_per_second
            figures.append(Figure(f"{name}: {OURS} over {way}", ratio, "times"))
    return Answer(tables, figures)


def _times(ours: Measured, other: Measured) -> str:
    return f"{ours.tokens_per_second / other.tokens_per_second:.2f}"


def windows_of(model: str, num_records: int) -> Windows:
    """Tokens of pieces of an example, in file order."""
    facts = find_model(model)
    pieces = globins(num_records) if facts.kind == "protein" else contigs(GENOME, num_records)
    return make_tokeniser(FAMILIES[facts.family], _shape(model, 1), None)(pieces)


def globins(num_records: int) -> list[bytes]:
    """Pieces of all globins in a row, as long as proteins are."""
    letters = b"".join(record.sequence for record in read_fasta(str(GLOBINS))).upper()
    every = np.array(PROTEIN_LENGTHS.read_text().split(), dtype=int)
    lengths = every[np.linspace(0, len(every) - 1, num_records).astype(int)].clip(max=LONGEST_PROTEIN)
    starts = np.random.default_rng(0).integers(0, len(letters) - lengths)
    return [letters[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def _shape(model: str, num_layers: int) -> Shape:
    shape = find_model(model).shape
    assert shape is not None
    return replace(shape, num_layers=num_layers)


def run_way(model: str, way: str, num_layers: int, windows: Windows, seconds: float) -> Measured:
    """One way, in this process."""
    family, shape = FAMILIES[find_model(model).family], _shape(model, num_layers)
    tensors = random_weights(family, shape, seed=0)
    if way == OURS:
        encoder = Encoder(family, shape, tensors, source="benchmark", device=CPU, precision="fp32")
        run = measuring.packed(encoder, "mean_with_special", num_layers, TOKEN_BUDGET, CPU)
    elif way == SEVERAL:
        encoder = Encoder(family, shape, tensors, source="benchmark", device=CPU, precision="fp32")
        run = measuring.packed(encoder, POOLINGS, (num_layers, 1, 0), TOKEN_BUDGET, CPU)
    else:
        reference = REFERENCES[family.name](shape, tensors, CPU)
        run = measuring.padded(reference, PAD.get(family.name, 1), num_layers, THEIRS[way], cut=0)
    return measuring.measure(run, windows, seconds)


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=measuring.SECONDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = answer(tuple(options.models), options.layers, options.records, options.seconds)
    measuring.show(found, as_json=options.json)


if __name__ == "__main__":
    main()
