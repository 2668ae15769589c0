"""A real Apptainer and a real image, built once from the definition on a local base."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.slurm.conftest import cluster, whole_cluster  # noqa: F401  the image is tried on the same Slurm

PREFIX = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hpc-embed/apptainer"
PROGRAM = PREFIX / "root/usr/bin/apptainer"
BUILD = f"unshare --user --map-root-user {PROGRAM} build"
REQUIRED = "HPC_EMBED_REQUIRE_APPTAINER"
"""Set by continuous integration: there a missing Apptainer is a failure and no reason to skip."""
SOURCES = ("hpc_embed", "container", "pyproject.toml")

Apptainer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def apptainer() -> Apptainer:
    """`apptainer("run", image, …)`: run without privileges, the exit code checked."""
    if not PROGRAM.exists() or not (PREFIX / "base").is_dir():
        reason = "needs Apptainer and a base, which .ci/install-apptainer.sh installs"
        assert not os.environ.get(REQUIRED), reason
        pytest.skip(reason)
    os.environ["APPTAINER_USERNS"] = "1"
    os.environ["PATH"] = f"{PROGRAM.parent}:{os.environ['PATH']}"

    def call(
        *arguments: object,
        code: int = 0,
        env: dict[str, str] | None = None,
        cwd: object = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | (env or {})
        done = subprocess.run(
            [str(PROGRAM), *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=str(cwd or "/tmp"),
            input=stdin,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture(scope="session")
def image(apptainer: Apptainer) -> Path:
    """A sandbox of the definition with the CPU lock, kept for the next session as long as nothing changes."""
    digest = hashlib.sha256()
    for source in SOURCES:
        for path in sorted([REPOSITORY / source, *(REPOSITORY / source).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.read_bytes())
    sandbox = PREFIX / f"image-{digest.hexdigest()[:16]}"
    if not (sandbox / "built").exists():
        for stale in PREFIX.glob("image-*"):
            shutil.rmtree(stale)
        sandbox.mkdir(parents=True)
        environment = {
            **os.environ,
            "SANDBOX": "1",
            "LOCK": "lock-cpu.txt",
            "BOOTSTRAP": "localimage",
            "BASE": str(PREFIX / "base"),
            "WHEELS": str(PREFIX / "wheels"),
            "APPTAINER_BUILD": BUILD,
            "PYTHON": sys.executable,
        }
        done = subprocess.run(
            ["bash", str(REPOSITORY / "container/build.sh"), str(sandbox / "root")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print("\n" + done.stdout.strip().splitlines()[-1])
        (sandbox / "built").write_text(done.stdout + done.stderr)
    return sandbox / "root"
