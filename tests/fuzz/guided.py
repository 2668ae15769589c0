"""`make fuzz`: a fuzzer led by coverage in front of every reader, each in a process of its own.

python -m tests.fuzz.guided [--cases 100000] [READER …]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hpc_embed"]):
    from hpc_embed.run import faults
    from tests.fuzz.parsers import NAMES, parsers

LONGEST_SECONDS, MOST_MEBIBYTES = 10, 4096
"""Of one case; more is a hang, or a bomb."""


def main() -> int:
    """The number of readers that failed; what each failed on stays in the folder that is told."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz.guided")
    options.add_argument("readers", nargs="*", default=NAMES)
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.inside is not None:
        fuzz(chosen.readers[0], chosen.cases, chosen.inside)
    return sum(not is_sound(name, chosen.cases) for name in chosen.readers)


def is_sound(name: str, num_cases: int) -> bool:
    """True where no case made the reader fail."""
    folder, started = Path(tempfile.mkdtemp(prefix="fuzz-")), time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.guided", name, "--cases", str(num_cases), "--inside", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = f"{num_cases:,} cases in {time.monotonic() - started:.0f} s"
    print(f"{name}: {took}" if done.returncode == 0 else f"{name}: FAILED, see {folder}\n{done.stderr}", flush=True)
    return done.returncode == 0


def fuzz(name: str, num_cases: int, folder: Path) -> None:
    """In this process, which ends with it."""
    faults.PAUSES_SECONDS = ()
    parser = parsers(folder / "files")[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "sample").write_bytes(parser.sample)
    limits = [f"-timeout={LONGEST_SECONDS}", f"-rss_limit_mb={MOST_MEBIBYTES}", f"-artifact_prefix={folder}/"]
    atheris.Setup([name, str(corpus), f"-runs={num_cases}", "-max_len=65536", *limits], parser.read)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
