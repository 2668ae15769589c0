"""hpc-embed from Python: what the commands do, with their settings, defaults and errors.

Settings are named as the flags are, with underscores; those in hpc-embed.yaml are the command line's alone. Errors are
the classes of `hpc_embed.errors`. Progress goes to standard error, as it does from the command line.
"""

# N = rows with a vector, D = dimension

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.catalogue import find_command
from hpc_embed.cli import make_parser, settings_of
from hpc_embed.cluster import submit as submission
from hpc_embed.cluster.status import RunStatus, run_status
from hpc_embed.cluster.submit import Submitted
from hpc_embed.commands import local
from hpc_embed.commands.report import try_report
from hpc_embed.config import CheckSettings, OutputSettings, RunSettings
from hpc_embed.errors import UsageError, did_you_mean
from hpc_embed.model import PER_LETTER
from hpc_embed.planning.forecast import Forecast, forecast
from hpc_embed.planning.planner import make_plan
from hpc_embed.reading.dataset import Dataset, open_dataset
from hpc_embed.results import gather as gathering
from hpc_embed.results.gather import Gathered
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan

Source = str | Path | Sequence[str] | Mapping[str, str]
"""FASTA by its path, sequences, or sequences by id."""
RUN_DIR = RunSettings().run_dir
FOR_THE_TERMINAL = (OutputSettings, CheckSettings)
INSTEAD_OF_SUBMITTING = {"dry_run", "print_script"}


class Absent(NamedTuple):
    """A record without a vector."""

    ordinal: int
    id: str
    status: str
    reason: str


class Embeddings(NamedTuple):
    """What `embed` made, in input order: `zip(made.ids, made.matrix)` goes together."""

    ids: list[str]
    """Of the records with a vector; of sequences that came without ids the place, from 0."""
    columns: Mapping[str, NDArray[np.floating]]
    """[N, D] by name: `embedding`, or one for each pooling and layer."""
    statuses: list[str]
    """Of the same records: embedded, windowed or truncated."""
    absent: list[Absent]
    """The other records, and why: nothing is left out in silence."""
    model: str
    """As it was named; one that ends in `:untrained` makes random numbers."""

    @property
    def matrix(self) -> NDArray[np.floating]:
        """[N, D], of the only column."""
        if len(self.columns) != 1:
            raise UsageError(f"there are several columns ({', '.join(self.columns)}).", remedy="Take one of .columns.")
        return next(iter(self.columns.values()))


def embed(
    source: Source, *, model: str = "composition", run_dir: str | Path | None = None, **settings: object
) -> Embeddings:
    """Embed on this machine, as `hpc-embed local` does, and return vectors in memory.

    In `run_dir` the run is kept, and the same call goes on with one that was interrupted; without it nothing stays.
    Other settings are those of `hpc-embed local`: pooling, layer, precision, devices, workers and so on. What does not
    fit in memory, and a vector for each residue, is for a run folder and `open_dataset`.
    """
    if set(PER_LETTER) & set(str(settings.get("pooling", "")).split(",")):
        raise UsageError(
            "embed gives no vectors of residues.", remedy="Run `hpc-embed local`, then hpc_embed.open_dataset."
        )
    with tempfile.TemporaryDirectory(prefix="hpc-embed-") as scratch:
        layout = RunLayout(Path(run_dir) if run_dir is not None else Path(scratch, "run"))
        given = {"fasta": [_fasta(source, Path(scratch))], "model": model, "run_dir": str(layout.root)}
        where, wanted, work, dataset = _settings("local", {**given, **settings})
        made, _ = local.embed(where, wanted, work, dataset)
        if run_dir is not None and dataset.report:
            try_report(made, layout)
        return _embeddings(open_dataset(layout.root), made.model.name)


def plan(*fasta: str | Path, run_dir: str | Path = RUN_DIR, **settings: object) -> Forecast:
    """Plan a run, as `hpc-embed plan` does; what it will cost."""
    where, wanted = _settings("plan", {"fasta": [*map(str, fasta)], "run_dir": str(run_dir), **settings})
    return forecast(make_plan(wanted, RunLayout(Path(run_dir))).plan, where.run_dir, wanted.device)


