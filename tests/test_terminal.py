"""How the commands behave on a terminal of 80 columns, in a pipe, in a log, and for a script."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from hpc_embed.catalogue import COMMANDS, Command
from hpc_embed.cli import EXAMPLES, main, make_parser
from hpc_embed.cluster.site import Finding
from hpc_embed.commands import doctor
from hpc_embed.commands.printing import table_text
from hpc_embed.progress import SECONDS_BETWEEN_LINES, Lines, be_quiet, counting
from hpc_embed.screen import fitted
from hpc_embed.units import format_bytes, format_seconds
from hpc_embed.workers import verification
from hpc_embed.workers.verification import Agreement
from tests.conftest import REPOSITORY, Run

UNTRAINED = "esm2_t6_8M:untrained"
RESULTS = [
    "plan in.fasta",
    "local in.fasta --no-report",
    "run-task",
    "status",
    "gather --no-report",
    "gather --check",
    "export --to tsv",
    "submit --print-script",
    "report",
    "models",
    f"verify {UNTRAINED}",
    "doctor",
]
"""Every command that needs no Slurm and no network, in an order in which each finds what it needs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("terminal")
    (path / "in.fasta").write_text(">a\nMKVLAAGIVG\n>b\nMKV\n")
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COLUMNS", raising=False)
    yield
    be_quiet(False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings that take seconds, and are tested elsewhere: of devices, and of a verified model."""
    cpu = "AMD EPYC, BF16 instructions, attention kernel for AVX-512 with BF16, products by oneDNN"
    found = [Agreement("fp32", "kernel", 2.9e-06, 3.7e-13), Agreement("bf16", "flash_attention", 1.2e-02, 9.5e-06)]
    monkeypatch.setattr(doctor, "_devices", lambda: [Finding("cpu", True, cpu)])
    monkeypatch.setattr(verification, "verify", lambda *_: (f"cpu ({cpu})", found))


def widest(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def on_terminal(folder: Path, *arguments: str, **environment: str) -> str:
    """What a command shows on a terminal of 80 columns."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "hpc_embed", *arguments]
    usual = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        command, stdout=follower, stderr=follower, env=usual | environment, cwd=folder, stdin=subprocess.DEVNULL
    )
    os.close(follower)
    shown = b""
    try:
        while read := os.read(leader, 65536):
            shown += read
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_without_arguments_a_screen_with_three_examples(run: Run) -> None:
    shown = run(code=2).stdout
    assert widest(shown) <= 80
    assert len(shown.splitlines()) <= 23, "and the prompt below it"
    assert EXAMPLES.count("  hpc-embed ") == 3
    assert EXAMPLES in shown


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_fits_80_columns(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = make_parser(command).format_help()
    assert widest(shown) <= 80
    assert not re.findall(r"[a-z] {3,}[a-z]+", shown), "lines of a docstring are joined by one blank"


@pytest.mark.parametrize("line", RESULTS)
def test_what_a_command_prints_fits_80_columns(
    line: str, here: None, quick: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(line.split()) == 0
    shown = capfd.readouterr()
    assert shown.out
    assert not set("\r\033") & set(shown.out + shown.err)
    if "script" not in line:
        long = [each for each in shown.out.splitlines() if len(each) > 80 and not re.search(r"\S{60}", each)]
        assert long == [], "but for a fingerprint"
    assert widest(shown.err) <= 80


@pytest.mark.parametrize("line", RESULTS)
def test_json_is_one_document_on_standard_output(
    line: str, here: None, quick: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*line.split(), "--json", "--quiet"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)
    assert shown.err == "", "--quiet leaves the result alone"


def test_quiet_keeps_errors_and_results(here: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "no.fasta", "--quiet"]) == 3
    assert capfd.readouterr().err.startswith("hpc-embed: no.fasta: no such file.")
    assert main(["local", "in.fasta", "--run-dir", "quiet", "--no-report", "--quiet"]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("2 records: 2 embedded")
    assert shown.err == ""


def test_a_long_row_is_folded_at_the_width_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("shard-00000", "failed", "3 tries: " + "no such letter " * 9)]
    monkeypatch.delenv("COLUMNS", raising=False)
    whole = table_text(("shard", "state", "reason"), rows, StringIO())
    monkeypatch.setenv("COLUMNS", "60")
    folded = table_text(("shard", "state", "reason"), rows, StringIO())
    assert whole.splitlines()[1].split("  ")[-1] == rows[0][-1].strip()
    assert widest(folded) <= 60 < widest(whole)
    assert folded.split() == whole.split()
    assert fitted("a word " * 20, StringIO()).splitlines()[1].startswith("  word")


def test_a_terminal_gets_a_bar_and_notes(folder: Path) -> None:
    shown = on_terminal(folder, "local", "in.fasta", "--run-dir", "bar", "--no-report")
    assert re.search(r"embedding .*━", shown)
    assert "residues" in shown
    assert "\033[3" in shown, "in colour"
    assert "2 records: 2 embedded" in shown
    drawn = [re.sub(r"\033\[[?\d;]*[a-zA-Z]", "", line) for line in re.split("[\r\n]+", shown)]
    assert max(map(len, drawn)) <= 80


def test_no_color_and_quiet_on_a_terminal(folder: Path) -> None:
    plain = on_terminal(folder, "local", "in.fasta", "--run-dir", "plain", "--no-report", NO_COLOR="1")
    assert "━" in plain
    assert not re.search(r"\033\[[\d;]*m", re.sub(r"\033\[[01]?m", "", plain)), "no colour"
    assert "\033" not in on_terminal(folder, "models", NO_COLOR="1")
    quiet = on_terminal(folder, "local", "in.fasta", "--run-dir", "quiet-bar", "--no-report", "--quiet")
    assert "\033" not in quiet
    assert quiet.startswith("2 records")


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert SECONDS_BETWEEN_LINES == 60
    now = time.monotonic()
    with counting("embedding", 400, "residues") as count:
        assert isinstance(count, Lines)
        count.started = now - 61
        count.advance(100)
        assert capsys.readouterr().err == "", "not a minute yet"
        count.printed = now - 61
        count.advance(100, "9 tokens/s")
        count.advance(100)
    assert capsys.readouterr().err == "embedding: 200 of 400 residues (50%), 61 s left, 9 tokens/s\n"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        *[(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (3.2 * 2**30, "3.2 GiB"), (24 * 2**30, "24 GiB")],
        *[(1023.9 * 2**20, "1.0 GiB"), (5000 * 2**40, "5,000 TiB")],
    ],
)
def test_sizes(size: float, words: str) -> None:
    assert format_bytes(size) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0.0, "less than 0.1 s"), (0.42, "0.4 s"), (45, "45 s"), (89, "89 s"), (720, "12 min")],
        *[(4320, "1 h 12 min"), (3599, "1 h 00 min"), (10_900, "3 h 02 min"), (190_000, "2 d 05 h")],
    ],
)
def test_times(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words
