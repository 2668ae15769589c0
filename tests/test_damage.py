"""A third of the table of `python -m tests.damage`, another part of it for each file and damage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import damage

CASES = [(state, name, how) for state in ("begun", "gathered") for name, how in damage.cases(state)]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where an ordinary user may look, too."""
    folder = Path(tempfile.mkdtemp(prefix="damage-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def truth(place: Path) -> damage.Scene:
    for state in ("begun", "gathered"):
        damage.make(place / state, state)
    return damage.make(place / "truth", "gathered")


@pytest.mark.parametrize(("number", "case"), [*enumerate(CASES)], ids=[" ".join(case) for case in CASES])
def test_no_damage_makes_a_bug_or_a_wrong_vector_and_each_remedy_helps(
    number: int, case: tuple[str, str, str], place: Path, truth: damage.Scene
) -> None:
    state, name, how = case
    for command in damage.commands(state)[number % 3 :: 3]:
        outcome = damage.try_out(state, name, how, command, place / state, truth, place / "copy")
        assert not outcome.problem, (command, outcome)
