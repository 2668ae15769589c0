"""What becomes of each record: whole, in windows, cut short or left out, and why."""

# N = records of a block, W = their windows

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hpc_embed.config import PlanSettings
from hpc_embed.model import Model
from hpc_embed.planning.preparation import preparation
from hpc_embed.run.intake import Intake
from hpc_embed.sequences import kernel
from hpc_embed.sequences.blocks import Block
from hpc_embed.sequences.kernel import Bytes, Ints
from hpc_embed.sequences.letters import ResiduePolicy
from hpc_embed.sequences.places import Place
from hpc_embed.sequences.windows import num_windows, split_windows

STATUSES = ("embedded", "windowed", "truncated", "skipped")
EMBEDDED, WINDOWED, TRUNCATED, SKIPPED = range(4)
CACHED_BYTES = 1 << 18
"""So many letters at a time are counted in the processor's cache, which takes a fifth of the time."""
HOW = {"window": WINDOWED, "truncate": TRUNCATED, "skip": SKIPPED}


class Judged(NamedTuple):
    """The records of a block with what becomes of them, and their windows."""

    block: Block
    lengths_N: Ints
    """Residues, without what the policy dropped."""
    status_N: NDArray[np.int8]
    reasons: pa.StringArray
    num_unknown_N: Ints
    num_u_as_t: int
    """Letters of RNA that are read as DNA's."""
    num_windows_N: Ints
    digests_N: NDArray[np.void]
    """Of the letters as written."""
    letters: Bytes
    """Of the windows, side by side."""
    window_lengths_W: Ints
    window_digests_W: NDArray[np.void]
    first_unknown: Place | None
    fault: Place | None
    """The first line that is no FASTA, or record that the settings refuse."""


class Judge:
    """The policies of one plan."""

    def __init__(self, model: Model, settings: PlanSettings, intake: Intake) -> None:
        self._settings = settings
        self._prepare = preparation(intake)
        self._empty = f"no stretch of {intake.min_orf_residues} residues" if intake.translate else "empty"
        self._limit = settings.max_residues or model.max_residues
        self._policy = ResiduePolicy(model.kind, model.known_letters, settings.case)
        self._unknown = [f"letter {chr(byte)!r} unknown to {model.name}" for byte in range(256)]

    def judge(self, block: Block) -> Judged:
        """Judge every record of a block; its letters are used up."""
        block = self._prepare(block)
        starts_N = block.starts_N
        digests_N = kernel.digests(block.letters, starts_N, block.lengths_N)
        num_u_as_t = self._count_u(block.letters) if self._policy.reads_u_as_t else 0
        applied = kernel.apply_policy(self._policy, block.letters, starts_N, block.lengths_N)
        lengths_N = applied.lengths_N
        status_N = np.zeros(len(lengths_N), dtype=np.int8)
        is_unknown_N = (applied.num_unknown_N > 0) & (self._settings.on_invalid != "unknown")
        is_long_N = np.zeros(len(lengths_N), dtype=np.bool_) if self._limit is None else lengths_N > self._limit
        is_long_N &= ~is_unknown_N
        status_N[is_long_N] = HOW.get(self._settings.on_long, SKIPPED)
        status_N[is_unknown_N | (lengths_N == 0)] = SKIPPED
        reasons = self._reasons(lengths_N, is_long_N, is_unknown_N, applied.first_unknown_N)
        windows_of_N = (status_N != SKIPPED).astype(np.int64)
        if self._limit is not None:
            is_windowed_N = status_N == WINDOWED
            windows_of_N[is_windowed_N] = num_windows(lengths_N[is_windowed_N], self._limit, self._settings.stride)
        kept_N = np.where(status_N == TRUNCATED, self._limit or 0, lengths_N)
        windows = split_windows(kept_N, windows_of_N, self._limit, self._settings.stride)
        starts_W = starts_N[windows.record_W] + windows.starts_W
        is_same_W = (~applied.is_changed_N & (status_N == EMBEDDED))[windows.record_W]
        digests_W = np.empty(len(starts_W), dtype=kernel.DIGEST)
        digests_W[is_same_W] = digests_N[windows.record_W[is_same_W]]
        digests_W[~is_same_W] = kernel.digests(block.letters, starts_W[~is_same_W], windows.lengths_W[~is_same_W])
        return Judged(
            block=block,
            lengths_N=lengths_N,
            status_N=status_N,
            reasons=reasons,
            num_unknown_N=applied.num_unknown_N,
            num_u_as_t=num_u_as_t,
            num_windows_N=windows_of_N,
            digests_N=digests_N,
            letters=kernel.pack(block.letters, starts_W, windows.lengths_W),
            window_lengths_W=windows.lengths_W,
            window_digests_W=digests_W,
            first_unknown=self._first_unknown(block, applied, status_N),
            fault=self._fault(block, reasons, is_unknown_N, is_long_N),
        )

    def _count_u(self, letters: Bytes) -> int:
        either_case = 0x20 if self._settings.case == "upper" else 0
        wanted, pieces = ord("U") | either_case, range(0, len(letters), CACHED_BYTES)
        return sum(int(np.count_nonzero(letters[at : at + CACHED_BYTES] | either_case == wanted)) for at in pieces)

    def _reasons(
        self, lengths_N: Ints, is_long_N: NDArray[np.bool_], is_unknown_N: NDArray[np.bool_], first_N: Bytes
    ) -> pa.StringArray:
        at = np.flatnonzero(is_long_N | is_unknown_N | (lengths_N == 0))
        if not len(at):  # as mostly
            return pa.repeat("", len(lengths_N))
        lengths = pa.array(lengths_N[at]).cast(pa.string())
        texts = pc.binary_join_element_wise(lengths, f" residues, the limit is {self._limit}", "")
        texts = pc.if_else(pa.array(lengths_N[at] == 0), self._empty, texts)
        unknown = pa.array(self._unknown).take(pa.array(first_N[at]))
        texts = pc.if_else(pa.array(is_unknown_N[at]), unknown, texts)
        sizes_N = np.zeros(len(lengths_N), dtype=np.int64)
        sizes_N[at] = pc.binary_length(texts).to_numpy()
        offsets = np.concatenate(([0], np.cumsum(sizes_N))).astype(np.int32)
        return pa.StringArray.from_buffers(len(lengths_N), pa.py_buffer(offsets), texts.buffers()[2])

    def _first_unknown(self, block: Block, applied: kernel.Applied, status_N: NDArray[np.int8]) -> Place | None:
        found = np.flatnonzero((applied.num_unknown_N > 0) & (status_N != SKIPPED))
        if not len(found):
            return None
        at = int(found[0])
        return Place(int(block.lines_N[at]), block.ids[at].as_py(), repr(chr(applied.first_unknown_N[at])), "")

    def _fault(
        self, block: Block, reasons: pa.StringArray, is_unknown_N: NDArray[np.bool_], is_long_N: NDArray[np.bool_]
    ) -> Place | None:
        refuses_unknown, refuses_long = self._settings.on_invalid == "error", self._settings.on_long == "error"
        found = np.flatnonzero((is_unknown_N & refuses_unknown) | (is_long_N & refuses_long))
        if not len(found):
            return block.fault
        at = int(found[0])
        remedy = "Choose --on-long window, truncate or skip."
        if is_unknown_N[at]:
            remedy = "Mend the input, or choose --on-invalid skip or unknown."
        return Place(int(block.lines_N[at]), block.ids[at].as_py(), reasons[at].as_py(), remedy)
