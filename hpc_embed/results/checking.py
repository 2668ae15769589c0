"""A finished dataset proven, years later: every part by its checksum, against what `gather` wrote down beside it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hpc_embed.errors import RunConflict
from hpc_embed.model import PER_WINDOW
from hpc_embed.run import files
from hpc_embed.run.faults import is_passing, patiently, reason
from hpc_embed.run.files import read_bytes, sha256_of_file
from hpc_embed.run.layout import RunLayout, shard_name
from hpc_embed.run.markers import digest_of_outputs, read_marker
from hpc_embed.run.parquet import metadata_of
from hpc_embed.run.plan import read_plan


class Checked(NamedTuple):
    """A dataset that is what it was."""

    dataset: str
    num_parts: int
    num_records: int
    fingerprint: str
    versions: list[str]


def check(layout: RunLayout, *, and_plan: bool = True) -> Checked:
    """Read every part whole and compare; and whether it is of the plan that lies beside.

    Raises RunConflict, naming the parts, for a dataset that is damaged, incomplete or another plan's, and
    EnvironmentFault where it cannot be read for now.
    """
    facts = _facts(layout)
    parts: dict[str, Any] = facts["parts"]
    try:
        found = patiently(lambda: files.storage.names(layout.dataset), layout.dataset)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunConflict(f"{layout.dataset} is missing.", remedy="Gather again.") from error
    problems = {name: "is missing" for name in parts if name not in found}
    problems |= {name: "is not of this dataset" for name in found if name not in parts}
    for name in sorted(set(parts) & set(found)):
        if problem := patiently(lambda name=name: _problem(layout, name, parts[name], facts), layout.dataset / name):  # type: ignore[misc]
            problems[name] = problem
    if problem := patiently(lambda: _problem_of_index(layout, facts.get("index")), layout.dataset_index):
        problems[layout.dataset_index.name] = problem
    if facts.get("layout") == "shards":
        problems |= _problems_of_outputs(layout, facts)
    if sum(part["rows"] for part in parts.values()) != facts["num_records"]:
        problems["dataset.json"] = "its parts do not add up to its records"
    if and_plan and layout.plan.exists() and read_plan(layout.plan).fingerprint != facts["fingerprint"]:
        problems["plan.json"] = "is another plan than that of the dataset"
    if problems:
        raise RunConflict(
            f"{layout.dataset}: {'; '.join(f'{name} {problem}' for name, problem in sorted(problems.items()))}.",
            remedy="Restore these, or move the dataset away and gather again where outputs/ is still there.",
        )
    return Checked(str(layout.dataset), len(parts), facts["num_records"], facts["fingerprint"], list(facts["versions"]))


def _facts(layout: RunLayout) -> dict[str, Any]:
    path = layout.dataset_facts
    try:
        facts = json.loads(patiently(lambda: read_bytes(path), path))
        parts = facts["parts"]
        is_whole = (
            all(type(part["rows"]) is int and isinstance(part["sha256"], str) for part in parts.values())
            and type(facts["num_records"]) is int
            and isinstance(facts["fingerprint"], str)
            and ("index" not in facts or isinstance(facts["index"]["sha256"], str))
            and isinstance(facts["versions"], list)
        )
    except FileNotFoundError as error:
        raise RunConflict(f"{layout.root} holds no finished dataset.", remedy="Run `hpc-embed gather`.") from error
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunConflict(
            f"{path}: damaged, or of a version that wrote no checksums.", remedy="Gather again."
        ) from error
    if not is_whole:
        raise RunConflict(f"{path}: damaged.", remedy="Gather again.")
    return dict(facts)


def _problem_of_index(layout: RunLayout, index: dict[str, Any] | None) -> str | None:
    """None too for a dataset of a version that made no index."""
    if index is None:
        return None
    try:
        is_same = sha256_of_file(layout.dataset_index) == index["sha256"]
    except (FileNotFoundError, IsADirectoryError):
        return "is missing"
    return None if is_same else "is damaged (the checksum differs)"


def _problems_of_outputs(layout: RunLayout, facts: dict[str, Any]) -> dict[str, str]:
    """What is wrong with the outputs, in which the dataset has its vectors."""
    problems: dict[str, str] = {}
    digests = []
    for index in range(len(read_plan(layout.plan).shards)):
        path, marker = layout.output(index), read_marker(layout.outputs, shard_name(index))
        digests.append("" if marker is None else marker.sha256)
        try:
            digest = patiently(lambda path=path: sha256_of_file(path), path)  # type: ignore[misc]
        except FileNotFoundError:
            problems[path.name] = "is missing"
            continue
        if digest != digests[-1]:
            problems[path.name] = "is damaged (the checksum differs)"
    if not problems and digest_of_outputs(digests) != facts["outputs_digest"]:
        problems["outputs"] = "are not those that were gathered"
    return problems


def _problem(layout: RunLayout, name: str, part: dict[str, Any], facts: dict[str, Any]) -> str | None:
    path = layout.dataset / name
    try:
        is_same = sha256_of_file(path) == part["sha256"]
    except IsADirectoryError:
        return "is a folder"
    if not is_same:
        return "is damaged (the checksum differs)"
    try:
        with files.storage.open_to_read(path) as file:
            footer = pq.ParquetFile(file)
            rows, metadata = footer.metadata.num_rows, metadata_of(footer.schema_arrow)
    except (OSError, pa.ArrowException, ValueError) as error:
        if is_passing(error):
            raise
        return f"is damaged ({reason(error)})"
    if rows < part["rows"] or (rows > part["rows"] and PER_WINDOW not in str(facts.get("pooling")).split(",")):
        return f"has {rows} rows instead of {part['rows']}"
    if metadata.get("fingerprint") != facts["fingerprint"]:
        return "is another dataset's"
    return None
