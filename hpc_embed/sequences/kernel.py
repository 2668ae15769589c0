"""The FASTA kernel, kernels/fasta.c, built when the package is installed where a C compiler is.

Its calls let other threads run. Without the library each function does the same in Python, record by record; the
tests hold them equal.
"""

# N = records or spans

from __future__ import annotations

import ctypes
import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hpc_embed.sequences.letters import ResiduePolicy

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

LIBRARY = Path(__file__).with_name("libfasta.so")
DIGEST_BYTES = 16
MOST_LANES = 8
"""Messages that are digested side by side, where the processor can; the tests ask for fewer."""
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
"""BLAKE2b of 128 bits, as two numbers."""


class Usual(NamedTuple):
    """The records that the kernel has parsed, each column side by side."""

    letters: Bytes
    letter_stops_N: Ints
    headers: Bytes
    header_stops_N: NDArray[np.int32]
    ids: Bytes
    id_stops_N: NDArray[np.int32]
    lines_N: Ints
    """Lines of the headers, from 0."""
    num_bytes: int
    """Bytes parsed; what comes after is unusual."""
    num_lines: int


class Applied(NamedTuple):
    """What the residue policy made of records."""

    lengths_N: Ints
    num_unknown_N: Ints
    first_unknown_N: Bytes
    """The first unknown letter; 0 where there is none."""
    is_changed_N: NDArray[np.bool_]


def is_available() -> bool:
    """True where the library was built."""
    return _library() is not None


def count_headers(raw: Bytes) -> int:
    """Lines that begin with `>`."""
    library = _library()
    assert library is not None
    return int(library.hpc_embed_count_headers(_at(raw), length_of(raw)))


def parse(raw: Bytes, most_records: int) -> Usual:
    """Parse bytes that begin with `>` as far as they are usual."""
    library = _library()
    assert library is not None
    letters, headers, ids = (np.empty(len(raw), dtype=np.uint8) for _ in range(3))
    letter_stops_N, lines_N = (np.empty(most_records, dtype=np.int64) for _ in range(2))
    header_stops_N, id_stops_N = (np.empty(most_records, dtype=np.int32) for _ in range(2))
    done = np.empty(2, dtype=np.int64)
    buffers = (letters, letter_stops_N, headers, header_stops_N, ids, id_stops_N, lines_N, done)
    count = int(library.hpc_embed_parse(_at(raw), length_of(raw), *addresses(*buffers)))
    return Usual(
        letters[: letter_stops_N[count - 1] if count else 0],
        letter_stops_N[:count],
        headers[: header_stops_N[count - 1] if count else 0],
        header_stops_N[:count],
        ids[: id_stops_N[count - 1] if count else 0],
        id_stops_N[:count],
        lines_N[:count],
        int(done[0]),
        int(done[1]),
    )


def apply_policy(policy: ResiduePolicy, letters: Bytes, starts_N: Ints, lengths_N: Ints) -> Applied:
    """Apply the residue policy to records in `letters`, in place."""
    library = _library()
    num_unknown_N, first_N = np.zeros(len(starts_N), dtype=np.int64), np.zeros(len(starts_N), dtype=np.uint8)
    is_changed_N, lengths_N = np.zeros(len(starts_N), dtype=np.bool_), lengths_N.copy()
    if library is None:
        for record, start in enumerate(starts_N.tolist()):
            written = letters[start : start + lengths_N[record]].tobytes()
            residues = policy.apply(written)
            length = len(residues.sequence)
            letters[start : start + length] = np.frombuffer(residues.sequence, dtype=np.uint8)
            lengths_N[record], num_unknown_N[record] = length, residues.num_unknown
            first_N[record] = ord(residues.first_unknown or "\0")
            is_changed_N[record] = residues.sequence != written
        return Applied(lengths_N, num_unknown_N, first_N, is_changed_N)
    tables = (np.frombuffer(table, dtype=np.uint8) for table in (policy.mapping, policy.is_unknown))
    library.hpc_embed_apply_policy(
        _at(letters),
        _at(starts_N),
        _at(lengths_N),
        length_of(starts_N),
        *addresses(*tables),
        policy.stop,
        *addresses(num_unknown_N, first_N, is_changed_N),
    )
    return Applied(lengths_N, num_unknown_N, first_N, is_changed_N)


def pack(letters: Bytes, starts_N: Ints, lengths_N: Ints) -> Bytes:
    """The spans of `letters`, which ascend, side by side; in place where none overlaps the next."""
    library = _library()
    if library is None or (starts_N[1:] < (starts_N + lengths_N)[:-1]).any():
        return gather(letters, starts_N, lengths_N)
    return letters[: int(library.hpc_embed_pack(_at(letters), _at(starts_N), _at(lengths_N), length_of(starts_N)))]


def gather(letters: Bytes, starts_N: Ints, lengths_N: Ints) -> Bytes:
    """The spans of `letters` side by side, in the order in which they are named."""
    library = _library()
    if library is None:
        spans = zip(starts_N.tolist(), (starts_N + lengths_N).tolist(), strict=True)
        return np.concatenate([letters[:0], *(letters[start:stop] for start, stop in spans)])
    gathered = np.empty(int(lengths_N.sum()), dtype=np.uint8)
    library.hpc_embed_gather(*addresses(letters, starts_N, lengths_N), length_of(starts_N), _at(gathered))
    return gathered


def digests(content: Bytes, starts_N: Ints, lengths_N: Ints) -> NDArray[np.void]:
    """The digest of each span."""
    library = _library()
    found_N = np.empty(len(starts_N), dtype=DIGEST)
    if library is None:
        view = np.ascontiguousarray(content).data
        spans = zip(starts_N.tolist(), (starts_N + lengths_N).tolist(), strict=True)
        each = (hashlib.blake2b(view[start:stop], digest_size=DIGEST_BYTES).digest() for start, stop in spans)
        return np.frombuffer(b"".join(each), dtype=DIGEST)
    library.hpc_embed_digest(*addresses(content, starts_N, lengths_N), length_of(starts_N), _at(found_N), MOST_LANES)
    return found_N


def digests_of(words: pa.StringArray) -> NDArray[np.void]:
    """The digest of each word."""
    _, offsets, content = words.buffers()
    edges = np.frombuffer(offsets, dtype=np.int32)[words.offset : words.offset + len(words) + 1].astype(np.int64)
    letters = np.frombuffer(content, dtype=np.uint8) if content else np.empty(0, dtype=np.uint8)
    return digests(letters, edges[:-1], np.diff(edges))


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive for as long as the pointer is


def addresses(*arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
    """Of contiguous arrays, for a kernel in C."""
    return [_at(array) for array in arrays]


def length_of(array: NDArray[Any]) -> ctypes.c_int64:
    """For a kernel in C."""
    return ctypes.c_int64(len(array))


@cache
def _library() -> ctypes.CDLL | None:
    if not LIBRARY.exists() or sys.byteorder != "little":
        return None
    library = ctypes.CDLL(str(LIBRARY))
    for name in ("count_headers", "parse", "pack"):
        getattr(library, f"hpc_embed_{name}").restype = ctypes.c_int64
    return library