def submit(run_dir: str | Path = RUN_DIR, **settings: object) -> Submitted:
    """Hand a planned run to Slurm, as `hpc-embed submit` does."""
    _, wanted, work, dataset = _settings("submit", {"run_dir": str(run_dir), **settings})
    layout = RunLayout(Path(run_dir))
    return submission.submit(read_plan(layout.plan), layout, wanted, work, dataset)


def status(run_dir: str | Path = RUN_DIR) -> RunStatus:
    """How far a run is, as `hpc-embed status` tells."""
    layout = RunLayout(Path(run_dir))
    return run_status(read_plan(layout.plan), layout)


def gather(run_dir: str | Path = RUN_DIR, **settings: object) -> Gathered:
    """Check every output and write the dataset, as `hpc-embed gather` does; Incomplete where shards are missing."""
    _, wanted = _settings("gather", {"run_dir": str(run_dir), **settings})
    layout = RunLayout(Path(run_dir))
    made = read_plan(layout.plan)
    gathered = gathering.gather(made, layout, wanted)
    if wanted.report:
        try_report(made, layout)
    return gathered


def _settings(name: str, given: Mapping[str, object]) -> list[Any]:
    """The command's settings in their order; UsageError for what is none, or of the wrong kind."""
    command = find_command(name)
    command = replace(command, settings=tuple(kind for kind in command.settings if kind not in FOR_THE_TERMINAL))
    known = {field.name for kind in command.settings for field in fields(kind)} - INSTEAD_OF_SUBMITTING
    for each in given:
        if each not in known:
            raise UsageError(f"{each}: no such setting.", remedy=f"{did_you_mean(each, known)}See docs/python.md.")
    typed = {each: _as_typed(each, value) for each, value in given.items()}
    return settings_of(command, make_parser(command).parse_object(typed))


def _as_typed(name: str, value: object) -> object:
    """As on the command line: `mean,max` for a list of poolings or layers, text for a path."""
    if name in ("pooling", "layer") and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def _fasta(source: Source, scratch: Path) -> str:
    """The path of FASTA that holds the source."""
    if isinstance(source, str | Path):
        if isinstance(source, str) and source.isalpha() and not Path(source).exists():
            raise UsageError(f"{source[:40]}: no such file.", remedy="Give sequences as a list, or by id.")
        return str(source)
    path = scratch / "sequences.fasta"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f">{name}\n{sequence}\n" for name, sequence in _records(source))
    return str(path)


def _records(source: Sequence[str] | Mapping[str, str]) -> Iterator[tuple[str, str]]:
    named = source.items() if isinstance(source, Mapping) else ((str(at), each) for at, each in enumerate(source))
    for name, sequence in named:
        if not isinstance(name, str) or name.split() != [name]:
            raise UsageError(f"{name!r} is no id.", remedy="Ids are texts without blanks.")
        if not isinstance(sequence, str):
            raise UsageError(f"the sequence of {name} is a {type(sequence).__name__}.", remedy="Give a str.")
        if ">" in sequence or sequence.startswith(";"):
            raise UsageError(f"the sequence of {name} holds '>', or begins with ';'.", remedy="Give FASTA by its path.")
        yield name, "".join(sequence.split())


def _embeddings(dataset: Dataset, model: str) -> Embeddings:
    ids, statuses, absent = [], [], []
    place = 0
    for batch in dataset.batches(columns=()):
        for name, its_status, has_vector in zip(batch.ids_N, batch.statuses_N, batch.has_vector_N, strict=True):
            if has_vector:
                ids.append(name)
                statuses.append(its_status)
            else:
                row = dataset.row(place)
                absent.append(Absent(row.ordinal, name, its_status, row.reason))
            place += 1
    return Embeddings(ids, {name: dataset.vectors(name) for name in dataset.columns}, statuses, absent, model)
