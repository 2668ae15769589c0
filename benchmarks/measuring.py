"""What every benchmark shares: ways to measure, tables, figures, and the facts without which they mean nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_embed import __version__
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.device import describe, find_device, peak_bytes, reset_peak
from hpc_embed.engine.embedding import Encoder, embed_windows
from hpc_embed.engine.packing import pack
from hpc_embed.engine.references import Reference

PACKAGES = ("torch", "transformers", "fair-esm", "numpy")
SECONDS = 8.0
"""A way that is done sooner is measured again until so much time is spent; the median counts."""
AGAIN = " (again)"
"""Behind the name of a way that is measured once more at the end."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

Windows = Sequence[NDArray[np.integer]]
Outcome = tuple[NDArray[np.float32], int]
"""Vectors in the order of the windows, and the tokens that were computed."""
Way = Callable[[Windows], Outcome]
T = TypeVar("T")


class Figure(NamedTuple):
    """One number for machines to read."""

    name: str
    value: float
    unit: str


class Table(NamedTuple):
    """One table for people to read."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Title, rows and note."""
        lines = [f"### {self.title}", "", *map(_row, [self.headings, ["---"] * len(self.headings), *self.rows])]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


class Answer(NamedTuple):
    """What a benchmark found."""

    tables: list[Table]
    figures: list[Figure]


class Measured(NamedTuple):
    """One way over one set of windows."""

    tokens_per_second: float
    """Real tokens, special ones included, padding not."""
    padding_efficiency: float
    peak_bytes: int
    vectors: NDArray[np.float32]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """The function's result, from a process of one thread that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(function, *arguments).result()


def measure(way: Way, windows: Windows, seconds: float = SECONDS) -> Measured:
    """Warm up, then run until `seconds` are spent, at least once; the median run counts."""
    device = torch.device("cpu")
    way(windows[:4])
    reset_peak(device)
    times: list[float] = []
    while not times or sum(times) + times[-1] < seconds:
        started = time.perf_counter()
        vectors, num_computed = way(windows)
        times.append(time.perf_counter() - started)
    num_tokens = sum(map(len, windows))
    return Measured(num_tokens / statistics.median(times), num_tokens / num_computed, peak_bytes(device), vectors)


def median_of(turns: Sequence[Measured]) -> Measured:
    """That of the middle speed."""
    return sorted(turns, key=lambda each: each.tokens_per_second)[len(turns) // 2]


def packed(encoder: Encoder, pooling: str, layer: int | Sequence[int], token_budget: int, device: torch.device) -> Way:
    """Ours: the engine that the workers run, in a process set up as theirs."""
    if device.type == "cpu":
        find_device("cpu")

    def embed(windows: Windows) -> Outcome:
        vectors: dict[int, NDArray[np.float32]] = {}
        num_computed = 0
        for batch in pack([len(window) for window in windows], token_budget):
            made = embed_windows(encoder, [windows[i] for i in batch], pooling, layer, device)
            vectors |= dict(zip(batch, made.vectors_BD.cpu().numpy(), strict=True))
            num_computed += made.num_computed_tokens
        return np.stack([vectors[i] for i in range(len(windows))]), num_computed

    return embed


def padded(
    reference: Reference, padding: int, layer: int, batches: Callable[[Windows], list[list[int]]], cut: int
) -> Way:
    """The usual way: batches padded on the right; the mean without `cut` tokens at either end."""

    def embed(windows: Windows) -> Outcome:
        vectors: dict[int, NDArray[np.float32]] = {}
        num_computed = 0
        for batch in batches(windows):
            tokens = np.full((len(batch), max(len(windows[i]) for i in batch)), padding, dtype=np.int64)
            for row, i in enumerate(batch):
                tokens[row, : len(windows[i])] = windows[i]
            hidden = reference(torch.from_numpy(tokens), padding, layer).float()
            for row, i in enumerate(batch):
                vectors[i] = hidden[row, cut : len(windows[i]) - cut].mean(0).numpy()
            num_computed += tokens.size
        return np.stack([vectors[i] for i in range(len(windows))]), num_computed

    return embed


def in_file_order(number: int) -> Callable[[Windows], list[list[int]]]:
    """Batches of so many windows as they come."""
    return lambda windows: [
        list(range(start, min(start + number, len(windows)))) for start in range(0, len(windows), number)
    ]


def sorted_by_length(token_budget: int) -> Callable[[Windows], list[list[int]]]:
    """Batches of windows of about one length, so many tokens in each, padding included."""

    def batches(windows: Windows) -> list[list[int]]:
        made: list[list[int]] = []
        for index in sorted(range(len(windows)), key=lambda index: -len(windows[index])):
            if not made or (len(made[-1]) + 1) * len(windows[made[-1][0]]) > token_budget:
                made.append([])
            made[-1].append(index)
        return made

    return batches


def largest_distance(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The largest 1 - cos of two rows, in float64."""
    a, b = (torch.from_numpy(vectors).double() for vectors in (ours, reference))
    return max(0.0, float((1 - torch.cosine_similarity(a, b)).max()))


def against_bars(
    model: str, found: Mapping[str, Measured], bars: Sequence[tuple[str, str, float]]
) -> tuple[Table, list[Figure]]:
    """One way over another, and what it should be at least."""
    ratios = [
        (f"{one} over {other}", found[one].tokens_per_second / found[other].tokens_per_second, bar)
        for one, other, bar in bars
    ]
    rows = [(name, f"{ratio:.2f}", f"{bar:g}", "yes" if ratio >= bar else "NO") for name, ratio, bar in ratios]
    table = Table(f"{model}: ratios", ("", "measured", "at least", ""), rows)
    return table, [Figure(f"{model}: {name}", ratio, "times") for name, ratio, _ in ratios]


def matmul_peak(precision: str) -> float:
    """FLOP/s of one large product on one thread, the best in half a second, or once: what a core can do."""
    size = 1024
    x = torch.randn(size, size).to(PRECISIONS[precision])
    layer = Dense(torch.randn(size, size), None, device=torch.device("cpu"), dtype=PRECISIONS[precision])
    times: list[float] = []
    with torch.inference_mode():
        while sum(times) < 0.5:
            started = time.perf_counter()
            layer(x)
            times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def machine_facts() -> list[str]:
    """Hardware and versions, a line each."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return [
        f"hardware: {describe(torch.device('cpu')).split('(')[1].split(',')[0]}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB, GPU {device}",
        f"versions: hpc-embed {__version__}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name))),
        f"date: {datetime.now(UTC).date()}",
        f"command: python -m benchmarks{_module()} {' '.join(sys.argv[1:])}".rstrip(),
    ]


def _module() -> str:
    name = Path(sys.argv[0]).stem
    return "" if name == "__main__" else f".{name}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(answer: Answer, *, as_json: bool) -> None:
    """A line of JSON for each figure, or the tables."""
    if as_json:
        for figure in answer.figures:
            print(json.dumps(figure._asdict()), flush=True)
    else:
        print("\n\n".join(table.markdown() for table in answer.tables), flush=True)


def write_report(path: Path, heading: str, answer: Answer) -> None:
    """Markdown with the facts and the tables, and JSON lines of the figures beside it."""
    facts = "\n".join(f"- {fact}" for fact in machine_facts())
    tables = "\n\n".join(table.markdown() for table in answer.tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {heading}\n{facts}\n\n{tables}\n", encoding="utf-8")
    lines = "".join(json.dumps(figure._asdict()) + "\n" for figure in answer.figures)
    path.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
