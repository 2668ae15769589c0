"""plan.json: what the run will do, pinned; every later step reads it and nothing else decides.

What each shard holds stands beside it in shards.parquet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from hpc_embed.errors import RunConflict
from hpc_embed.model import Kind
from hpc_embed.run.faults import patiently, reason
from hpc_embed.run.files import read_bytes, write_json
from hpc_embed.run.identity import ModelIdentity
from hpc_embed.run.intake import Intake
from hpc_embed.run.layout import shard_table_path
from hpc_embed.run.outputs import Outputs, outputs_of
from hpc_embed.run.shard_table import ShardFacts, ShardTable, write_shard_table

PLAN_FORMAT = 2
VECTOR_VERSION = 1
"""Raised whenever a change of our code changes vectors by more than rounding."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What decides a vector, besides the model and the sequence."""

    pooling: str
    """Several with commas between."""
    layer: int | tuple[int, ...]
    """Several where the plan asked for several."""
    precision: str
    """auto, fp32, bf16 or fp8 as asked for; each done marker tells which it became."""
    on_long: str
    max_residues: int | None
    on_invalid: str
    case: str
    stride: int | None = None
    """Residues from window to window where they overlap."""

    def __post_init__(self) -> None:
        if isinstance(self.layer, list):  # as JSON has it
            object.__setattr__(self, "layer", tuple(self.layer))

    @property
    def outputs(self) -> Outputs:
        return outputs_of(self.pooling, self.layer)


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One input file as it was read."""

    path: str
    digest: str
    """BLAKE2b over headers and sequences, whatever the line lengths, the compression or the format."""
    num_records: int
    num_residues: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The run in numbers."""

    num_records: int
    num_embedded: int
    num_windowed: int
    num_truncated: int
    num_skipped: int
    num_duplicate_ids: int
    num_unknown_letters: int
    num_residues: int
    num_windows: int
    num_unique_windows: int
    num_tokens: int
    """Tokens of the unique windows, special ones included; for byte-pair models an estimate."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of a window of n tokens: linear * n + quadratic * n * n."""

    linear_flops: int
    quadratic_flops: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole of plan.json and of shards.parquet."""

    version: str
    """hpc-embed that planned."""
    fingerprint: str
    kind: Kind
    dimension: int
    model: ModelIdentity
    embedding: Embedding
    inputs: tuple[InputFile, ...]
    totals: Totals
    cost: Cost
    shards: Sequence[ShardFacts]
    num_special_tokens: int = 2
    """Of each window."""
    intake: Intake = field(default_factory=Intake)
    is_kind_forced: bool = False
    """True where --force-kind insisted on the model, whatever the letters look like."""
    records_sha256: str = ""
    """Of records.parquet; empty in a plan of a version that wrote none."""

    @property
    def column_dimension(self) -> int:
        """Of a column of the dataset; `dimension` is that of all side by side."""
        return self.dimension // self.embedding.outputs.width

    def write(self, path: Path) -> None:
        """Publish the shard table and then plan.json; equal plans are equal bytes."""
        table = write_shard_table(shard_table_path(path), self.shards)
        content = {"format": PLAN_FORMAT, **asdict(replace(self, shards=()))}
        del content["shards"]
        content["intake"] = self.intake.settings
        if not content["intake"]:
            del content["intake"]
        if not self.is_kind_forced:
            del content["is_kind_forced"]
        content |= {"num_shards": len(self.shards), "shard_table_sha256": list(table)}
        write_json(path, {**content, "sha256": _digest_of(content)})


def fingerprint(
    model: ModelIdentity, embedding: Embedding, inputs: tuple[InputFile, ...], intake: Intake | None = None
) -> str:
    """SHA-256 of everything that changes a vector or its record."""
    content: dict[str, object] = {
        "vectors": VECTOR_VERSION,
        "model": [model.name, model.digest],
        "embedding": {name: value for name, value in asdict(embedding).items() if (name, value) != ("stride", None)},
        "inputs": [file.digest for file in inputs],
    }
    if intake is not None and intake.settings:
        content["intake"] = intake.settings
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def _digest_of(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


AS_IT_WAS = "Restore the file, or move it away and run `hpc-embed plan` again: what is embedded is kept."


def read_plan(path: Path) -> Plan:
    """The plan of a run folder; RunConflict where there is none, or it is not as it was written."""
    try:
        content = json.loads(patiently(lambda: read_bytes(path), path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunConflict(
            f"{path.parent} holds no plan.", remedy="Run `hpc-embed plan` first, or give the right --run-dir."
        ) from error
    except PermissionError:  # nothing is wrong with the file
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunConflict(f"{path}: cannot be read ({reason(error)}).", remedy=AS_IT_WAS) from error
    digest = content.pop("sha256", None) if isinstance(content, dict) else None
    if digest is not None and digest != _digest_of(content):
        raise RunConflict(f"{path}: not a whole plan (its checksum differs).", remedy=AS_IT_WAS)
    if not isinstance(content, dict) or content.pop("format", None) != PLAN_FORMAT:
        raise RunConflict(f"{path}: made by another version.", remedy="Plan into another --run-dir.")
    try:
        plan = _plan_of_json(content, shard_table_path(path))
        _refuse_odd(plan)
        return plan
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise RunConflict(f"{path}: not a whole plan ({error}).", remedy=AS_IT_WAS) from error


def _plan_of_json(content: dict[str, Any], shard_table: Path) -> Plan:
    num_shards, digests = content.pop("num_shards"), content.pop("shard_table_sha256", [])
    if type(num_shards) is not int or num_shards < 1:
        raise ValueError(f"num_shards is {num_shards!r}")
    if not isinstance(digests, list) or not all(map(_is_text, digests)):
        raise ValueError(f"shard_table_sha256 is {digests!r}")
    return Plan(
        **{
            **content,
            "model": ModelIdentity(**content["model"]),
            "embedding": Embedding(**content["embedding"]),
            "inputs": tuple(InputFile(**file) for file in content["inputs"]),
            "totals": Totals(**content["totals"]),
            "cost": Cost(**content["cost"]),
            "intake": Intake(**content.get("intake", {})),
            "shards": ShardTable(shard_table, num_shards, digests),
        }
    )


MOST_DIMENSIONS = 1 << 20
HEXADECIMAL = re.compile("[0-9a-f]{64}")


def _is_anything(value: object) -> bool:
    return True


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


KINDS: dict[str, Callable[[object], bool]] = {
    "str": _is_text,
    "Kind": _is_text,
    "int": _is_number,
    "bool": lambda value: type(value) is bool,
    "int | None": lambda value: value is None or _is_number(value),
    "str | None": lambda value: value is None or _is_text(value),
}
"""What the fields of a plan's parts may be, by their annotation."""


