"""Writes docs/commands.md from the commands' own help, and slurm/array.sbatch: `make docs`."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from hpc_embed.catalogue import COMMANDS
from hpc_embed.cli import make_parser
from hpc_embed.cluster.script import template

TARGET = Path(__file__).parent / "commands.md"
TEMPLATE = Path(__file__).parents[1] / "slurm" / "array.sbatch"
INTRODUCTION = """# Commands
Written by `make docs` from the commands' own help; a test holds the two together.

Each command is safe to repeat: it does what is missing and nothing else. Flags may be written with dashes or
underscores. FASTA files stand anywhere among the options. Every command reads `hpc-embed.yaml` in the working
folder: the settings of all commands in one flat list, each command taking its own.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug |
| 2 | usage or settings |
| 3 | bad input |
| 4 | conflict with what the run folder holds |
| 5 | the machine lacks something: a GPU, weights, Slurm |
| 6 | finished, with failed shards or records |
| 85 | `run-task` stopped by SIGUSR2, before a time limit: requeue it |
| 130 | interrupted; what was finished is kept |

`HPC_EMBED_TRACEBACK=1` in the environment shows the traceback of an error.

Results go to standard output, all else to standard error: a bar on a terminal, a line a minute elsewhere,
nothing but errors with `--quiet`. With `--json`, standard output is one JSON document; that of
`status --watch` is one a line. `NO_COLOR` is respected. Lines fold at the width of a terminal, or of `COLUMNS`;
in a pipe each row is one line.
"""


def command_reference() -> str:
    """The whole page."""
    with patch.dict(os.environ, COLUMNS="80"):
        helps = {command.name: make_parser(command).format_help().strip() for command in COMMANDS}
    sections = [f"## {name}\n\n```\n{text}\n```" for name, text in helps.items()]
    return INTRODUCTION + "\n" + "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    TARGET.write_text(command_reference(), encoding="utf-8")
    TEMPLATE.write_text(template(), encoding="utf-8")
