"""Shards that were embedded in ways which differ by more than rounding: an upgrade in the middle, two kinds of nodes.

A device that computes wrongly is found among others that are installed as it is (`checks.withdraw_odd`). Where those
that differ are installed otherwise nobody but the user can tell which are meant, and nothing is withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpc_embed.errors import RunConflict
from hpc_embed.run.canary import Canary, are_near
from hpc_embed.run.markers import Marker

VECTORS = "vectors"
"""The version that is raised when our own code makes other vectors."""
MOST_NAMED = 3


def refuse_camps(markers: Sequence[Marker]) -> None:
    """RunConflict, which names what differs, where markers fall into camps by how they were made."""
    for precision in sorted({marker.facts.precision for marker in markers}):
        camps = _camps([m for m in markers if m.facts.precision == precision and m.facts.canary])
        if len(camps) < 2:
            continue
        differing = _differing([[_made_by(marker) for marker in camp] for camp in camps])
        is_tie = sum(len(camp) == max(map(len, camps)) for camp in camps) > 1
        if differing - {"device"} or (differing and is_tie):
            kinds = "; ".join(_told(camp, differing) for camp in camps)
            raise RunConflict(
                f"shards were embedded in ways that give other vectors: {kinds}.",
                remedy="All are kept. Choose: move the outputs and markers of all but one of these kinds away and run "
                "their shards again with what made the rest, or plan into another --run-dir.",
            )


def _camps(markers: Sequence[Marker]) -> list[list[Marker]]:
    """Those whose canaries are near and whose vectors have one version, the most first."""
    camps: list[list[Marker]] = []
    for marker in markers:
        for camp in camps:
            is_one_version = _version_of_vectors(marker) == _version_of_vectors(camp[0])
            if is_one_version and are_near(_canary(marker), _canary(camp[0])):
                camp.append(marker)
                break
        else:
            camps.append([marker])
    return sorted(camps, key=len, reverse=True)


def _version_of_vectors(marker: Marker) -> str:
    """The first did not tell."""
    return marker.facts.versions.get(VECTORS, "1")


def _canary(marker: Marker) -> Canary:
    return Canary(marker.facts.precision, marker.facts.canary)


def _made_by(marker: Marker) -> Mapping[str, str]:
    return {**marker.facts.versions, "device": marker.facts.device}


def _differing(camps: Sequence[Sequence[Mapping[str, str]]]) -> set[str]:
    """What no two camps have in common: names for which each has values of its own."""
    names = {name for camp in camps for made in camp for name in made}
    return {
        name
        for name in names
        if sum(len({made.get(name) for made in camp}) for camp in camps)
        == len({made.get(name) for camp in camps for made in camp})
    }


def _told(camp: Sequence[Marker], names: set[str]) -> str:
    """`5 with torch 2.4.0 (shard-00000, …)`."""
    values = {name: {str(_made_by(marker).get(name, "that is not told")) for marker in camp} for name in sorted(names)}
    made = ", ".join(f"{name} {' or '.join(sorted(found))}" for name, found in values.items())
    shards = [marker.shard for marker in camp]
    named = ", ".join([*shards[:MOST_NAMED], *(["…"] if len(shards) > MOST_NAMED else [])])
    return f"{len(camp)} with {made} ({named})"
