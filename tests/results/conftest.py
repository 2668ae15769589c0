"""A run that is embedded and not gathered."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.run import faults
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, read_plan
from tests.torture.small_run import SmallRun, on
from tests.torture.storage import FaultyStorage


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, RunLayout]:
    """Two shards embedded, none gathered; no pause between tries."""
    monkeypatch.setattr(faults, "PAUSES_SECONDS", (0.0, 0.0))
    (tmp_path / "graveyard").mkdir()
    run = SmallRun(tmp_path)
    with on(FaultyStorage(tmp_path / "graveyard"), run):
        run.embed()
    return read_plan(run.layout.plan), run.layout
