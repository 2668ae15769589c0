"""Every output proven to be what its marker says, and every window to be in one of them at most."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_embed.errors import EnvironmentFault
from hpc_embed.progress import Counting
from hpc_embed.results.threads import in_order
from hpc_embed.results.windows import PLACE, Windows
from hpc_embed.run.canary import Canary, odd_ones
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import sha256_of_file
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import Judged, Marker, judge, read_failure, read_marker, withdraw
from hpc_embed.run.plan import Plan
from hpc_embed.run.shard_table import ShardFacts
from hpc_embed.run.vectors import Damaged, RowPlaces, VectorFile

BLOCK_BYTES = 4 << 20
MOST_UNREADABLE = 5
"""After so many the storage is not worth asking, each time with all patience."""


class BadOutput(Exception):
    """An output that is proven not to be what its marker says: all of it was read."""


class Proven(NamedTuple):
    """What an output has that is what its marker says, by its W windows."""

    marker: Marker
    judged: Judged
    places: RowPlaces
    keys_W: NDArray[np.int64]
    first_row_W: NDArray[np.int64]
    num_tokens_W: NDArray[np.int32]


@dataclass
class Problems:
    """Why shards have no vectors yet, by shard."""

    missing: dict[str, str] = field(default_factory=dict)
    """To be embedded, or embedded again."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """There, but the storage does not give them out for now."""


class Collected(NamedTuple):
    """What was found."""

    markers: list[Marker]
    """Of what was proven."""
    problems: Problems


def collect(
    plan: Plan, layout: RunLayout, windows: Windows, places_U: NDArray[np.void], count: Counting, num_threads: int
) -> Collected:
    """Prove every output, several at a time, and note in the places of these windows where its vectors lie.

    An output that proves false is withdrawn, so that its shard is done again. One that cannot be read for now
    is kept.
    """
    problems, markers = Problems(), []
    shards = enumerate(plan.shards)
    with closing(in_order(partial(_prove_shard, plan, layout, windows), shards, num_threads)) as proving:
        for (index, _), prove in proving:
            name = shard_name(index)
            try:
                proven = prove()
            except EnvironmentFault as fault:
                problems.unreadable[name] = fault.message
                if len(problems.unreadable) == MOST_UNREADABLE:
                    break
                continue
            taken = _take_shard(layout, index, proven, windows, places_U) if isinstance(proven, Proven) else proven
            if isinstance(taken, str):
                problems.missing[name] = taken
                continue
            markers.append(taken)
            count.advance(1)
    return Collected(markers, problems)


def _prove_shard(plan: Plan, layout: RunLayout, windows: Windows, shard: tuple[int, ShardFacts]) -> Proven | str:
    """What an output that is whole has, or why there is none."""
    index, facts = shard
    name = shard_name(index)
    try:
        judged = patiently(lambda: judge(layout.outputs, name), layout.output(index))
    except (FileNotFoundError, NotADirectoryError):
        return _why_missing(layout.outputs, name)
    marker = read_marker(layout.outputs, name)
    if marker is None or marker.fingerprint != plan.fingerprint:
        return _why_missing(layout.outputs, name)
    try:
        proven = patiently(lambda: _prove(layout.output(index), marker, judged, windows), layout.output(index))
        if len(proven.keys_W) + len(marker.failed_windows) != facts.num_windows:
            raise BadOutput(f"{len(proven.keys_W)} windows with vectors of {facts.num_windows}")
        return proven
    except FileNotFoundError:
        return _why_missing(layout.outputs, name)
    except (BadOutput, Damaged, IsADirectoryError) as error:
        return _withdraw_false(layout, name, judged, error)


def _take_shard(
    layout: RunLayout, index: int, proven: Proven, into: Windows, places_U: NDArray[np.void]
) -> Marker | str:
    """Note where its vectors lie; why not, where another output has one of its windows."""
    if places_U["num_tokens"][proven.keys_W].any():
        return _withdraw_false(layout, shard_name(index), proven.judged, BadOutput("a window that occurs twice"))
    places_W = np.empty(len(proven.keys_W), dtype=PLACE)
    places_W["output"], places_W["row"], places_W["num_tokens"] = index, proven.first_row_W, proven.num_tokens_W
    places_U[proven.keys_W] = places_W
    into.files[index] = proven.places
    into.num_rows += proven.marker.rows
    into.failed.update({int(key): reason for key, reason in proven.marker.failed_windows.items()})
    return proven.marker


def _withdraw_false(layout: RunLayout, name: str, judged: Judged, error: Exception) -> str:
    if _has_changed(layout, name, judged):
        return "published anew while it was gathered"
    withdraw(layout.outputs, name, judged)
    return f"output was damaged and is withdrawn ({error})"


def withdraw_odd(layout: RunLayout, markers: Sequence[Marker]) -> dict[str, str]:
    """Withdraw what devices embedded whose canary lies beyond the bound from the others'; the reason by shard."""
    canaries = [Canary(marker.facts.precision, marker.facts.canary) for marker in markers]
    problems: dict[str, str] = {}
    for place, distance in odd_ones(canaries).items():
        shard, facts = markers[place].shard, markers[place].facts
        problems[shard] = (
            f"is withdrawn: {facts.device} of {facts.process} computes wrongly, its canary is off by {distance:.2g} of "
            "its length"
        )
        with suppress(FileNotFoundError):  # a twin was faster
            judged = patiently(lambda shard=shard: judge(layout.outputs, shard), layout.outputs)  # type: ignore[misc]
            withdraw(layout.outputs, shard, judged)
    return problems


