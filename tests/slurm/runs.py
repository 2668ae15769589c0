"""Runs on a cluster that something happens to, and what must come of them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import read_plan
from tests.conftest import Run
from tests.slurm.conftest import ANNA, Cluster, wait_for

DATABASE = Path("/usr/share/doc/mmseqs2/example-data/DB.fasta.gz")
ESM2 = ("--model", "esm2_t6_8M:untrained")
ON_CPU = ("--partition", "gpu", "--devices", "cpu", "--workers", 1)
OFTEN = ("--piece-seconds", "0.5", "--token-budget", 512)
Expected = Callable[[Path], NDArray[np.float32]]


def write_proteins(path: Path, number: int) -> Path:
    with gzip.open(DATABASE, "rt") as text:
        path.write_text("\n>".join(text.read().split("\n>")[:number]) + "\n")
    return path


def vectors(run_dir: Path) -> NDArray[np.float32]:
    table = pq.read_table(run_dir / "dataset")
    return np.stack(table["embedding"].to_numpy(zero_copy_only=False))


def pieces(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("work/*/piece-*.parquet"))


def logs(run_dir: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(run_dir.glob("logs/*/*.out")))


def wait_for_dataset(cluster: Cluster, run_dir: Path, seconds: float = 180, what: str = "") -> None:
    """Wait for the gather job's dataset; tell which share of the published windows was published twice."""
    seen: dict[Path, list[int]] = {}

    def is_gathered() -> bool:
        for path in set(pieces(run_dir)) - set(seen):
            with suppress(OSError):  # gone meanwhile: its shard is done
                seen[path] = pq.read_table(path, columns=["window"])["window"].to_pylist()
        return (run_dir / "dataset.json").exists() or not cluster.queue()

    wait_for(is_gathered, seconds)
    assert (run_dir / "dataset.json").exists(), logs(run_dir)
    if what:
        windows = [window for piece in seen.values() for window in piece]
        again, total = len(windows) - len(set(windows)), read_plan(RunLayout(run_dir).plan).totals.num_unique_windows
        print(f"\n{what}: {again} of {total} windows done twice ({again / total:.1%})")


def check_whole(proteins: Path, run_dir: Path, expected: Expected) -> None:
    """Every record once, in order, the vectors bit for bit those of `local`."""
    ids = [line[1:].split()[0] for line in proteins.read_text().splitlines() if line.startswith(">")]
    table = pq.read_table(run_dir / "dataset")
    assert table["id"].to_pylist() == ids
    assert vectors(run_dir).tobytes() == expected(proteins).tobytes()


def begin(run: Run, proteins: Path, tmp_path: Path, *options: object, shards: int = 2) -> Path:
    """Plan, submit, and wait until there is something to lose."""
    run_dir = tmp_path / "run"
    run("plan", proteins, *ESM2, "--run-dir", run_dir, "--num-shards", shards)
    run("submit", "--run-dir", run_dir, *ON_CPU, *OFTEN, *options)
    wait_for(lambda: len(pieces(run_dir)) >= 6, 60)
    return run_dir


def check_grace(
    settings: list[str], sign: str, run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected
) -> None:
    """Tasks preempted with a grace period publish what they have, are requeued once, and lose nothing."""
    cluster.configure(*settings)
    run_dir = begin(run, proteins, tmp_path)
    cluster.occupy()
    wait_for_dataset(cluster, run_dir, what=" ".join(settings))
    text = logs(run_dir)
    assert text.count(sign) == 2
    assert sorted(re.findall(r"task \d+_(\d), start 2", text)) == ["0", "1"], "each was requeued once"
    assert "Traceback" not in text
    check_whole(proteins, run_dir, expected)


def check_time_limit(run: Run, cluster: Cluster, proteins: Path, tmp_path: Path, expected: Expected) -> None:
    """A task that its time limit overtakes publishes what it has, is requeued, and loses nothing.

    Its worker is held until then, so that neither a fast nor a slow machine changes what is tried.
    """
    options = ("--time-minutes", 1, "--signal-seconds", 45, "--cpus-per-task", 8)
    run_dir = begin(run, proteins, tmp_path, *options, shards=1)
    worker = ("--euid", ANNA, "--full", "multiprocessing.spawn")
    cluster.ask("pkill", "-STOP", *worker)
    wait_for(lambda: "workers publish what they have" in logs(run_dir), 90)  # Slurm looks at limits about every 30 s
    cluster.ask("pkill", "-CONT", *worker)
    wait_for_dataset(cluster, run_dir, what="time limit")
    assert "stopped by SIGUSR2" in logs(run_dir)
    assert re.search(r"start 2", logs(run_dir)), "it was requeued"
    check_whole(proteins, run_dir, expected)
