"""What stands in for a cluster: scripts in the place of Slurm's commands, and plans that no scan has to make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from types import MappingProxyType

import pytest

from hpc_embed.cluster import slurm
from hpc_embed.run.files import write_json
from hpc_embed.run.identity import ModelIdentity
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import record_failure
from hpc_embed.run.plan import Cost, Embedding, Plan, Totals
from hpc_embed.run.shard_table import ShardFacts

CONFIGURATION = "PrivateData = none\nMaxArraySize = 1001\nClusterName = here\n"
EMBEDDING = Embedding(
    pooling="frequency",
    layer=0,
    precision="auto",
    on_long="window",
    max_residues=None,
    on_invalid="unknown",
    case="upper",
)


class Fakes:
    """Slurm's commands, each printing what a test says and noting how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def says(self, program: str, output: str, code: int = 0, error: str = "") -> None:
        self.does(program, f"printf %s {quote(output)}; printf %s {quote(error)} >&2; exit {code}")

    def does(self, program: str, text: str) -> None:
        """A program with a mind of its own."""
        path = self.folder / program
        path.write_text(f'#!/bin/sh\necho "$*" >>"$0.calls"\n{text}\n')
        path.chmod(0o755)

    def calls(self, program: str) -> list[str]:
        path = self.folder / f"{program}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def takes_jobs(self, first: int = 101, most: int = 99, refusal: str = "", afterwards: str = "") -> None:
        """An sbatch that keeps each script, and numbers the jobs; it refuses what comes after `most` of them."""
        self.does(
            "sbatch",
            f'n=$(wc -l <"$0.calls")\nif [ "$n" -gt {most} ]; then echo {quote(refusal)} >&2; exit 1; fi\n'
            f'script=$2\ncat "$script" >"$0.script.$n"\necho "$(({first} - 1 + n))"\n{afterwards}',
        )

    def scripts(self) -> list[str]:
        """The batch scripts that sbatch took, in order."""
        paths = sorted(self.folder.glob("sbatch.script.*"), key=lambda path: int(path.suffix[1:]))
        return [path.read_text() for path in paths]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_CLUSTER_NAME", raising=False)
    slurm.site_configuration.cache_clear()
    fakes = Fakes(folder)
    fakes.says("scontrol", CONFIGURATION)
    for program in ("squeue", "sacct", "scancel", "srun"):
        fakes.says(program, "")
    fakes.takes_jobs()
    return fakes


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "run")
    layout.submissions.mkdir(parents=True)
    return layout


def planned(*num_windows: int, model: str = "aa_composition", folder: str = "", source: str = "built-in") -> Plan:
    """A plan whose shards have so many windows."""
    total = sum(num_windows)
    return Plan(
        version="1",
        fingerprint="f" * 64,
        kind="protein",
        dimension=420,
        model=ModelIdentity(
            name=model, registry_name=model, source=source, revision="", folder=folder, digest="0" * 64
        ),
        embedding=EMBEDDING,
        inputs=(),
        totals=Totals(
            num_records=total,
            num_embedded=total,
            num_windowed=0,
            num_truncated=0,
            num_skipped=0,
            num_duplicate_ids=0,
            num_unknown_letters=0,
            num_residues=3 * total,
            num_windows=total,
            num_unique_windows=total,
            num_tokens=3 * total,
        ),
        cost=Cost(linear_flops=1, quadratic_flops=0),
        shards=tuple(
            ShardFacts(num_windows=number, num_residues=3 * number, num_tokens=3 * number, flops=number)
            for number in num_windows
        ),
    )


def finish(
    layout: RunLayout,
    index: int,
    num_failed: int = 0,
    rows: bytes = b"rows",
    versions: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """An output and its marker, as far as names and sizes tell."""
    layout.outputs.mkdir(exist_ok=True)
    layout.output(index).write_bytes(rows)
    facts = {
        "device": "cpu",
        "precision": "fp32",
        "versions": dict(versions),
        "process": "node1:1",
        "seconds": 1.0,
        "num_tokens": 1,
        "num_windows_computed": 1,
        "tokens_per_second": 1.0,
        "padding_efficiency": 1.0,
        "token_budget": 1,
        "peak_memory_bytes": 1,
    }
    content = {
        "shard": f"shard-{index:05d}",
        "rows": 1,
        "num_bytes": len(rows),
        "sha256": "",
        "fingerprint": "f" * 64,
        "failed_windows": {str(key): "not a number" for key in range(num_failed)},
        "facts": facts,
    }
    write_json(layout.marker(index), content)


def fail(layout: RunLayout, index: int, num_tries: int = 1) -> None:
    """So many failed tries of a shard."""
    layout.outputs.mkdir(exist_ok=True)
    for _ in range(num_tries):
        record_failure(layout.outputs, f"shard-{index:05d}", "out of luck")
