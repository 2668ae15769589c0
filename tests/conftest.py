"""What all tests share: small real inputs and a way to run the command line as a user does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the hub
os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs with `&` ignore ^C

REPOSITORY = Path(__file__).resolve().parent.parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def globins() -> Path:
    """45 globins, small enough for a transformer on one core."""
    return REPOSITORY / "examples" / "globins45.fasta"


@pytest.fixture(scope="session")
def lambda_phage() -> Path:
    """One record of 48,502 bases."""
    return REPOSITORY / "examples" / "lambda_phage.fasta"


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """`run("plan", "x.fasta", code=3)`: the command in an empty folder, its exit code checked."""
    if "MUTANT_UNDER_TEST" in os.environ:
        pytest.skip("mutmut follows no command into another process")
    makes_no_report = request.path.parent.name != "report"

    def call(*arguments: object, code: int = 0, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hpc_embed", *map(str, arguments)]
        if makes_no_report and arguments[:1] in (("local",), ("gather",)):
            command.append("--no-report")  # a second each
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **options.pop("env", {})}  # type: ignore[dict-item]
        keywords = {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment, **options}
        done = subprocess.run(command, **keywords)  # type: ignore[call-overload]
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert isinstance(done, subprocess.CompletedProcess)
        return done

    return call