def _has_changed(layout: RunLayout, name: str, judged: Judged) -> bool:
    """True where a twin has published since: what was read may be half of each."""
    try:
        now = patiently(lambda: judge(layout.outputs, name), layout.outputs)
    except FileNotFoundError:
        return True
    return any(
        (one.st_ino, one.st_mtime_ns, one.st_size) != (other.st_ino, other.st_mtime_ns, other.st_size)
        for one, other in zip(now, judged, strict=True)
    )


def _why_missing(outputs: Path, name: str) -> str:
    failure = read_failure(outputs, name)
    return f"failed {failure.tries} times: {failure.reason}" if failure else "not done yet"


def _prove(path: Path, marker: Marker, judged: Judged, windows: Windows) -> Proven:
    if sha256_of_file(path) != marker.sha256:
        raise BadOutput("the checksum differs from the marker's")
    file = VectorFile(path)  # these are the bytes that the worker wrote: what is wrong with them now is proven
    if file.num_rows != marker.rows or file.dimension != windows.dimension:
        raise BadOutput(f"{file.num_rows} rows of dimension {file.dimension}")
    keys_R, num_tokens_R = file.windows(), file.num_tokens()
    if (num_tokens_R <= 0).any():
        raise BadOutput("a vector of no tokens")
    keys_W, first_row_W, num_rows_W = np.unique(keys_R, return_index=True, return_counts=True)
    if len(keys_W) and not 0 <= keys_W[0] <= keys_W[-1] < windows.num_windows:
        raise BadOutput("a window that the plan does not have")
    num_tokens_W = num_tokens_R[first_row_W]
    num_runs = np.count_nonzero(keys_R[1:] != keys_R[:-1]) + min(len(keys_R), 1)
    if num_runs != len(keys_W) or (num_rows_W != windows.rows_of(num_tokens_W)).any():
        raise BadOutput("a window that occurs twice, or in part")
    places = file.places()
    _refuse_not_finite(places, windows)
    return Proven(marker, judged, places, keys_W, first_row_W, num_tokens_W)


def _refuse_not_finite(places: RowPlaces, windows: Windows) -> None:
    num_rows = max(1, BLOCK_BYTES // (4 * windows.dimension))
    for start in range(0, places.first_row_G[-1], num_rows):
        rows_n = np.arange(start, min(start + num_rows, places.first_row_G[-1]))
        vectors_nD = np.empty((len(rows_n), windows.dimension), dtype=np.float32)
        windows.reader.fill(vectors_nD, places, rows_n)
        if not np.isfinite(vectors_nD).all():
            raise BadOutput("NaN or infinity")
