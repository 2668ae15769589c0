"""What can be said of the default image without network: its base cannot be fetched here."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY

CONTAINER = REPOSITORY / "container"
DEFINITION = (CONTAINER / "Apptainer.def").read_text()
CONSTRAINTS = dict(
    line.strip().lower().replace("_", "-").split("==")
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    if "==" in line
)


def locked(name: str) -> dict[str, str]:
    """Versions by package."""
    return dict(re.findall(r"^([a-z0-9_.-]+)==([^ ]+)", (CONTAINER / name).read_text(), flags=re.M))


def test_the_default_base_is_a_slim_python_of_one_minor_version() -> None:
    assert "BOOTSTRAP=docker" in DEFINITION
    assert re.search(r"BASE=python:3\.11-slim-bookworm\n", DEFINITION)
    assert DEFINITION.startswith("Bootstrap: {{ BOOTSTRAP }}\nFrom: {{ BASE }}\n")


def test_everything_is_installed_from_the_lock_with_hashes_and_no_index() -> None:
    installs = re.findall(r"pip install((?:.|\\\n)*?)\n(?! )", DEFINITION.replace("\\\n", ""))
    assert DEFINITION.count("pip install") == DEFINITION.count("--no-index")
    assert "--require-hashes" in DEFINITION
    assert installs is not None


@pytest.mark.parametrize("name", ["lock-cpu.txt", "lock-cuda.txt"])
def test_every_line_of_a_lock_has_its_version_and_hashes(name: str) -> None:
    entries = re.split(r"\n(?=[a-z])", (CONTAINER / name).read_text().split("\n", 2)[2])
    for entry in entries:
        assert re.match(r"[a-z0-9_.-]+==[^ ]+ \\\n +--hash=sha256:[0-9a-f]{64}", entry), entry[:80]
    assert len(entries) > 40


@pytest.mark.parametrize("name", ["lock-cpu.txt", "lock-cuda.txt"])
def test_locks_agree_with_the_constraints(name: str) -> None:
    for package, version in locked(name).items():
        if package in CONSTRAINTS:
            assert version.removesuffix("+cpu") == CONSTRAINTS[package], package


def test_the_cuda_lock_brings_cuda_and_the_cpu_lock_does_not() -> None:
    assert "nvidia-cublas" in locked("lock-cuda.txt")
    assert not [package for package in locked("lock-cpu.txt") if package.startswith("nvidia")]
    assert locked("lock-cpu.txt")["torch"].endswith("+cpu")


def test_weights_stay_outside_and_the_callers_python_too() -> None:
    assert "HF_HOME=" not in DEFINITION
    for line in (
        "export PYTHONNOUSERSITE=1",
        "export PYTHONSAFEPATH=1",
        "export PYTHONPATH= PYTHONHOME=",
        'exec hpc-embed "$@"',
    ):
        assert line in DEFINITION


def test_shell_scripts_stop_at_the_first_error() -> None:
    for script in [*REPOSITORY.glob("*/*.sh"), *REPOSITORY.glob(".ci/*.sh")]:
        assert "set -euo pipefail" in script.read_text(), script
