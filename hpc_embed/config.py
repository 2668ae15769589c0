"""The settings of every command: declared once, with the text of their help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["b200", "h200", "h100", "a100", "l40s", "a40", "a10", "l4", "rtx4090", "v100", "t4"]
LongPolicy = Literal["window", "truncate", "skip", "error"]
InvalidPolicy = Literal["error", "skip", "unknown"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Where the run is"""

    run_dir: str = "embed-run"
    """The run folder; on a cluster it must lie on storage that every node sees."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is embedded, and how"""

    fasta: tuple[str, ...] = ()
    """FASTA files, plain or gzip; globs; - for standard input. May be named without the flag."""
    model: str = "composition"
    """A name from `hpc-embed models`, NAME:untrained, ORG/REPOSITORY on the hub, or a folder."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; the plan pins the commit."""
    pooling: str = "default"
    """mean, mean_with_special, cls or max; default is what the model's authors use."""
    layer: int = -1
    """Layer whose hidden states are pooled: 0 the embeddings, -1 the last."""
    precision: Precision = "auto"
    """auto: BF16 autocast on GPUs that have it, FP32 elsewhere."""
    on_long: LongPolicy = "window"
    """A record longer than the model's limit: split into windows, cut, left out, or refused."""
    max_residues: PositiveInt | None = None
    """Longest window in residues or bases; default is the model's limit."""
    on_invalid: InvalidPolicy = "unknown"
    """A letter that the model does not know: refuse, leave the record out, or embed it as unknown."""
    case: Literal["upper", "keep"] = "upper"
    """Lower-case letters: upper-cased, or kept (models then see unknown letters)."""
    force_kind: bool = False
    """Embed DNA with a protein model, or the reverse."""
    num_shards: PositiveInt | None = None
    """Shards to deal the windows into; default follows from --shard-minutes."""
    shard_minutes: PositiveFloat | None = None
    """Aim for shards of so many minutes on the device named by --device [default: 30]."""
    device: Device = "a100"
    """The GPU type that the forecast is made for."""


@dataclass(frozen=True, kw_only=True)
class WorkSettings:
    """How the work is done; nothing here changes a vector"""

    devices: str = "auto"
    """auto (every visible GPU, else the CPU), cpu, or a list of GPUs such as 0,1."""
    workers: PositiveInt | None = None
    """Worker processes on the CPU [default: one per core, as memory allows]."""
    token_budget: PositiveInt | None = None
    """Most tokens in one batch [default: measured on the device]."""
    piece_seconds: PositiveFloat = 15.0
    """Finished vectors are published this often; a killed task loses no more."""
    max_tries: PositiveInt = 3
    """A shard that failed so often is left aside."""


@dataclass(frozen=True, kw_only=True)
class GatherSettings:
    """The dataset"""

    dtype: Literal["float32", "float16"] = "float32"
    """Numbers of the dataset."""
    part_mebibytes: PositiveInt = 512
    """Size of one part file."""
    memory_mebibytes: PositiveInt = 2048
    """Vectors held in memory; more than that goes through a scratch file in the run folder."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """Which shards"""

    shards: str = "all"
    """Shards of this task: all, or numbers and ranges such as 0-9,12."""


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What is printed"""

    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """What Slurm is asked for"""

    partition: str | None = None
    """Slurm partition."""
    array_parallelism: NonNegativeInt = 0
    """Most tasks at once, 0 for no limit."""
