"""Every reader of what others wrote: it gives what it read, or one of our errors; never another, and not late."""

from __future__ import annotations

import bz2
import contextlib
import copy
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from hpc_embed import cli
from hpc_embed.arguments import CommandParser
from hpc_embed.catalogue import Command
from hpc_embed.cluster.submission import read_submissions
from hpc_embed.engine.checkpoints import read_weights
from hpc_embed.errors import HpcEmbedError
from hpc_embed.reading.index import Index
from hpc_embed.results.checking import check
from hpc_embed.run.canary import decode
from hpc_embed.run.identity import pin_model
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import is_done, read_failure, read_marker
from hpc_embed.run.plan import read_plan
from hpc_embed.run.shards import read_shard
from hpc_embed.run.vectors import Damaged, VectorFile
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.fasta import read_fasta
from hpc_embed.sequences.formats import pieces_of
from hpc_embed.sequences.gaps import without_gaps
from hpc_embed.sequences.sources import opened
from hpc_embed.sequences.streams import reader
from hpc_embed.sequences.tables import Columns
from hpc_embed.sequences.translation import translated
from tests.torture.small_run import FASTA, SmallRun, on
from tests.torture.storage import FaultyStorage

NAMES = (
    *("fasta", "gzip", "zstd", "bzip2", "xz", "fastq", "table", "settings", "plan", "marker", "output", "shard"),
    *("dataset facts", "dataset index", "safetensors", "config", "submission"),
)
CODES = {0, 2, 3, 4, 5, 6}
CONFIG = {
    "model_type": "esm",
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 33,
    "max_position_embeddings": 1026,
}
FASTQ = b"@r1 x\nACGT\nAC\n+\nIIII\n@I\n@r2\n\n+r2\n\n@r3\nAC-NU\n+\n+++++\n"
TABLE = b'id,seq,note\na,MK,"x, y"\n"b ""c""","M\nK",\n\nd,,z\n'
SETTINGS = b"fasta: in.fa\nmodel: aa_composition\nnum_shards: 2\nmax-residues: 20\nsetup: [a, b]\nsbatch: {x: y}\n"
SUBMISSION = (
    b'{"token": "t-1", "job": "12", "tasks": ["0-2,4", "3"], "job_name": "n", "cluster": "c", "user_id": 1000,'
    b' "user": "u", "host": "h", "submitted": 1.5}'
)


class Parser(NamedTuple):
    """A reader, and a sound file for it."""

    sample: bytes
    read: Callable[[bytes], None]
    """Raises what only a bug raises."""


def parsers(folder: Path) -> dict[str, Parser]:
    """All of them, reading files in `folder`."""
    (folder / "graveyard").mkdir(parents=True)
    run = SmallRun(folder / "whole")
    with on(FaultyStorage(folder / "graveyard"), run):
        run.all_of_it()
    layout = run.layout
    weights = save({"a.weight": torch.zeros(3, 4), "b": torch.arange(5, dtype=torch.int64)})
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(weights)
    return {
        "fasta": Parser(FASTA, lambda content: _fasta(folder / "x.fa", content)),
        "gzip": Parser(gzip.compress(FASTA), lambda content: _fasta(folder / "x.fa.gz", content)),
        "zstd": Parser(
            pa.Codec("zstd").compress(FASTA, asbytes=True), lambda content: _fasta(folder / "x.fa.zst", content)
        ),
        "bzip2": Parser(bz2.compress(FASTA), lambda content: _fasta(folder / "x.fa.bz2", content)),
        "xz": Parser(lzma.compress(FASTA), lambda content: _fasta(folder / "x.fa.xz", content)),
        "fastq": Parser(FASTQ, lambda content: _pieces(folder / "x.fq", content, None)),
        "table": Parser(TABLE, lambda content: _pieces(folder / "x.csv", content, Columns("seq"))),
        "settings": Parser(SETTINGS, lambda content: _settings(folder / "settings", content)),
        "plan": Parser(layout.plan.read_bytes(), lambda content: _plan(folder / "plan.json", content)),
        "marker": Parser(layout.marker(0).read_bytes(), lambda content: _marker(folder / "m", content)),
        "output": Parser(layout.output(0).read_bytes(), lambda content: _vectors(folder / "o.parquet", content)),
        "shard": Parser(layout.shard(0).read_bytes(), lambda content: _shard(folder / "s.parquet", content)),
        "dataset facts": Parser(layout.dataset_facts.read_bytes(), lambda content: _facts(layout, content)),
        "dataset index": Parser(layout.dataset_index.read_bytes(), lambda content: _index(folder / "i.npz", content)),
        "safetensors": Parser(weights, lambda content: _weights(folder / "w.safetensors", content)),
        "submission": Parser(SUBMISSION, lambda content: _submission(folder / "submitted", content)),
        "config": Parser(json.dumps(CONFIG).encode(), lambda content: _config(checkpoint, content)),
    }


