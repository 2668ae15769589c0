"""Real processes, killed at any moment: forked copies of a small run, and the whole command with its workers."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from hpc_embed.run import faults
from hpc_embed.run.canary import SEQUENCES as CANARIES
from hpc_embed.run.pieces import num_windows_in_pieces
from hpc_embed.workers import composition
from hpc_embed.workers.base import Tokens
from tests.torture.enumeration import Undisturbed
from tests.torture.small_run import SEQUENCES, WINDOWS_AT_STAKE, SmallRun

LONGEST_SECONDS = 60.0


class Killed(NamedTuple):
    """What was done to the runs."""

    num_kills: int
    num_runs: int
    num_computed: int
    """Windows, over all runs."""


def kill_forks(number: int, seed: int, truth: Undisturbed, folder: Path) -> Killed:
    """Fork, run, kill somewhere; when a run has ended by itself, compare it and begin another."""
    draw = random.Random(seed)
    num_kills = num_runs = total = kills_of_run = 0
    counter = mmap.mmap(-1, 8)
    run = _fresh(folder)
    seconds = 0.3
    while num_kills < number or num_runs == 0:
        finished_before = _num_in_pieces(run)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run_in_child(run, counter)
        time.sleep(draw.uniform(0, 1.3 * seconds))
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            num_kills, kills_of_run = num_kills + 1, kills_of_run + 1
            is_going_on = not run.layout.dataset.exists() and run.layout.work.exists()
            assert not is_going_on or _num_in_pieces(run) >= finished_before or _has_output(run)
            continue
        assert os.WEXITSTATUS(status) == 0
        seconds = min(seconds, time.monotonic() - started)
        assert run.dataset() == truth.dataset
        computed = struct.unpack("q", counter[:8])[0]
        assert len(SEQUENCES) <= computed <= len(SEQUENCES) + WINDOWS_AT_STAKE * kills_of_run
        num_runs, total, kills_of_run = num_runs + 1, total + computed, 0
        counter[:8] = bytes(8)
        run = _fresh(folder)
    return Killed(num_kills, num_runs, total)


def _fresh(folder: Path) -> SmallRun:
    shutil.rmtree(folder, ignore_errors=True)
    return SmallRun(folder)


def _num_in_pieces(run: SmallRun) -> int:
    folders = list(run.layout.work.glob("shard-*"))
    return sum(num_windows_in_pieces(folder) for folder in folders)


def _has_output(run: SmallRun) -> bool:
    return bool(list(run.layout.outputs.glob("*.parquet")))


def _run_in_child(run: SmallRun, counter: mmap.mmap) -> None:
    """Never returns."""
    start = composition._Composition.start

    def count(model: composition._Composition, batch: Sequence[Tokens]) -> object:
        windows = sum(len(tokens) != len(CANARIES["protein"]) for tokens in batch)
        counter[:8] = struct.pack("q", struct.unpack("q", counter[:8])[0] + windows)
        return start(model, batch)

    composition._Composition.start = count  # type: ignore[method-assign,assignment]
    faults.PAUSES_SECONDS = (0.0,)
    try:
        run.all_of_it()
        os._exit(0)
    except BaseException:
        traceback.print_exc()  # pytest shows it beside the assertion that fails by it
        os._exit(1)


def kill_commands(number: int, seed: int, folder: Path) -> Killed:
    """`hpc-embed local` with two workers: its parent or one of its children is killed, and the command repeated."""
    draw, num_kills, num_runs = random.Random(seed), 0, 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    records = [f">r{i}\n{''.join(draw.choices(letters, k=draw.randint(50, 400)))}\n" for i in range(3000)]
    (folder / "in.fa").write_text("".join(records))
    _command(folder, "whole").communicate()
    whole = _dataset(folder / "whole")
    while num_kills < number or num_runs == 0:
        process = _command(folder, "killed")
        time.sleep(draw.uniform(0.3, 3.0))
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            victims = family if draw.random() < 0.5 else [draw.choice(family)]
            for victim in victims:
                victim.kill()
            num_kills += process.poll() is None or process.returncode != 0
        except psutil.NoSuchProcess:
            pass
        _, error = process.communicate(timeout=LONGEST_SECONDS)
        assert "hpc-embed: a bug" not in error, error  # Python's own resource tracker complains of a killed parent
        if process.returncode == 0:
            assert _dataset(folder / "killed") == whole
            num_runs += 1
            shutil.rmtree(folder / "killed")
    return Killed(num_kills, num_runs, 0)


def _command(folder: Path, run_dir: str) -> subprocess.Popen[str]:
    options = ["--run-dir", run_dir, "--workers", "2", "--piece-seconds", "0.05", "--token-budget", "3000"]
    command = [sys.executable, "-m", "hpc_embed", "local", "in.fa", "--num-shards", "6", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def _dataset(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run_dir / "dataset").iterdir())}
