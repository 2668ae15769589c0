#!/usr/bin/env bash
# Embeds the examples offline and prints the first rows. Called by `make demo`.
# The transformers here are untrained: they show the path of a run, their vectors mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

hpc-embed local examples/globins45.fasta --run-dir demo/globins-composition
hpc-embed local examples/globins45.fasta --run-dir demo/globins-esm2 --model esm2_t6_8M:untrained
hpc-embed local examples/lambda_phage.fasta --run-dir demo/lambda-dnabert --model dnabert_s:untrained --max-residues 2000

python examples/first_rows.py demo/*/dataset