def _fasta(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        lines = 0
        for record in read_fasta(str(path)):
            assert record.line > lines
            lines = record.line
            assert record.sequence.isascii()


def _pieces(path: Path, content: bytes, columns: Columns | None) -> None:
    path.write_bytes(content)
    with contextlib.suppress(HpcEmbedError), opened(str(path)) as file:
        read = reader(str(path), file)
        for piece in pieces_of(read, str(path), "FASTQ" if columns is None else "table", columns):
            assert isinstance(piece, Block)
            assert (np.diff(piece.lines_N) > 0).all()
            proteins = translated(without_gaps(piece), "six-frames", 11, 1)
            assert len(set(proteins.lines_N.tolist())) == len(piece.ids)


def _settings(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "hpc-embed.yaml").write_bytes(content)
    code = 0
    with contextlib.chdir(folder), patch.object(cli, "make_parser", copied_parser), _silence() as said:
        code = cli.main(["plan", "--print_config"])
    assert code in CODES, said.getvalue()
    assert "a bug" not in said.getvalue(), said.getvalue()


_made = cache(cli.make_parser)


def copied_parser(command: Command) -> CommandParser:
    """As good as a new one, in a thirtieth of the time."""
    return copy.deepcopy(_made(command))


@contextlib.contextmanager
def _silence() -> Iterator[io.StringIO]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            yield said
        except SystemExit as end:
            assert end.code in CODES, end.code


def _plan(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        plan = read_plan(path)
        assert sum(shard.num_windows for shard in plan.shards) == plan.totals.num_unique_windows


def _marker(outputs: Path, content: bytes) -> None:
    outputs.mkdir(exist_ok=True)
    (outputs / "shard-00000.done.json").write_bytes(content)
    (outputs / "shard-00000.failed.json").write_bytes(content)
    marker = read_marker(outputs, "shard-00000")
    if marker is not None:
        assert marker.rows >= 0
        assert all(int(key) >= 0 for key in marker.failed_windows)
        decode(marker.facts.canary)
    read_failure(outputs, "shard-00000")
    assert not is_done(outputs, "shard-00000", "f")


def _vectors(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(Damaged):
        file = VectorFile(path)
        for rows in file:
            assert rows.vectors_ND.shape == (len(rows.windows_N), file.dimension)
        assert file.windows().dtype == np.int64
        assert file.num_tokens().dtype == np.int32


def _shard(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        shard = read_shard(path)
        assert all(type(sequence) is bytes for sequence in shard.sequences_N)


def _facts(layout: RunLayout, content: bytes) -> None:
    layout.dataset_facts.write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        assert check(layout).num_records == 7
    assert pq.read_metadata(layout.dataset / "part-00000.parquet").num_rows == 7


def _index(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(Damaged):
        index = Index(path)
        assert len(index.records(0, index.num_rows)) == index.num_rows + 1


def _weights(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        for tensor in read_weights([path]).values():
            tensor.shape  # noqa: B018


def _config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with contextlib.suppress(HpcEmbedError):
        model, _ = pin_model(str(folder), None, None)
        assert model.dimension > 0
        assert model.max_residues is None or model.max_residues > 0


def _submission(root: Path, content: bytes) -> None:
    layout = RunLayout(root)
    layout.submissions.mkdir(parents=True, exist_ok=True)
    (layout.submissions / "t-1.json").write_bytes(content)
    whole, damaged = read_submissions(layout)
    assert len(whole) + len(damaged) == 1
    for submission in whole:
        assert submission.token == "t-1"
        assert not submission.job or submission.job.isdecimal()
        assert all(type(shard) is int and shard >= 0 for shard in submission.shards())
