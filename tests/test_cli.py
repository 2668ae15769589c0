"""The command line as its users meet it."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hpc_embed import cli
from hpc_embed.catalogue import COMMANDS, Command, find_command
from hpc_embed.cli import make_parser
from tests.conftest import Run

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
    assert "null" not in text
    assert "type:" not in text
    for kind in command.settings:
        assert kind.__doc__
        for field in fields(kind):
            assert re.search(rf"--{field.name.replace('_', '-')}\b", text)
    for action in make_parser(command)._actions:
        assert action.help, action.dest


def test_help_tells_defaults_and_leaves_options_whole(run: Run) -> None:
    text = run("submit", "--help").stdout
    for told in ("[default: 0]", "[default: 1]", "[default: 240]", "[default: embed-run]"):
        assert told in text
    assert "--translate {six-frames,longest-orf}" in run("plan", "--help").stdout
    assert "--no-\n" not in text
    assert "False" not in text


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
        (["a.fa", "--run-dir", "r", "b.fa"], ["--run-dir=r", '--fasta=["a.fa", "b.fa"]']),
        (["--run_dir=r_1", "-"], ["--run-dir=r_1", '--fasta=["-"]']),
        (["--force_kind", "a.fa"], ["--force-kind", '--fasta=["a.fa"]']),
        (["--no-json", "a.fa"], ["--no-json", '--fasta=["a.fa"]']),
        (["a.fa", "--", "--odd.fa"], ['--fasta=["a.fa", "--odd.fa"]']),
        (["a.fa", "--fasta", "b c.fa", "--fasta=d.fa"], ['--fasta=["a.fa", "b c.fa", "d.fa"]']),
        (["--layer", "-1,0", "a.fa"], ["--layer=-1,0", '--fasta=["a.fa"]']),
        (["--print_config", "a.fa"], ["--print-config", '--fasta=["a.fa"]']),
        ([], []),
    ],
)
def test_files_stand_anywhere_and_dashes_are_underscores(arguments: list[str], normal: list[str]) -> None:
    parser = make_parser(COMMANDS[0])
    assert parser.normalise(arguments) == normal
    parser.parse_line([argument for argument in arguments if "print" not in argument])


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


def test_a_bool_is_a_flag_with_a_twin(run: Run, tmp_path: Path) -> None:
    parser = make_parser(find_command("submit"))
    assert parser.parse_line([]).gather is True
    assert (
        parser.parse_line(["--no-gather", "--retry_failed", "--json"]).as_dict().items()
        >= {
            "gather": False,
            "retry_failed": True,
            "json": True,
        }.items()
    )
    (tmp_path / "hpc-embed.yaml").write_text("json: true\n")
    assert run("models").stdout.startswith("[")
    assert run("models", "--no-json").stdout.startswith("name")


def test_a_closed_pipe_is_no_error(fasta: Path) -> None:
    command = f"{sys.executable} -m hpc_embed models | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_does_not_hide_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_damage(*_: object) -> int:
        print("damaged")
        return 6

    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(cli, "run_command", find_damage)
        assert cli.main(["models"]) == 6


def test_a_run_whose_news_nobody_reads_goes_on_to_its_end(fasta: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m hpc_embed local {fasta} --run-dir {tmp_path}/run 2>&1 | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "dataset.json").exists()


@pytest.mark.parametrize("to", ["a reader", "a file", "no file"])
def test_another_closed_pipe_is_not_taken_for_success(
    to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_off(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as pipe, (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", {"a reader": pipe, "a file": file, "no file": io.StringIO()}[to])
        monkeypatch.setattr(cli, "run_command", break_off)
        assert cli.main(["models"]) == 5
    assert capsys.readouterr().err.startswith("hpc-embed: Broken pipe.")


def test_a_traceback_comes_on_request_only(run: Run, tmp_path: Path) -> None:
    assert "Traceback" not in run("plan", "no.fa", code=3).stderr
    assert "Traceback" in run("plan", "no.fa", code=3, env={"HPC_EMBED_TRACEBACK": "1"}).stderr