def _refuse_odd(plan: Plan) -> None:
    """ValueError for what no plan of ours says: anybody may have written the file, and paths are made of it."""
    parts: list[Any] = [plan, plan.model, plan.embedding, plan.intake, plan.totals, plan.cost, *plan.inputs]
    for part in parts:
        for each in fields(part):
            value: Any = getattr(part, each.name)
            if not KINDS.get(str(each.type), _is_anything)(value):
                raise ValueError(f"{each.name} is {value!r}")
    for name, digest in (("fingerprint", plan.fingerprint), ("model.digest", plan.model.digest)):
        if not HEXADECIMAL.fullmatch(digest):
            raise ValueError(f"{name} is {digest!r}")
    if plan.kind not in ("protein", "dna") or not 0 < plan.dimension <= MOST_DIMENSIONS or not plan.shards:
        raise ValueError("kind, dimension or shards are none")


def refuse_false_totals(plan: Plan, path: Path) -> None:
    """RunConflict where the shard table does not add up to the plan's windows, for which room is made.

    Not when a plan is read: a task looks at its own rows of the table alone.
    """
    if sum(shard.num_windows for shard in plan.shards) != plan.totals.num_unique_windows:
        raise RunConflict(f"{path}: not a whole plan (the shards do not add up to the windows).", remedy=AS_IT_WAS)


def changes(old: Plan, new: Plan) -> list[str]:
    """Names of what differs between two plans, among what the fingerprint covers."""
    changed = ["input"] if [f.digest for f in old.inputs] != [f.digest for f in new.inputs] else []
    if (old.model.name, old.model.digest) != (new.model.name, new.model.digest):
        changed.append("model")
    both: list[tuple[Any, Any]] = [(old.embedding, new.embedding), (old.intake, new.intake)]
    changed += [
        each.name
        for before, after in both
        for each in fields(before)
        if getattr(before, each.name) != getattr(after, each.name)
    ]
    return changed or ["version of hpc-embed"]
