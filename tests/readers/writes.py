"""Run by the Python of an environment with an older pyarrow: `writes.py PACKAGES REPOSITORY in.fa RUN` makes a run.

PACKAGES has what else hpc-embed needs; what the environment has itself goes before it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    packages, repository, fasta, run_dir = sys.argv[1:]
    sys.path.append(packages)
    sys.path.insert(0, repository)
    from hpc_embed.cli import main

    settings = (
        "--model aa_composition --num-shards 2 --max-residues 20 --force-kind --no-report --devices cpu --workers 1"
    )
    sys.exit(main(["local", fasta, "--run-dir", run_dir, *settings.split()]))
