"""The command line as its users meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hpc_embed.cli import COMMANDS, Command, make_parser, normalise
from tests.conftest import REPOSITORY, Run

FASTA = ">a\nMKVLAAGIVG\n>b\nMKV\n"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text(FASTA)
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_of_every_command_has_help_and_dashes(command: Command, run: Run) -> None:
    text = run(command.name, "--help").stdout
    assert text.startswith(f"usage: hpc-embed {command.name}")
    for kind in command.settings:
        assert kind.__doc__
        for field in fields(kind):
            assert f"--{field.name.replace('_', '-')} " in text
    for action in make_parser(command)._actions:
        assert action.help, action.dest


def test_help_never_loads_torch_and_lists_every_command(run: Run) -> None:
    text = run("--help").stdout
    assert all(f"  {command.name} " in text for command in COMMANDS)


def test_no_command_prints_the_overview_and_is_a_usage_error(run: Run) -> None:
    assert "COMMAND" in run(code=2).stdout


def test_version(run: Run) -> None:
    assert run("--version").stdout == "hpc-embed 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "normal"),
    [
        (["a.fa", "--run-dir", "r", "b.fa"], ["--run_dir", "r", '--fasta=["a.fa", "b.fa"]']),
        (["--run_dir=r-1", "-"], ["--run_dir=r-1", '--fasta=["-"]']),
        (["--force-kind", "a.fa"], ["--force_kind=true", '--fasta=["a.fa"]']),
        (["--no-json", "a.fa"], ["--json=false", '--fasta=["a.fa"]']),
        (["--", "--odd.fa"], ['--fasta=["--odd.fa"]']),
        (["--fasta", "a b.fa"], ['--fasta=["a b.fa"]']),
        ([], []),
    ],
)
def test_files_stand_anywhere_and_dashes_are_underscores(arguments: list[str], normal: list[str]) -> None:
    command = COMMANDS[0]
    assert normalise(make_parser(command), command, arguments) == normal


def test_a_bare_plan_reads_its_settings_from_the_working_folder(run: Run, fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "hpc-embed.yaml").write_text("fasta: in.fasta\nrun-dir: here\nworkers: 1\nnum_shards: 1\n")
    run("plan")
    assert json.loads((tmp_path / "here" / "plan.json").read_text())["model"]["name"] == "aa_composition"
    assert "1 missing" in run("status").stdout
    run("run-task")
    assert "2 embedded" in run("gather").stdout


def test_flags_beat_config_and_config_beats_the_settings_file(run: Run, fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "hpc-embed.yaml").write_text("layer: 1\nprecision: fp32\npooling: cls\n")
    (tmp_path / "mine.yaml").write_text("layer: 2\nprecision: bf16\n")
    printed = run("plan", "--config", "mine.yaml", "--layer", "3", "--print_config").stdout
    assert "layer: 3" in printed
    assert "precision: bf16" in printed
    assert "pooling: cls" in printed


def test_json_is_one_document(run: Run, fasta: Path) -> None:
    assert json.loads(run("plan", fasta, "--json").stdout)["totals"]["num_records"] == 2
    assert json.loads(run("local", fasta, "--json").stdout)["statuses"] == {"embedded": 2}
    assert json.loads(run("status", "--json").stdout)["is_gathered"] is True
    assert len(json.loads(run("models", "--json").stdout)) >= 10
    assert json.loads(run("doctor", "--json").stdout)[0]["what"] == "hpc-embed"


def test_a_closed_pipe_is_no_error(fasta: Path) -> None:
    command = f"{sys.executable} -m hpc_embed models | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_traceback_comes_on_request_only(run: Run, tmp_path: Path) -> None:
    assert "Traceback" not in run("plan", "no.fa", code=3).stderr
    assert "Traceback" in run("plan", "no.fa", code=3, env={"HPC_EMBED_TRACEBACK": "1"}).stderr


def test_progress_is_a_bar_on_a_terminal(run: Run, fasta: Path, tmp_path: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpc_embed", "local", str(fasta), "--run-dir", str(tmp_path / "r")],
        stderr=follower,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:
            break
        if not read:
            break
        shown += read
    out, _ = process.communicate()
    os.close(leader)
    assert process.returncode == 0
    assert b"embedding" in shown
    assert b"residues" in shown
    assert b"dataset" in out
