"""`make readers`: every Parquet file that we write, opened by readers of many ages, each in an environment of its own;
and the dataset as we ourselves write it on each pyarrow that we run on.

Prints a line for each reader and version, with a column for each file, and ends with 1 where one cannot read what it
should. Environments stay in ./.readers. R's arrow and Julia's Parquet are left out: no package index that this runs
against has them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pyarrow_here
import pyarrow.parquet as pq

from tests.readers.written import plain, write_for_readers

HERE = Path(__file__).parent
HOME = Path(".readers")
OLD_NUMPY = "numpy<2"
OURS = "we write"
WE_RUN_ON = 17
"""The oldest pyarrow, as pyproject.toml has it."""


class Reader(NamedTuple):
    """What opens the files, and what has to be installed for it."""

    name: str
    version: str
    packages: tuple[str, ...]

    @property
    def environment(self) -> Path:
        """Its folder."""
        return HOME.resolve() / f"{self.name}-{self.version}"


def pyarrow(version: str, numpy: str = "numpy") -> Reader:
    return Reader("pyarrow", version, (f"pyarrow=={version}", numpy))


READERS = (
    *(pyarrow(version, OLD_NUMPY) for version in ("14.0.2", "15.0.2")),
    *(pyarrow(version) for version in ("16.1.0", "17.0.0", "18.1.0", "19.0.1", "20.0.0", "21.0.0")),
    *(pyarrow(version) for version in ("22.0.0", "23.0.1", "24.0.0", "25.0.1", "26.0.1")),
    Reader("pandas", "2.0.3", ("pandas==2.0.3", "pyarrow==14.0.2", OLD_NUMPY)),
    Reader("pandas", "2.3.3", ("pandas==2.3.3", "pyarrow==19.0.1")),
    Reader("pandas", "3.1.1", ("pandas==3.1.1", "pyarrow==26.0.1")),
    *(Reader("polars", version, (f"polars=={version}",)) for version in ("0.20.31", "1.0.0", "2.1.0")),
    *(Reader("duckdb", version, (f"duckdb=={version}",)) for version in ("0.10.3", "1.1.3", "2.0.0")),
    Reader("datasets", "2.21.0", ("datasets==2.21.0", "pyarrow==17.0.0", OLD_NUMPY)),
    Reader("datasets", "5.2.0", ("datasets==5.2.0", "pyarrow==26.0.1")),
    Reader("fastparquet", "2024.5.0", ("fastparquet==2024.5.0", "pandas<3", OLD_NUMPY)),
    Reader("fastparquet", "2026.9.0", ("fastparquet==2026.9.0",)),
    Reader("arro3", "newest", ("arro3-io", "arro3-core")),
    Reader("hyparquet", "newest", ("hyparquet", "hyparquet-compressors")),
)
"""arro3 reads with arrow-rs, as do DataFusion and delta-rs; hyparquet is JavaScript's."""
YOUNGER = "Parquet's float16 is younger"
NESTED = "it has no lists of lists"
CANNOT = {
    ("pyarrow", "14.0.2"): {"float16": YOUNGER},
    ("pandas", "2.0.3"): {"float16": YOUNGER},
    ("polars", "0.20.31"): {"float16": YOUNGER},
    ("polars", "1.0.0"): {"float16": YOUNGER},
    ("duckdb", "0.10.3"): {"float16": YOUNGER},
    ("duckdb", "1.1.3"): {"float16": YOUNGER},
    ("fastparquet", "2024.5.0"): {"float16": YOUNGER, "per token": NESTED},
    ("fastparquet", "2026.9.0"): {"float16": YOUNGER, "per token": NESTED},
}
"""What a reader never could, whoever wrote it."""


def main() -> int:
    """Print the table; 1 where a reader cannot read what it should."""
    (HOME / "files").mkdir(parents=True, exist_ok=True)
    kinds = [*write_for_readers(HOME / "files")]
    expected = json.loads((HOME / "files/expected.json").read_text())
    wanted = sys.argv[1:]
    problems: list[str] = []
    is_wrong = False
    print(f"{'':<22}" + "".join(f"{kind:<17}" for kind in [*kinds, OURS]))
    for reader in READERS:
        if wanted and reader.name not in wanted:
            continue
        found = read(reader)
        cells = []
        if reader.name == "pyarrow" and int(reader.version.split(".")[0]) >= WE_RUN_ON:
            found[OURS] = write(reader)
        for kind in [*kinds, *([OURS] if OURS in found else [])]:
            problem = problem_of(found.get(kind, found), expected["dataset" if kind == OURS else kind])
            reason = CANNOT.get((reader.name, reader.version), {}).get(kind)
            is_wrong |= bool(problem) and reason is None
            if problem:
                problems.append(f"{reader.name} {reader.version}, {kind}: {reason or problem}")
            cells.append("ok" if not problem else f"cannot [{len(problems)}]" if reason else f"FAILS [{len(problems)}]")
        print(f"{reader.name + ' ' + reader.version:<22}" + "".join(f"{cell:<17}" for cell in cells), flush=True)
    print(*(f"[{number}] {problem}" for number, problem in enumerate(problems, 1)), sep="\n")
    return int(is_wrong)


def read(reader: Reader) -> dict[str, Any]:
    """What it finds in each file, or why it cannot be tried."""
    files = (HOME / "files/files.json").resolve()
    try:
        if reader.name == "hyparquet":
            installed(reader, ["npm", "install", "--silent", "--no-fund", "--no-audit", *reader.packages])
            command = ["node", str(HERE / "reads.mjs"), str(files)]
        else:
            python = str(reader.environment / "venv/bin/python")
            pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--only-binary", ":all:"]
            installed(reader, [sys.executable, "-m", "venv", "--without-pip", "venv"], [*pip, *reader.packages])
            command = [python, "-I", str(HERE / "reads.py"), reader.name, str(files)]
        done = subprocess.run(command, cwd=reader.environment, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))
    except FileNotFoundError as error:
        return {"error": f"{error.filename} is not here"}
    except subprocess.CalledProcessError as error:
        return {"error": f"{Path(error.cmd[0]).name}: {(error.stderr or '').strip()[-200:]}"}


def write(reader: Reader) -> dict[str, Any]:
    """What is in the dataset that we write there."""
    run = HOME.resolve() / "files" / f"by {reader.version}"
    packages = str(Path(pyarrow_here.__file__).parents[1])
    script = [str(reader.environment / "venv/bin/python"), str(HERE / "writes.py"), packages, str(HERE.parents[1])]
    fasta = HOME.resolve() / "files/absent/in.fa"
    done = subprocess.run([*script, str(fasta), str(run)], capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip()[-200:]}
    table = pq.read_table(run / "dataset/part-00000.parquet")
    return {"columns": {name: plain(values) for name, values in table.to_pydict().items()}}


def installed(reader: Reader, *commands: list[str]) -> None:
    """Make an environment, unless it is there whole."""
    done = reader.environment / "installed"
    if done.exists() and done.read_text() == repr(reader.packages):
        return
    shutil.rmtree(reader.environment, ignore_errors=True)
    reader.environment.mkdir(parents=True)
    for command in commands:
        subprocess.run(command, cwd=reader.environment, capture_output=True, text=True, check=True)
    done.write_text(repr(reader.packages))


def problem_of(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Empty where a file was read as it is."""
    if "error" in found:
        return str(found["error"])
    other = [name for name in {*expected, *found["columns"]} if found["columns"].get(name) != expected.get(name)]
    return f"reads {', '.join(sorted(other))} otherwise" if other else ""


if __name__ == "__main__":
    sys.exit(main())
