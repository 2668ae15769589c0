"""What a shell or a system may withhold: standard streams, threads, processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest

import hpc_embed
from hpc_embed import cli
from hpc_embed.errors import EnvironmentFault, is_at_the_limit
from tests.conftest import REPOSITORY

FASTA = ">a\nMKVLAAGIVG\n>b\nMKV\n"


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    path = tmp_path / "in.fasta"
    path.write_text(FASTA)
    return path


# ---- standard streams


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_streams_that_a_shell_has_closed_cost_no_run(closed: str, fasta: Path, tmp_path: Path) -> None:
    """Else the next file that is opened gets the number, and in it what processes print."""
    command = [sys.executable, "-m", "hpc_embed", "local", "in.fasta", "--workers", "1", "--no-report"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run(
        [*shell, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "bug" in done.stderr) == (0, False), done.stderr
    assert len(hpc_embed.open_dataset(tmp_path / "embed-run")) == 2
    texts = [path.read_bytes() for path in (tmp_path / "embed-run").rglob("*") if path.is_file()]
    assert not [text for text in texts if b"workers" in text or b"45 embedded" in text]


@pytest.mark.parametrize(("command", "code"), [("models", 0), ("nothing", 2)])
def test_no_command_minds_closed_streams(command: str, code: int, tmp_path: Path) -> None:
    words = ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", sys.executable, "-m", "hpc_embed", command]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert done.returncode == code


# ---- threads and processes


def no_thread(*_: object) -> NoReturn:
    raise RuntimeError("can't start new thread")


def no_process(*_: object) -> NoReturn:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize(("place", "fails"), [("Thread", no_thread), ("Process", no_process)])
def test_a_limit_of_threads_or_processes_is_named(
    place: str,
    fails: object,
    fasta: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if place == "Thread":
        monkeypatch.setattr(threading.Thread, "start", fails)
    else:
        monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", fails)
    code = cli.main(["local", str(fasta), "--run-dir", str(tmp_path / "run"), "--workers", "1", "--no-report"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 5
    assert re.fullmatch(r"hpc-embed: this user may start no more processes or threads here \(`ulimit -u`\)\. .*", last)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("other"), BlockingIOError(errno.EAGAIN, "busy", "/a/file"), OSError(errno.EIO, "Input/output error")],
)
def test_other_errors_are_no_such_limit(error: Exception) -> None:
    assert not is_at_the_limit(error)


def embed_and_tell(results: multiprocessing.Queue[str]) -> None:
    try:
        hpc_embed.embed(["MKV"], workers=1)
    except EnvironmentFault as error:
        results.put(str(error))


def test_a_daemonic_process_is_told_that_it_can_have_no_workers() -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=embed_and_tell, args=(results,), daemon=True)
    process.start()
    assert "workers cannot be started from a daemonic process" in results.get(timeout=60)
    process.join()
