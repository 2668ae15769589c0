"""What all tests share: small real inputs and a way to run the command line as a user does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hpc_embed.run.layout import RunLayout
    from hpc_embed.run.plan import Plan

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the hub
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HPC_EMBED_CACHE", tempfile.mkdtemp(prefix="hpc-embed-cache-"))  # proofs of the tests' own
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


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two shards that are embedded, none gathered."""
    from tests.torture.small_run import SmallRun, on
    from tests.torture.storage import FaultyStorage

    small = SmallRun(tmp_path_factory.mktemp("embedded"))
    with on(FaultyStorage(tmp_path_factory.mktemp("graveyard")), small):
        small.embed()
    return small.layout.root


@pytest.fixture
def done(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, RunLayout]:
    """A copy of that run; no pause between tries to read it."""
    from hpc_embed.run import faults
    from hpc_embed.run.layout import RunLayout
    from hpc_embed.run.plan import read_plan

    monkeypatch.setattr(faults, "PAUSES_SECONDS", (0.0, 0.0))
    layout = RunLayout(shutil.copytree(embedded, tmp_path / "run"))
    return read_plan(layout.plan), layout
