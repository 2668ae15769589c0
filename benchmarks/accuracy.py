"""How far are FP32's vectors from those of float64, ours and the reference's own, at each instruction set? And how far
BF16's and FP8's from FP32's?

    python -m benchmarks.accuracy [--models dnabert_s esm2_t6_8M esm2_t12_35M] [--json]

Windows of all lengths up to the longest that people ask for: 9,000 bases of lambda for DNABERT-S, 1,022 residues for
ESM-2. The reference goes one window at a time. A distance is |v - v64| / |v64| of a mean vector. Weights are random,
of the true shape. Each way has a process to itself, held to its instruction set by the libraries' own variables. FP8 is
what a GPU's would be, its products in float32 of the numbers that were rounded to FP8.
"""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import dna_cpu, measuring, proteins_cpu
from benchmarks.measuring import Answer, Figure, Table, Windows
from hpc_embed.engine import processor
from hpc_embed.engine.bytepairs import BpeTokenizer, untrained_bpe_json
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.references import REFERENCES
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import Family, Shape
from hpc_embed.registry import find_model
from hpc_embed.sequences.fasta import read_fasta

MODELS = ("dnabert_s", "esm2_t6_8M", "esm2_t12_35M")
BASES = (200, 500, 1_000, 2_000, 4_000, 9_000)
HELD: dict[str, dict[str, str]] = {
    "avx512f": {},
    "avx2": {
        "HPC_EMBED_MAX_CPU_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
"""What holds everything to an instruction set, by the flag of a processor that has it."""
BAR = 2.0


def answer(models: tuple[str, ...] = MODELS) -> Answer:
    """Measure every model at every instruction set that this processor has."""
    rows, figures, lengths, rounded = [], [], [], []
    for model in models:
        windows = windows_of(model)
        lengths.append(f"{model} {', '.join(str(len(window)) for window in windows)}")
        exact = measuring.in_fresh_process(reference, model, windows, torch.float64)
        for name in [name for name in HELD if name in processor.flags()]:
            with held_to(name):
                ours = distances(measuring.in_fresh_process(engine, model, windows), exact)
                theirs = distances(measuring.in_fresh_process(reference, model, windows, torch.float32), exact)
            ratio = float((ours / theirs).max())
            rows.append([model, name, _range(ours), _range(theirs), f"{ratio:.2f}", "yes" if ratio <= BAR else "NO"])
            figures.append(Figure(f"{model}: {name}: distance from float64 over the reference's", ratio, "times"))
        in_float32 = measuring.in_fresh_process(engine, model, windows)
        for precision in ("bf16", "fp8"):
            found = measuring.in_fresh_process(engine, model, windows, precision)
            distance = measuring.largest_distance(found, in_float32)
            rounded.append([model, precision, f"{distance:.1e}", _range(distances(found, in_float32))])
            figures.append(Figure(f"{model}: {precision}: 1 - cos from FP32", distance, ""))
    headings = ("model", "instructions", "ours", "the reference in FP32", "largest ratio", f"at most {BAR:g}")
    title = f"distances from float64 on {processor.name()}"
    beside_float32 = ("model", "precision", "largest 1 - cos", "distance")
    return Answer(
        [
            Table(title, headings, rows, f"tokens of a window: {'; '.join(lengths)}"),
            Table("distances from ours in FP32, same windows", beside_float32, rounded),
        ],
        figures,
    )


def windows_of(model: str) -> Windows:
    """Tokens."""
    if find_model(model).family != "dnabert":
        return proteins_cpu.proteins(proteins_cpu.FASTA, 16)
    genome = next(iter(read_fasta(str(dna_cpu.FASTA)))).sequence.upper()
    return BpeTokenizer(untrained_bpe_json())([genome[:length] for length in BASES])


def engine(model: str, windows: Windows, precision: str = "fp32") -> NDArray[np.float32]:
    """Ours, in this process."""
    family, shape, tensors = _parts(model)
    encoder = Encoder(family, shape, tensors, source="benchmark", device=dna_cpu.CPU, precision=precision)
    embed = measuring.packed(encoder, "mean_with_special", shape.num_layers, dna_cpu.TOKEN_BUDGET, dna_cpu.CPU)
    return embed(windows)[0]


def reference(model: str, windows: Windows, dtype: torch.dtype) -> NDArray[np.float64]:
    """The family's, one window at a time, in this process."""
    family, shape, tensors = _parts(model)
    torch.set_default_dtype(dtype)
    arguments = {} if family.name == "dnabert" else {"dtype": dtype}
    run = REFERENCES[family.name](shape, {key: t.to(dtype) for key, t in tensors.items()}, dna_cpu.CPU, **arguments)
    hidden = [run(torch.from_numpy(window[None].astype(np.int64)), -1, shape.num_layers)[0] for window in windows]
    return np.stack([each.mean(0).double().numpy() for each in hidden])


def _parts(model: str) -> tuple[Family, Shape, dict[str, Tensor]]:
    """With random weights, the same ones for every way."""
    family, shape = FAMILIES[find_model(model).family], find_model(model).shape
    assert shape is not None
    return family, shape, random_weights(family, shape, seed=0)


def distances(found: NDArray[np.floating], exact: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each row."""
    relative: NDArray[np.float64] = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return relative


def held_to(name: str) -> AbstractContextManager[object]:
    """Processes begun meanwhile use no more than these instructions."""
    return patch.dict(os.environ, HELD[name])


def _range(found: NDArray[np.float64]) -> str:
    return f"{found.min():.1e} to {found.max():.1e}"


def main() -> None:
    """Measure, and print a table or a JSON line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measuring.show(answer(tuple(options.models)), as_json=options.json)


if __name__ == "__main__":
    main()
