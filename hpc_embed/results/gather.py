"""From a finished run to its dataset, or to the list of what is missing."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from hpc_embed import __version__
from hpc_embed.config import GatherSettings
from hpc_embed.errors import EnvironmentFault, Incomplete, RunConflict, UsageError
from hpc_embed.progress import counting
from hpc_embed.results.camps import refuse_camps
from hpc_embed.results.checks import Problems, collect, withdraw_odd
from hpc_embed.results.dataset import Arrangement, dataset_schema
from hpc_embed.results.index import draft_index
from hpc_embed.results.parts import MEBIBYTE, Part, PartsWriter, Room
from hpc_embed.results.threads import in_order
from hpc_embed.results.waiting import wait_for_markers
from hpc_embed.results.windows import Windows, room_for_places, settle
from hpc_embed.run import files
from hpc_embed.run.faults import patiently
from hpc_embed.run.files import discard, draft_json, put, sha256_of_file, whole_folder
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.links import refuse_links
from hpc_embed.run.markers import Marker, digest_of_outputs
from hpc_embed.run.plan import Plan, refuse_false_totals
from hpc_embed.run.record_proof import refuse_false_records

MOST_NAMED = 5
MOST_THREADS = 8
"""Of those that are taken unasked."""


class Gathered(NamedTuple):
    """What gather found or made."""

    dataset: str
    num_records: int
    statuses: dict[str, int]
    """How many records have each status; they add up to all records."""
    precision: str
    is_new: bool
    seconds: float


def gather(plan: Plan, layout: RunLayout, settings: GatherSettings) -> Gathered:
    """Check all outputs and publish the dataset; nothing is written where it is there already.

    Raises Incomplete, naming them, where shards are missing or damaged.
    """
    started = time.monotonic()
    if settings.layout == "shards" and settings.dtype != "float32":
        raise UsageError("--layout shards leaves the vectors as they are: float32.", remedy="Leave --dtype out.")
    refuse_links(layout)
    refuse_false_totals(plan, layout.plan)
    remove_leftovers(layout.root)
    wait_for_markers(plan, layout, settings.wait_seconds)
    memory = settings.memory_mebibytes * MEBIBYTE
    num_threads = settings.gather_threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
    with room_for_places(layout.root, plan.totals.num_unique_windows, memory // 4) as places_U:
        windows = Windows(places_U, plan.dimension, plan.embedding.outputs)
        with counting("proving", len(plan.shards), "shards") as count:
            markers, problems = collect(plan, layout, windows, places_U, count, num_threads)
        settle(places_U)
        refuse_camps(markers)
        problems.missing.update(withdraw_odd(layout, markers))
        _refuse(problems, len(plan.shards))
        facts = _facts(plan, markers, settings)
        if (found := _existing(layout, facts, num_threads)) is not None:
            return found._replace(seconds=time.monotonic() - started)
        refuse_false_records(plan, layout.records)
        _write(plan, layout, settings, windows, facts, num_threads)
    if (result := _existing(layout, facts, None)) is None:
        raise RunConflict(
            f"{layout.dataset} is not what was just written there: another gather is at work, or the storage lies.",
            remedy="Gather again, one at a time.",
        )
    return result._replace(is_new=True, seconds=time.monotonic() - started)


def _write(
    plan: Plan,
    layout: RunLayout,
    settings: GatherSettings,
    windows: Windows,
    facts: dict[str, object],
    num_threads: int,
) -> None:
    """Write the dataset, its index and dataset.json beside, and put all three in their places once they are whole.

    What goes wrong before that leaves the dataset that was there as it was, dataset.json and index too.
    """
    embedding = plan.embedding
    copies = settings.layout == "parts"
    cut = (embedding.max_residues, embedding.stride)
    how = Arrangement(embedding.outputs, plan.num_special_tokens, *cut, holds_vectors=copies)
    schema = dataset_schema(plan.dimension, settings.dtype, _for_parts(facts), how.outputs, holds_vectors=copies)
    room = Room(settings.part_mebibytes, settings.memory_mebibytes, num_threads)
    drafts: list[files.Draft] = []
    try:
        with (
            whole_folder(layout.dataset) as folder,
            counting("gathering", plan.totals.num_records, "records") as count,
        ):
            statuses, parts = PartsWriter(folder, layout.records, windows, how, schema, room).write(count)
            _prove(plan, dict(statuses))
            index = draft_index(layout, folder, None if copies else windows)
            drafts.append(index.draft)
            content = {**facts, "num_records": statuses.total(), "statuses": dict(sorted(statuses.items()))}
            content["parts"] = {name: part._asdict() for name, part in parts.items()}
            content["index"] = index.part._asdict()
            drafts.append(draft_json(layout.dataset_facts, content))
        for draft, path in zip(drafts, (layout.dataset_index, layout.dataset_facts), strict=True):
            put(draft.path, path)
    except BaseException:
        for draft in drafts:
            discard(draft.path)
        raise


def _refuse(problems: Problems, num_shards: int) -> None:
    if problems.unreadable:
        raise EnvironmentFault(
            f"{len(problems.unreadable)} of {num_shards} shards cannot be read: {_named(problems.unreadable)}.",
            remedy="Nothing was removed; gather again once the storage answers.",
        )
    if problems.missing:
        raise Incomplete(
            f"{len(problems.missing)} of {num_shards} shards are missing: {_named(problems.missing)}.",
            remedy="Run them again (`hpc-embed submit`, or the same `hpc-embed local`), then gather.",
        )


def _named(problems: dict[str, str]) -> str:
    names = [f"{name} ({reason})" for name, reason in list(problems.items())[:MOST_NAMED]]
    return ", ".join([*names, "…"] if len(problems) > MOST_NAMED else names)


def _facts(plan: Plan, markers: Sequence[Marker], settings: GatherSettings) -> dict[str, object]:
    precisions = Counter(marker.facts.precision for marker in markers)
    if len(precisions) > 1 and not settings.mixed_precision:
        numbers = ", ".join(f"{count} in {name}" for name, count in sorted(precisions.items()))
        raise RunConflict(
            f"shards were embedded in different precisions ({numbers}).",
            remedy="Plan with --precision into another --run-dir, or take them together with --mixed-precision.",
        )
    versions = sorted({f"{name} {version}" for m in markers for name, version in m.facts.versions.items()})
    facts = {
        "model": plan.model.name,
        "untrained": plan.model.is_untrained,
        "model_source": plan.model.source,
        "model_revision": plan.model.revision,
        "model_digest": plan.model.digest,
        "licence": plan.model.licence,
        "pooling": plan.embedding.pooling,
        "layer": plan.embedding.layer,
        "precision": ",".join(sorted(precisions)),
        "dimension": plan.column_dimension,
        "columns": [output.name for output in plan.embedding.outputs.columns],
        "dtype": settings.dtype,
        "layout": settings.layout,
        "num_special_tokens": plan.num_special_tokens,
        "fingerprint": plan.fingerprint,
        "embedding": asdict(plan.embedding),
        "devices": sorted({marker.facts.device for marker in markers}),
        "versions": list(versions),
        "proofs": sorted({marker.facts.proof for marker in markers} - {""}),
        "gathered_by": f"hpc_embed {__version__}",
        "outputs_digest": digest_of_outputs([marker.sha256 for marker in markers]),
    }
    plain: dict[str, object] = json.loads(json.dumps(facts))  # as it is read back
    return plain


def _for_parts(facts: dict[str, object]) -> dict[str, object]:
    """Without what depends on which try wrote which piece, so that equal vectors are equal bytes."""
    return {
        name: value for name, value in facts.items() if name not in ("outputs_digest", "num_special_tokens", "proofs")
    }


MAY_DIFFER = ("gathered_by",)
"""What says nothing of the vectors: a dataset that an older version has gathered is there already."""


def _existing(layout: RunLayout, facts: dict[str, object], num_threads: int | None) -> Gathered | None:
    """The dataset that is there, where it is this one and all of it is as it was written: by the checksums of its
    parts, or, where this process has just written them and names no number of threads, by their sizes.
    """
    try:
        found = json.loads(patiently(lambda: files.read_bytes(layout.dataset_facts), layout.dataset_facts))
        if any(found.get(key) != value for key, value in facts.items() if key not in MAY_DIFFER):
            return None
        parts = {layout.dataset / name: Part(**part) for name, part in found["parts"].items()}
        names = patiently(lambda: files.storage.names(layout.dataset), layout.dataset)
        if sorted(path.name for path in parts) != names:
            return None
        parts[layout.dataset_index] = Part(**found["index"])
        if any(_size_of(path) != part.num_bytes for path, part in parts.items()):
            return None
        with closing(in_order(_digest_of, parts if num_threads else (), num_threads or 1)) as proving:
            if any(digest() != parts[path].sha256 for path, digest in proving):
                return None
        return Gathered(
            dataset=str(layout.dataset),
            num_records=found["num_records"],
            statuses=found["statuses"],
            precision=found["precision"],
            is_new=False,
            seconds=0.0,
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _size_of(path: Path) -> int:
    return patiently(lambda: files.storage.status(path), path).st_size


def _digest_of(path: Path) -> str:
    return patiently(lambda: sha256_of_file(path), path)


def _prove(plan: Plan, statuses: dict[str, int]) -> None:
    """Every record has exactly one status, and the statuses are those of the plan but for what failed."""
    totals = plan.totals
    kept = sum(statuses.get(name, 0) for name in ("embedded", "windowed", "truncated", "failed"))
    if sum(statuses.values()) != totals.num_records:
        raise AssertionError("records were lost")  # a bug of ours, told under `python -O` too
    if statuses.get("skipped", 0) != totals.num_skipped:
        raise AssertionError("skipped records differ from the plan's")
    if kept != totals.num_embedded + totals.num_windowed + totals.num_truncated:
        raise AssertionError("records were lost")
