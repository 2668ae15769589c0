"""Done markers: the proof that a shard's output is whole, and the bookkeeping of how it came about."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from hpc_embed.errors import RunConflict, is_full_disk
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import publish_first, sha256_of_file, write_json
from hpc_embed.run.layout import RunLayout, failure_path, marker_path, output_path, shard_name, withdrawn_folder
from hpc_embed.run.pieces import num_windows_in_pieces
from hpc_embed.run.plan import Plan
from hpc_embed.run.vectors import VectorFile

UNCOMPILED = "uncompiled"
"""What versions say of chains that a GPU runs step by step."""


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
    canary: str = ""
    """What the worker made of the canary before anything else, see run/canary.py."""
    proof: str = ""
    """Beside what the checkpoint had proven itself there, for people; see run/proofs.py."""


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
    draft: files.Draft,
    fingerprint: str,
    windows: Sequence[int],
    failed_windows: Mapping[int, str],
    facts: WorkFacts,
) -> Marker:
    """Publish the finished output `draft` of these windows, and then its marker, which tells of no other bytes than
    those that were written here: what lies under the name without a marker may be damaged since.

    Of two live copies of a task the first publishes its output and its marker; the second leaves both. Raises
    RunConflict where something else is there afterwards: a twin's that has no marker yet, or what storage made of ours.
    """
    path = output_path(outputs, shard)
    try:
        if (marker := _done(outputs, shard, fingerprint)) is not None:
            return marker
        patiently(lambda: _make_way(path, draft.sha256), path)
        publish_first(draft, path)
    finally:
        files.discard(draft.path)
    marker = patiently(lambda: _prove(path, shard, draft.sha256, fingerprint, windows, failed_windows, facts), path)
    write_json(marker_path(outputs, shard), asdict(marker))
    files.remove(failure_path(outputs, shard))
    return marker


def _make_way(path: Path, sha256: str) -> None:
    """Set aside what is there under the output's name and has no marker, unless it is these very bytes."""
    try:
        judged = files.storage.status(path)
        if not stat.S_ISDIR(judged.st_mode) and sha256_of_file(path) == sha256:
            return
    except FileNotFoundError:
        return
    files.set_aside(path, withdrawn_folder(path.parent), judged)


def _prove(
    path: Path,
    shard: str,
    sha256: str,
    fingerprint: str,
    windows: Sequence[int],
    failed_windows: Mapping[int, str],
    facts: WorkFacts,
) -> Marker:
    """The marker of what is there, once it is proven to be what was written."""
    if sha256_of_file(path) != sha256:
        raise RunConflict(f"{path} is not what this task has written.", remedy="Run the shard again.")
    file = VectorFile(path)
    found = set(file.windows().tolist())
    reasons = {key: failed_windows[key] for key in windows if key not in found}
    return Marker(
        shard=shard,
        rows=file.num_rows,
        num_bytes=files.storage.status(path).st_size,
        sha256=sha256,
        fingerprint=fingerprint,
        failed_windows={str(key): reason for key, reason in sorted(reasons.items())},
        facts=facts,
    )


def digest_of_outputs(digests: Sequence[str]) -> str:
    """One SHA-256 for those of all outputs, in the order of their shards."""
    return hashlib.sha256("\n".join(digests).encode("ascii")).hexdigest()


def read_marker(outputs: Path, shard: str) -> Marker | None:
    """The marker of a shard; None where there is none, or what is there is no whole marker of it.

    Raises EnvironmentFault where it cannot be read for now.
    """
    path = marker_path(outputs, shard)
    try:
        content = json.loads(patiently(lambda: files.read_bytes(path), path))
        marker = Marker(**{**content, "facts": WorkFacts(**content["facts"])})
        return marker if marker.shard == shard and _is_well_formed(marker) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if is_full_disk(error):  # of whoever serves the file; it says nothing about the content
            raise
        return None


def _is_well_formed(marker: Marker) -> bool:
    """Numbers are numbers and reasons words: anybody may have written the file."""
    facts = marker.facts
    texts = (marker.sha256, marker.fingerprint, facts.device, facts.precision, facts.process, facts.canary, facts.proof)
    numbers = (marker.rows, marker.num_bytes, marker.facts.num_windows_computed)
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
        and isinstance(marker.failed_windows, dict)
        and all(key.isdecimal() and isinstance(reason, str) for key, reason in marker.failed_windows.items())
        and isinstance(marker.facts.versions, dict)
    )


def is_done(outputs: Path, shard: str, fingerprint: str) -> bool:
    """True for a marker of this fingerprint whose output is there with the right size; the checksum is gather's."""
    return _done(outputs, shard, fingerprint) is not None


def _done(outputs: Path, shard: str, fingerprint: str) -> Marker | None:
    marker = read_marker(outputs, shard)
    if marker is None or marker.fingerprint != fingerprint:
        return None
    path = output_path(outputs, shard)
    try:
        is_there = patiently(lambda: files.storage.status(path), path).st_size == marker.num_bytes
    except (FileNotFoundError, NotADirectoryError):
        return None
    return marker if is_there else None


class Judged(NamedTuple):
    """An output and its marker as they were when they were looked at."""

    marker: os.stat_result
    output: os.stat_result


def judge(outputs: Path, shard: str) -> Judged:
    """What is there now; OSError where either cannot be seen."""
    return Judged(files.storage.status(marker_path(outputs, shard)), files.storage.status(output_path(outputs, shard)))


def withdraw(outputs: Path, shard: str, judged: Judged) -> None:
    """Set aside an output that proved false, so that its shard is done again; the marker goes first."""
    marker, output = marker_path(outputs, shard), output_path(outputs, shard)
    files.set_aside(marker, withdrawn_folder(marker.parent), judged.marker)
    files.set_aside(output, withdrawn_folder(output.parent), judged.output)


def num_finished(layout: RunLayout, index: int, plan: Plan) -> int:
    """Windows of a shard that need not be done again, in its output or in pieces."""
    if is_done(layout.outputs, shard_name(index), plan.fingerprint):
        return plan.shards[index].num_windows
    return num_windows_in_pieces(layout.pieces(index))


def read_failure(outputs: Path, shard: str) -> Failure | None:
    """What went wrong with a shard, None where nothing did."""
    path = failure_path(outputs, shard)
    try:
        content = json.loads(patiently(lambda: files.read_bytes(path), path))
        failure = Failure(**content)
        return failure if isinstance(failure.reason, str) and type(failure.tries) is int else None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if is_full_disk(error):
            raise
        return None


def record_failure(outputs: Path, shard: str, reason: str) -> Failure:
    """Count one more failed try."""
    before = read_failure(outputs, shard)
    failure = Failure(shard=shard, reason=reason, tries=before.tries + 1 if before else 1)
    write_json(failure_path(outputs, shard), asdict(failure))
    return failure
