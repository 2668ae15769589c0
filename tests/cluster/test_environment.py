"""What of a shell's variables reaches the programs that we start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpc_embed.cluster import environment as module
from hpc_embed.cluster.environment import chosen_cluster, environment, with_defaults_of_the_shell
from hpc_embed.cluster.slurm import ask
from hpc_embed.config import SubmitSettings
from hpc_embed.errors import UsageError
from tests.cluster.conftest import Fakes

OURS = {"PATH": "/bin", "HOME": "/home/anna"}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is installed."""
    monkeypatch.setattr(sys, "path", ["/installed/bin", *sys.path])


@pytest.mark.parametrize(
    "name",
    [
        *("SBATCH_ARRAY_INX", "SBATCH_EXPORT", "SALLOC_ACCOUNT", "SRUN_CPUS_PER_TASK", "SQUEUE_USERS", "SACCT_FORMAT"),
        *("SCONTROL_ALL", "SCANCEL_NAME", "SINFO_FORMAT", "SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_TIME_FORMAT"),
        *("SLURM_UMASK", "SLURMD_NODENAME", "SLURM_EXPORT_ENV", "SPRIO_FORMAT", "SSHARE_FORMAT"),
    ],
)
def test_no_option_of_slurms_tools_is_taken_from_a_shell(name: str) -> None:
    assert environment({**OURS, name: "1"}) == {**OURS, "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(
    "name", ["SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SLURMISH", "MY_SBATCH_X", "LD_LIBRARY_PATH"]
)
def test_what_reaches_slurm_and_what_is_not_its_own_is_passed_on(name: str) -> None:
    assert environment({**OURS, name: "1"})[name] == "1"


def test_the_gpus_of_a_job_are_not_those_of_the_next_one() -> None:
    assert environment({**OURS, "CUDA_VISIBLE_DEVICES": "3"})["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in environment({**OURS, "CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7"})


def test_every_tool_is_asked_in_it(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_USERS", "root")
    monkeypatch.setenv("SLURM_CONF", "/etc/our.conf")
    fakes.does("squeue", "env")
    told = ask("squeue").splitlines()
    assert "SLURM_CONF=/etc/our.conf" in told
    assert "PYTHONSAFEPATH=1" in told
    assert not [line for line in told if line.startswith("SQUEUE_")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("/a:/b", "/a:/b"), (":/a", "/a"), ("/a:", "/a"), ("/a::/b", "/a:/b"), (":", None), ("", None)],
)
def test_an_empty_entry_of_pythonpath_is_the_working_folder_and_goes(given: str, expected: str | None) -> None:
    assert environment({**OURS, "PYTHONPATH": given}).get("PYTHONPATH") == expected


def test_a_checkout_that_is_not_installed_stays_within_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [module.HERE, *sys.path])
    assert environment({**OURS, "PYTHONPATH": "/a"})["PYTHONPATH"] == f"{module.HERE}:/a"
    monkeypatch.setattr(sys, "path", ["/elsewhere", module.HERE])
    assert "PYTHONPATH" not in environment(OURS)
    assert (Path(module.HERE) / "hpc_embed/__init__.py").exists()


# ---- defaults of a site


def test_who_pays_and_where_it_runs_is_taken_where_nobody_has_typed_it(capsys: pytest.CaptureFixture[str]) -> None:
    shell = {
        "SBATCH_ACCOUNT": "lab",
        "SBATCH_PARTITION": "gpu",
        "SBATCH_QOS": "long",
        "SBATCH_CONSTRAINT": "a100",
        "SBATCH_RESERVATION": "course",
        "SBATCH_WCKEY": "k",
    }
    taken = with_defaults_of_the_shell(SubmitSettings(), shell)
    options = {"reservation": "course", "wckey": "k"}
    assert taken == SubmitSettings(account="lab", partition="gpu", qos="long", constraint="a100", sbatch=options)
    told = ", ".join(f"{name}={value}" for name, value in sorted(shell.items()))
    assert capsys.readouterr().err == f"taken from the environment: {told}\n"
    typed = SubmitSettings(
        account="a", partition="b", qos="c", constraint="d", sbatch={"reservation": "e", "--wckey": "f"}
    )
    assert with_defaults_of_the_shell(typed, shell) == typed
    assert capsys.readouterr().err == ""


def test_what_would_break_a_script_is_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    shell = {"SBATCH_TIMELIMIT": "5", "SBATCH_ARRAY_INX": "0-2", "SBATCH_EXPORT": "", "SBATCH_CLUSTERS": "here"}
    assert with_defaults_of_the_shell(SubmitSettings(), shell) == SubmitSettings()
    assert capsys.readouterr().err == (
        "not taken from the environment: SBATCH_ARRAY_INX, SBATCH_TIMELIMIT; give options, or --sbatch, instead\n"
    )


@pytest.mark.parametrize("several", ["a,b", "all"])
def test_a_run_belongs_to_one_cluster(several: str) -> None:
    with pytest.raises(UsageError, match="a run belongs to one cluster"):
        with_defaults_of_the_shell(SubmitSettings(), {"SLURM_CLUSTERS": several})
    assert with_defaults_of_the_shell(SubmitSettings(), {"SLURM_CLUSTERS": "small"}) == SubmitSettings()


def test_the_cluster_of_sbatch_is_that_of_every_tool() -> None:
    shell = {"SBATCH_CLUSTERS": "b", "SLURM_CLUSTERS": "a"}
    assert (chosen_cluster(shell), environment(shell)["SLURM_CLUSTERS"]) == ("b", "b")
    assert chosen_cluster({}) == ""
