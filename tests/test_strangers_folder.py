"""In a folder of somebody else's, whose Python files have the names of modules that everybody imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_embed.cluster.site import Finding
from hpc_embed.commands import doctor
from hpc_embed.errors import EnvironmentFault, cannot_import
from tests.cluster.conftest import Fakes, fakes  # noqa: F401
from tests.conftest import REPOSITORY

MODULES = (
    *("types", "random", "os", "io", "re", "json", "signal", "threading", "queue", "socket", "struct", "selectors"),
    *("sitecustomize", "usercustomize", "numpy", "torch", "pyarrow", "submitit", "yaml", "rich", "jsonargparse"),
    *("huggingface_hub", "Bio", "tokenizers", "safetensors", "transformers", "triton", "multiprocessing", "hpc_embed"),
)
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each of its modules leaves a witness where it is run."""
    folder = tmp_path / "strangers"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path)!r} + '/witness', 'a').write({name!r} + '\\n')\nraise SystemExit(99)\n"
        )
    (folder / "in.fasta").write_text(">a\nMKVLAAGIVG\n>b\nMKV\n")
    return folder


@pytest.fixture
def program(folder: Path, tmp_path: Path) -> Program:
    """The console script as pip makes it, run from that folder."""
    script = tmp_path / "installed" / "hpc-embed"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom hpc_embed.__main__ import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )

    def run(*arguments: str, by_module: bool = False, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        words = ["-m", "hpc_embed"] if by_module else [str(script)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **env}
        command = [sys.executable, *words, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert not (tmp_path / "witness").exists(), (tmp_path / "witness").read_text()
        assert done.returncode == code, done.stderr
        return done

    return run


def test_its_modules_are_run_by_a_python_that_nobody_holds_back(folder: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import random"], cwd=folder, check=False)
    assert (tmp_path / "witness").read_text()


def test_no_command_runs_them(program: Program) -> None:
    program("local", "in.fasta", "--workers", "1", "--no-report")
    program(
        "local", "in.fasta", "--model", "esm2_t6_8M:untrained", "--run-dir", "esm2", "--workers", "2", "--no-report"
    )
    program("doctor")
    program("gather", "--no-report")
    program("status")
    program("export")


def test_a_batch_script_that_is_submitted_there_runs_none_of_them(
    program: Program,
    folder: Path,
    fakes: Fakes,  # noqa: F811
) -> None:
    fakes.does("srun", 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"')
    program("plan", "in.fasta")
    program("submit", "--devices", "cpu", "--workers", "1")
    (folder / "job.sh").write_text(fakes.scripts()[0])
    ids = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **ids}
    done = subprocess.run(["bash", "job.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 shards finished" in done.stdout
    program("status")


def test_the_workers_of_a_script_run_none_of_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    script = tmp_path / "mine" / "script.py"
    script.write_text(
        "import hpc_embed, os\nhpc_embed.embed(['MKV'], workers=1)\nassert 'PYTHONSAFEPATH' not in os.environ\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, str(script)], cwd=folder, env=environment, check=True, capture_output=True)
    assert not (tmp_path / "witness").exists()


# ---- PYTHONPATH


def test_packages_of_another_python_are_named_as_the_cause(program: Program, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("numpy", "torch", "jsonargparse"):
        (other / name / name).mkdir(parents=True)
        (other / name / name / "__init__.py").write_text("raise ImportError('built for another Python\\nand so on')\n")
    for name, arguments in {
        "numpy": ("plan", "in.fasta", "--run-dir", "other"),
        "jsonargparse": ("--version",),
        "torch": ("local", "in.fasta", "--model", "esm2_t6_8M:untrained", "--workers", "1", "--run-dir", "third"),
    }.items():
        path = f"{REPOSITORY}:{other / name}"
        error = program(*arguments, code=5, PYTHONPATH=path).stderr.splitlines()[-1]
        assert f"ImportError: built for another Python. PYTHONPATH={path} stands before" in error
        assert "`unset PYTHONPATH`" in error


def test_doctor_names_a_pythonpath_and_its_empty_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for path in ("", "/a:/b", ":/a"):
        monkeypatch.setenv("PYTHONPATH", path)
        found[path] = list(doctor._pythonpath())
    well = Finding("PYTHONPATH", True, "/a:/b, before the packages of this Python: are they for it?")
    ill = Finding("PYTHONPATH", False, ":/a: its empty entry is the working folder, whose files Python runs")
    assert found == {"": [], "/a:/b": [well], ":/a": [ill]}


def test_without_a_pythonpath_it_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    fault = cannot_import(ImportError("libfoo.so: no such file"))
    assert isinstance(fault, EnvironmentFault)
    assert str(fault) == "ImportError: libfoo.so: no such file. Install hpc-embed anew, or try `hpc-embed doctor`."
