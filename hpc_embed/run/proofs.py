"""Proofs kept: that a checkpoint gave here, from letters to vectors, what the reference implementation gives.

A proof holds for the bytes of a checkpoint, our code, the libraries' versions, and a kind of device and precision. It
lies beside a staged model, or in the user's cache. No torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import hpc_embed
from hpc_embed.run.files import write_json

FOLDER = "proofs"
CACHE = "HPC_EMBED_CACHE"
"""Names another folder than ~/.cache/hpc-embed."""
CODE = ("checkpoints", "engine", "families", "workers")
"""The packages whose code makes a vector of a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How near our vectors were to the reference's."""

    facts: Mapping[str, str]
    """What it holds for."""
    reference: str
    num_tokens: int
    """Of the probes; all are those that the checkpoint's own tokenizer makes."""
    largest_distance: float
    """1 - cos of two vectors."""
    day: str

    def __str__(self) -> str:
        return (
            f"beside {self.reference} on {self.day}: {self.num_tokens} tokens equal, 1 - cos "
            f"{self.largest_distance:.0e} in {self.facts['precision']} on {self.facts['device']}"
        )


def digest_of_code() -> str:
    """SHA-256 of the modules that a vector depends on."""
    package = Path(hpc_embed.__file__).parent
    paths = sorted(path for name in CODE for path in (package / name).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def cache_folder() -> Path:
    """Where this user's proofs are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "hpc-embed") / FOLDER


def find_proof(facts: Mapping[str, str], beside: Path) -> Proof | None:
    """The proof of exactly these facts, None where there is none."""
    for folder in (beside / FOLDER, cache_folder()):
        proof = _read(folder / _name(facts))
        if proof is not None and dict(proof.facts) == dict(facts):
            return proof
    return None


def proofs_of(digest: str, beside: Path) -> list[Proof]:
    """Every proof of a checkpoint that is kept here, whatever the device."""
    paths = [
        path for folder in (beside / FOLDER, cache_folder()) for path in sorted(folder.glob(f"{digest[:16]}-*.json"))
    ]
    return [proof for path in paths if (proof := _read(path)) is not None]


def keep_proof(proof: Proof, folder: Path | None = None) -> str | None:
    """Write it down in `folder`, or in the user's cache; what kept it from that, None where nothing did."""
    folder = folder or cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _name(proof.facts), asdict(proof))
    except (OSError, RuntimeError) as error:
        return f"the proof cannot be kept in {folder} ({error}), and is made again by the next start"
    return None


@contextmanager
def one_at_a_time(facts: Mapping[str, str]) -> Iterator[None]:
    """Hold what others who want the same proof wait for, on storage that has locks: a reference takes memory."""
    with suppress(OSError, RuntimeError):
        cache_folder().mkdir(parents=True, exist_ok=True)
    try:
        file = (cache_folder() / f"{_name(facts)}.lock").open("w")
    except (OSError, RuntimeError):
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _name(facts: Mapping[str, str]) -> str:
    mark = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()
    return f"{facts['digest'][:16]}-{mark[:16]}.json"


def _read(path: Path) -> Proof | None:
    try:
        return Proof(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RuntimeError):
        return None
