"""Imports go downwards only, and torch stays where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hpc_embed

PACKAGE = Path(hpc_embed.__file__).parent
LAYERS = (
    (
        "errors",
        "model",
        "families",
        "registry",
        "config",
        "flags",
        "memory",
        "progress",
        "screen",
        "units",
        "sequences",
        "__init__",
    ),
    ("checkpoints",),
    ("run",),
    ("planning",),
    ("engine",),
    ("workers",),
    ("cluster", "results"),
    ("reading", "report"),
    ("commands",),
    ("catalogue",),
    ("arguments", "completion", "cli"),
    ("__main__", "api"),
)
"""From the ground up. A module may import its own layer and those below."""
FORBIDDEN = ("pickle.load", "eval(", "exec(", "trust_remote_code", "shell=True", "os.system", "weights_only=False")
MAY_IMPORT_TORCH = ("engine", "workers")
MAKES_TORCH_SETS = "hpc_embed.reading.torch_sets"
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(module: str) -> int:
    """The layer of `hpc_embed.a.b`."""
    part = module.split(".")[1] if "." in module else "__init__"
    return next(number for number, names in enumerate(LAYERS) if part in names)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards_only(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # the face of the package: what others take from it, it imports once they do
    ours = place(name_of(path))
    upwards = {name for name in imports(path) if name.startswith("hpc_embed") and place(name) > ours}
    assert not upwards


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_engine_and_the_workers_name_torch(path: Path) -> None:
    may = name_of(path).split(".")[1:2] in [[name] for name in MAY_IMPORT_TORCH] or name_of(path) == MAKES_TORCH_SETS
    if not may:
        heavy = {name for name in imports(path) if name.split(".")[0] in ("torch", "transformers", "tokenizers")}
        assert not heavy


@pytest.mark.parametrize(
    "module",
    [
        *("cli", "planning.planner", "cluster.task", "results.gather"),
        *("report.page", "workers.transformer", "reading.dataset"),
    ],
)
def test_what_runs_on_a_login_node_does_not_load_torch(module: str) -> None:
    code = f"import sys, hpc_embed.{module}; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_package_itself_loads_next_to_nothing() -> None:
    code = (
        "import sys, hpc_embed; print({'numpy', 'pyarrow', 'torch'} & {*sys.modules}, hpc_embed.open_dataset.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() open_dataset"


def test_no_module_is_longer_than_350_lines() -> None:
    assert {
        path.name: len(path.read_text().splitlines()) for path in MODULES if len(path.read_text().splitlines()) > 350
    } == {}


def test_parquet_is_written_in_one_room() -> None:
    writing = ("pq.ParquetWriter(", "pq.write_table(", "dataset.write_dataset", "store_schema")
    assert {path.name for path in MODULES if any(word in path.read_text() for word in writing)} == {"parquet.py"}


def test_nothing_pickles_evaluates_or_trusts_remote_code() -> None:
    for path in MODULES:
        text = path.read_text()
        for forbidden in FORBIDDEN:
            assert forbidden not in text, (path, forbidden)
