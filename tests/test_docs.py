"""The docs say what the code does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from docs.generate import TARGET, command_reference
from hpc_embed.catalogue import COMMANDS
from hpc_embed.cli import SETTINGS_FILE, make_parser
from tests.conftest import REPOSITORY
from tests.reading.datasets import write_dataset

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "examples/README.md"]


def python_blocks(page: Path) -> list[str]:
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    return blocks


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


def test_the_command_reference_is_up_to_date() -> None:
    assert TARGET.read_text() == command_reference(), "run `make docs`"


def shown_commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```\n(.*?)```", page.read_text(), flags=re.S)]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    pieces = [piece.strip() for line in lines for piece in line.split("&&")]
    return sorted({piece for piece in pieces if re.match(r"hpc-embed [a-z-]+( |$)(?!\[)", piece)})


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_that_the_docs_show_parses(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    if name == "COMMAND":
        return
    command = next(command for command in COMMANDS if command.name == name)
    make_parser(command).parse_line(arguments)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_the_python_that_the_docs_show_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "embed-run")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(python_blocks(page)), {})  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_example_settings_are_settings() -> None:
    import yaml

    settings = yaml.safe_load((REPOSITORY / "examples" / SETTINGS_FILE).read_text())
    parser = make_parser(next(command for command in COMMANDS if command.name == "local"))
    parser.parse_object(settings)
