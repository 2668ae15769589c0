"""The names, sizes and number types of a checkpoint's tensors, read from the heads of its files. No torch.

safetensors files begin with them as JSON. PyTorch's files hold them in a pickle, of which nothing is run here: each
class and function that it names becomes a record of its name, and anything but the few that a table of tensors needs
is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hpc_embed.errors import EnvironmentFault, in_one_line

LONGEST_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
FLOATS = ("F64", "F32", "F16", "BF16")
"""Numbers that weights are; others are indices, or quantised."""
NUMBERS_OF_STORAGE = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""PyTorch's storages, by the names that safetensors has for their numbers."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file that torch wrote before version 1.6, which is no zip archive."""


class TensorFacts(NamedTuple):
    """What a file's head tells of one tensor."""

    numbers: str
    """As safetensors names them: F32, BF16, I8, F8_E4M3 …"""
    size: tuple[int, ...]


FAULTS = (
    *(EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, StopIteration, RecursionError),
    *(MemoryError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What reading raises of a file that is none of ours."""
PREFIXES = ("module.", "esm.", "esmc.", "bert.", "model.")
OLD_NAMES = (
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
    (re.compile(r"\b(layer_norm|fc1|fc2)_(weight|bias)$"), r"\1.\2"),  # TransformerEngine's
)


def plain_name(name: str) -> str:
    """A tensor's name without PREFIXES, and with weight and bias as torch names them."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    for old, new in OLD_NAMES:
        name = old.sub(new, name)
    return name


def is_zip(path: Path) -> bool:
    """True for a PyTorch file of version 1.6 and later."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def tensors_of(path: Path) -> dict[str, TensorFacts]:
    """Facts by name; EnvironmentFault for a file that is cut short, or is no file of tensors."""
    try:
        return _of_safetensors(path) if path.suffix == ".safetensors" else _of_pickle(path)
    except (OSError, *FAULTS) as error:
        raise EnvironmentFault(
            f"{path}: cannot be read as tensors ({in_one_line(error)}).", remedy="Fetch the checkpoint again."
        ) from error


def _of_safetensors(path: Path) -> dict[str, TensorFacts]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > LONGEST_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
        num_bytes = file.seek(0, 2) - 8 - length
    header.pop("__metadata__", None)
    if any(entry["data_offsets"][1] > num_bytes for entry in header.values()):
        raise ValueError("cut short")
    return {name: TensorFacts(str(entry["dtype"]), tuple(entry["shape"])) for name, entry in header.items()}


def _of_pickle(path: Path) -> dict[str, TensorFacts]:
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as file:
                content = _Inert(file).load()
    else:
        with path.open("rb") as file:
            if _Inert(file).load() != LEGACY_MAGIC:
                raise pickle.UnpicklingError("not written by torch")
            _Inert(file).load()  # the protocol's version
            _Inert(file).load()  # the machine that wrote it
            content = _Inert(file).load()
    return dict(_tensors_in(content))


def _tensors_in(content: object) -> Iterator[tuple[str, TensorFacts]]:
    """Those of a state dict, or of one under a key of its own, as training loops save it."""
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"holds a {type(content).__name__}, not tensors by name")
    for name, value in content.items():
        if isinstance(value, _Tensor):
            yield str(name), TensorFacts(value.numbers, value.size)


class _Tensor(NamedTuple):
    numbers: str
    size: tuple[int, ...]


class _Named(NamedTuple):
    """A class or function that a pickle names; called, it is what its arguments tell of a tensor."""

    module: str
    name: str

    def __call__(self, *arguments: Any) -> object:
        if self.name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _Tensor(str(arguments[0]), tuple(int(number) for number in arguments[2]))
        if self.name == "_rebuild_parameter":
            return arguments[0]
        raise pickle.UnpicklingError(f"calls {self.module}.{self.name}")


class _Inert(pickle.Unpickler):
    """Reads a pickle without running anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        """Ordered dictionaries as they are; all else by name alone."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module.partition(".")[0] == "torch":
            return _Named(module, name)
        raise pickle.UnpicklingError(f"names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """A storage: its numbers."""
        storage = pid[1]
        if not isinstance(storage, _Named):
            raise pickle.UnpicklingError("a storage of no known kind")
        return NUMBERS_OF_STORAGE.get(storage.name, storage.name)
