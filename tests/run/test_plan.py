"""What differs between two plans is called by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan, changes


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "x.fa").write_text(">a\nMKVLAA\n")
    return make_plan(PlanSettings(fasta=(str(folder / "x.fa"),)), RunLayout(folder / "run")).plan


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda plan: plan, ["version of hpc-embed"]),
        (lambda plan: replace(plan, fingerprint="another", kind="dna"), ["version of hpc-embed"]),
        (lambda plan: replace(plan, inputs=(replace(plan.inputs[0], path="elsewhere"),)), ["version of hpc-embed"]),
        (lambda plan: replace(plan, inputs=(replace(plan.inputs[0], digest="0"),)), ["input"]),
        (lambda plan: replace(plan, inputs=plan.inputs * 2), ["input"]),
        (lambda plan: replace(plan, model=replace(plan.model, digest="0")), ["model"]),
        (lambda plan: replace(plan, model=replace(plan.model, name="other")), ["model"]),
        (
            lambda plan: replace(plan, embedding=replace(plan.embedding, pooling="max", case="keep")),
            ["pooling", "case"],
        ),
        (lambda plan: replace(plan, intake=replace(plan.intake, gaps="drop")), ["gaps"]),
    ],
)
def test_changes_are_named(change: Callable[[Plan], Plan], names: list[str], plan: Plan) -> None:
    assert changes(plan, change(plan)) == names
