"""Done markers: the proof that a shard's output is whole, and the bookkeeping of how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from hpc_embed.run.files import publish_first, sha256_of_file, write_json
from hpc_embed.run.layout import RunLayout, failure_path, marker_path, output_path, shard_name
from hpc_embed.run.pieces import num_windows_in_pieces
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile


@dataclass(frozen=True, kw_only=True)
class WorkFacts:
    """How the vectors came about, as far as the try that finished the shard knows."""

    device: str
    precision: str
    """What `auto` became."""
    versions: Mapping[str, str]
    process: str
    """Host and process id."""
    seconds: float
    num_tokens: int
    """Tokens computed by this try; an earlier try's pieces are not counted."""
    num_windows_computed: int
    tokens_per_second: float
    padding_efficiency: float
    """Real tokens over computed tokens."""
    token_budget: int
    peak_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Marker:
    """One `shard-NNNNN.done.json`."""

    shard: str
    rows: int
    num_bytes: int
    sha256: str
    fingerprint: str
    failed_windows: Mapping[str, str]
    """Reason by window key, for windows without a vector."""
    facts: WorkFacts


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One `shard-NNNNN.failed.json`."""

    shard: str
    reason: str
    tries: int


def publish_output(
    outputs: Path,
    shard: str,
    temporary: Path,
    fingerprint: str,
    failed_windows: Mapping[int, str],
    facts: WorkFacts,
) -> Marker:
    """Publish the finished output `temporary` and then its marker.

    Of two live copies of a task the first publishes its output; the second finds it and proves it again,
    so that the marker always tells of the bytes that are there.
    """
    path = output_path(outputs, shard)
    if path.exists() and not _is_output_of(path, fingerprint):
        path.unlink(missing_ok=True)  # damaged, or of an older plan
    publish_first(temporary, path)
    marker = Marker(
        shard=shard,
        rows=VectorFile(path).num_rows,
        num_bytes=path.stat().st_size,
        sha256=sha256_of_file(path),
        fingerprint=fingerprint,
        failed_windows={str(key): reason for key, reason in sorted(failed_windows.items())},
        facts=facts,
    )
    write_json(marker_path(outputs, shard), asdict(marker))
    failure_path(outputs, shard).unlink(missing_ok=True)
    return marker


def _is_output_of(path: Path, fingerprint: str) -> bool:
    try:
        return VectorFile(path).metadata.get("fingerprint") == fingerprint
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return False


def read_marker(outputs: Path, shard: str) -> Marker | None:
    """The marker of a shard; None where there is none, or none that can be read."""
    try:
        content = json.loads(marker_path(outputs, shard).read_text(encoding="utf-8"))
        return Marker(**{**content, "facts": WorkFacts(**content["facts"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_done(outputs: Path, shard: str, fingerprint: str) -> bool:
    """True for a marker of this fingerprint whose output is there with the right size; the checksum is gather's."""
    marker = read_marker(outputs, shard)
    if marker is None or marker.fingerprint != fingerprint:
        return False
    try:
        return output_path(outputs, shard).stat().st_size == marker.num_bytes
    except OSError:
        return False


def withdraw(outputs: Path, shard: str) -> None:
    """Take back an output that proved false, so that its shard is done again; the marker goes first."""
    marker_path(outputs, shard).unlink(missing_ok=True)
    output_path(outputs, shard).unlink(missing_ok=True)


def num_finished(layout: RunLayout, index: int, plan: Plan) -> int:
    """Windows of a shard that need not be done again, in its output or in pieces."""
    if is_done(layout.outputs, shard_name(index), plan.fingerprint):
        return plan.shards[index].num_windows
    return num_windows_in_pieces(layout.pieces(index))


def read_failure(outputs: Path, shard: str) -> Failure | None:
    """What went wrong with a shard, None where nothing did."""
    try:
        return Failure(**json.loads(failure_path(outputs, shard).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def record_failure(outputs: Path, shard: str, reason: str) -> Failure:
    """Count one more failed try."""
    before = read_failure(outputs, shard)
    failure = Failure(shard=shard, reason=reason, tries=before.tries + 1 if before else 1)
    write_json(failure_path(outputs, shard), asdict(failure))
    return failure
