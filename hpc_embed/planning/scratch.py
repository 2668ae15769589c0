"""The folder in which a plan is made, found again by the same command after an interruption."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from hpc_embed import __version__
from hpc_embed.config import PlanSettings
from hpc_embed.errors import RunConflict, UsageError
from hpc_embed.model import Model
from hpc_embed.run.faults import naming_full_disk
from hpc_embed.run.files import make_folders, remove_tree
from hpc_embed.run.leftovers import remove_leftovers
from hpc_embed.run.locks import held
from hpc_embed.run.temporaries import temporary_sibling
from hpc_embed.sequences.sources import Seen

PREFIX = ".planning-"
SCAN_VERSION = 4
"""Raised whenever a part would be written otherwise."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WHAT_COUNTS = (
    *("on_long", "max_residues", "stride", "on_invalid", "case", "gaps"),
    *("sequence_column", "id_column", "translate", "genetic_code", "min_orf_residues"),
)
"""Settings that decide what a scan writes."""


def scratch_key(
    sources: Sequence[tuple[str, Seen | None]], model: Model, settings: PlanSettings, *, keeps_letters: bool
) -> str:
    """What a scan depends on: the files as they were seen (None for what is read only once: its parts are of no use
    to another scan), the model's letters, the policies, the code, and the boot of
    this machine, since parts are not forced to storage and may be lost with its power.
    """
    content = {
        "files": sources,
        "once": uuid.uuid4().hex if any(seen is None for _, seen in sources) else "",
        "model": asdict(model),
        "settings": [getattr(settings, name) for name in WHAT_COUNTS],
        "keeps_letters": keeps_letters,
        "version": [__version__, SCAN_VERSION],
        "boot": BOOT_ID.read_text() if BOOT_ID.exists() else uuid.uuid4().hex,
    }
    return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()[:32]


@contextmanager
def scratch_folder(root: Path, key: str) -> Iterator[Path]:
    """A folder in the run folder that goes away afterwards, but for an interruption or a full disk.

    Raises RunConflict where another process is at it, UsageError where there can be none.
    """
    try:
        make_folders(root)
    except OSError as error:
        raise UsageError(
            f"--run-dir {root}: cannot be made ({error.strerror}).", remedy="Choose another folder."
        ) from error
    remove_leftovers(root)
    for folder in root.glob(f"{PREFIX}*"):
        if folder.name != f"{PREFIX}{key}":
            _remove_unless_held(folder)
    folder = root / f"{PREFIX}{key}"
    with _held_anew(folder) as is_held:
        if not is_held:
            raise RunConflict(f"{root}: another `hpc-embed plan` is at work.", remedy="Wait for it.")
        try:
            with naming_full_disk(folder):
                yield folder
        except (KeyboardInterrupt, OSError):
            raise  # the same command goes on from here
        except BaseException:
            _remove(folder)
            raise
        _remove(folder)


@contextmanager
def _held_anew(folder: Path) -> Iterator[bool]:
    """Make the folder and hold it. A twin that has just finished may take it away in between: then once more."""
    is_there = False
    while not is_there:
        folder.mkdir(exist_ok=True)
        with ExitStack() as stack:
            try:
                is_held = stack.enter_context(held(folder / "lock"))
            except FileNotFoundError:
                continue
            is_there = not is_held or (folder / "lock").exists()
            if is_there:
                yield is_held


def _remove_unless_held(folder: Path) -> None:
    """Remove what an earlier plan left that was interrupted and never taken up again."""
    try:
        with held(folder / "lock") as is_free:
            if is_free:
                _remove(folder)
    except OSError:
        return


def _remove(folder: Path) -> None:
    """Take the name away first: a removal that is cut short must not leave parts that look whole."""
    leftover = temporary_sibling(folder)
    with suppress(OSError):
        folder.rename(leftover)
        remove_tree(leftover)
