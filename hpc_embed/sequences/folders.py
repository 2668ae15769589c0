"""Folders of sequences: the files in one that are taken, by their endings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpc_embed.errors import BadInput
from hpc_embed.progress import note

SEQUENCE_ENDINGS = (".fasta", ".fa", ".fna", ".ffn", ".frn", ".faa", ".fas", ".fsa", ".afa", ".fastq", ".fq")
TABLE_ENDINGS = (".csv", ".tsv")
COMPRESSED_ENDINGS = (".gz", ".bgz", ".zst", ".bz2", ".xz")
MOST_NAMED = 3
"""Of what is left out, told by name."""


def files_of(folder: str, endings: Sequence[str]) -> list[str]:
    """Files of a folder that end so, compressed or not, in sorted order; what is left out is told.

    Raises BadInput where there are none.
    """
    paths = sorted(Path(folder).iterdir())
    taken = [path for path in paths if _ends(path.name, endings) and path.is_file()]
    left_out = [path.name for path in paths if path not in set(taken)]
    if not taken:
        raise BadInput(
            f"{folder}: a folder without {', '.join(endings)} files.",
            remedy="Name files with other endings themselves; folders within it are not looked into.",
        )
    if left_out:
        more = ", …" if len(left_out) > MOST_NAMED else ""
        names = ", ".join(left_out[:MOST_NAMED])
        note(f"{folder}: {len(taken)} files are taken, {len(left_out)} left out: {names}{more}")
    return [str(path) for path in taken]


def _ends(name: str, endings: Sequence[str]) -> bool:
    stem = name.lower()
    for compressed in COMPRESSED_ENDINGS:
        stem = stem.removesuffix(compressed)
    return stem.endswith(tuple(endings))
