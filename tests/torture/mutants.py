"""Bugs put in one by one by mutmut, before the short tests of their folder first, and what these let live before all.

Per folder: killed, equivalent, survived. Those that change nothing, or words for a person alone, are counted apart by
the reasons below, and printed with them; so is every other survivor.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from ast import FunctionDef, parse, walk
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

MUTMUT = str(Path(sys.executable).with_name("mutmut"))
SHORT = '-p tests.torture.nearest -m "not long and not matrix"'
CAUGHT = {"killed", "timeout", "segfault", "caught by type check"}
REASONS = (
    (r"\"(\w[^\"{}]* [^\"{}]*)\"", "words for a person"),
    (r"zip\(.*(strict=True)", "asserts that two lengths agree, which they do"),
    (r"(daemon=True)", "seen when a process ends, not before"),
    (r"(use_errno=True)", "ctypes gives the number all the same where one thread calls"),
    (r"(timeout=\w*SECONDS)", "seen by who waits for what never answers"),
    (r"patiently\(.*(, [\w.]+(?:\(\w+\))?)\)", "the place that an error names: words for a person"),
    (r"\.encode\((\"[a-z0-9-]+\")\)", "an encoding's name in other letters is the same"),
    (r"(copy=(?:True|False)|pre_buffer=True)", "speed alone"),
    (r"np\.\w+\(.*?(, dtype=[\w.\"<]+)", "what is held is the same in another type"),
    (r"\.astype\((np\.\w+)\)", "numbers are the same in another type"),
    (r"pa\.array\(.*(, pa\.int32\(\))\)", "the schema gives the type anyway"),
    (r"kind=(\"stable\")", "the same in capitals, and alike where no two keys are"),
    (r"cast\(([\w\[\]]+, .*)\)", "for the type check alone"),
    (r"\.reshape\((-1)", "any negative number leaves the length open"),
    (
        r"ThreadPoolExecutor\((?!1\b)(.*?)\) as ",
        "how many threads, and what they are called: speed, and words for a person",
    ),
    (r"ThreadPoolExecutor\(1(, .*?)\) as ", "what a thread is called: words for a person"),
    (r"shutdown\((wait=True, cancel_futures=True)\)", "how soon an end comes that is decided"),
    (r"memory(?:_bytes)? (//? \d(?: \* MEBIBYTE)?)\b", "a share of the memory: how much at once, not what"),
    (
        r"((?:compression|use_dictionary|write_statistics|row_group_size|data_page_size)=[^,(){}]+)",
        "how a file is laid out, which who reads it does not see",
    ),
    (r"\.read\((\w+|1 << \d+)\)", "how much at once, not what"),
    (r"(?:Spill\([\w.]+, |scratch / |temporary_sibling\(.* / )(\"\w+\")", "the name of a scratch file"),
    (r"\.get\((?:\w+|\"\w+\")(, (?:\"\"|None|b\"\{\}\"))", "a default that reads as nothing, like any other"),
    (
        r"((?:fill_color|line_color|line_width|size|height|nonselection_\w+|bottom|name|tooltips)=[^,()]+,?)",
        "how a figure looks",
    ),
    (r"_figure\(.*, (\d+)", "how a figure looks"),
    (r"OKABE_ITO\[(\d)\]", "how a figure looks"),
    (r"(chart\.(?:toolbar|axis|background|border|legend)\S* = .*)", "how a figure looks"),
)
"""What may be altered, as a group among what stands around it, without anything that a test should hold; and why."""


def main() -> int:
    """Run mutmut twice, and print the table."""
    first = {"PYTEST_ADDOPTS": SHORT, "PYTHONPATH": str(Path.cwd())}
    subprocess.run([MUTMUT, "run"], env={**os.environ, **first}, check=True)
    if alive := [name for name, outcome in outcomes() if outcome not in CAUGHT]:
        subprocess.run([MUTMUT, "run", *alive], check=True)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for name, outcome in outcomes():
        change = "" if outcome in CAUGHT else change_of(name)
        reason = reason_of(change)
        counts[name.split(".")[1]]["killed" if outcome in CAUGHT else "equivalent" if reason else "survived"] += 1
        if change:
            survivors.append(f"{reason or 'SURVIVED'}: {name}: {change}")
    print("\n".join(sorted(survivors)))
    for folder, number in sorted(counts.items()):
        told = ", ".join(f"{number[each]} {each}" for each in ("killed", "equivalent", "survived"))
        print(f"{folder:<10}{number['killed'] / (number.total() - number['equivalent']):6.1%} killed: {told}")
    return 0


def outcomes() -> Iterator[tuple[str, str]]:
    """Every mutant that was tried, and what became of it."""
    listing = subprocess.run([MUTMUT, "results", "--all", "true"], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        name, _, outcome = line.strip().rpartition(": ")
        if name.startswith("hpc_embed.") and outcome not in ("skipped", "not checked"):
            yield name, outcome


def change_of(name: str) -> str:
    """`removed -> added`, in one line."""
    module, _, function = name.rpartition(".")
    functions = _functions(Path("mutants", *module.split(".")).with_suffix(".py"))
    original = functions[re.sub(r"__mutmut_\d+$", "__mutmut_orig", function)]
    changed = list(difflib.ndiff(original, functions[function]))
    removed, added = (" ".join(line[2:].strip() for line in changed if line.startswith(sign)) for sign in ("- ", "+ "))
    return f"{removed} -> {added}"


def reason_of(change: str) -> str:
    """Why no test has to tell it; empty where one should."""
    removed, _, added = change.partition(" -> ")
    start = num_alike(removed, added)
    stop = len(removed) - num_alike(removed[start:][::-1], added[start:][::-1])
    for pattern, reason in REASONS:
        for found in re.finditer(pattern, removed):
            if found.start(1) <= start and stop <= found.end(1):
                return reason
    return ""


def num_alike(one: str, other: str) -> int:
    """Letters at their beginnings that are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@cache
def _functions(path: Path) -> dict[str, list[str]]:
    """The lines below the signature of every version of every function, as mutmut names them."""
    text = path.read_text()
    lines = text.splitlines()
    return {
        node.name: lines[node.lineno : node.end_lineno] for node in walk(parse(text)) if isinstance(node, FunctionDef)
    }


if __name__ == "__main__":
    sys.exit(main())
