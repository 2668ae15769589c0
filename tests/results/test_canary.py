"""A device that computes wrongly is found by its canary; precisions are not mixed unless that is meant."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_embed.config import GatherSettings, PlanSettings
from hpc_embed.engine import weights
from hpc_embed.errors import Incomplete, RunConflict
from hpc_embed.planning.planner import make_plan
from hpc_embed.results.gather import gather
from hpc_embed.run.canary import decode, encode
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import is_done, read_marker
from hpc_embed.run.plan import Plan
from tests.results.embedding import embed

AT_ONCE = GatherSettings(wait_seconds=0)


@pytest.mark.long
def test_one_worker_of_two_with_a_flipped_bit_in_its_weights_is_named_and_its_shards_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.fa").write_bytes(b">a\nMKVLAAGIVG\n>b\nMKV\n>c\nMKTAYIAKQRQ\n")
    layout = RunLayout(tmp_path / "run")
    settings = PlanSettings(fasta=(str(tmp_path / "in.fa"),), model="esm2_t6_8M:untrained", num_shards=3)
    plan = make_plan(settings, layout).plan
    embed(plan, layout, 0, 1)
    random_weights = weights.random_weights

    def flipped(*arguments: Any, **keywords: Any) -> dict[str, torch.Tensor]:
        tensors = random_weights(*arguments, **keywords)
        weight = tensors["esm.encoder.layer.3.output.dense.weight"]
        weight.view(torch.int32)[100, 200] ^= 1 << 30
        return tensors

    with monkeypatch.context() as patch:
        patch.setattr(weights, "random_weights", flipped)
        embed(plan, layout, 2)
    with pytest.raises(Incomplete, match=r"1 of 3 shards .*shard-00002 \(is withdrawn: cpu .* computes wrongly"):
        gather(plan, layout, AT_ONCE)
    assert [is_done(layout.outputs, f"shard-0000{index}", plan.fingerprint) for index in range(3)] == [
        True,
        True,
        False,
    ]
    assert len(list(layout.withdrawn.iterdir())) == 2

    embed(plan, layout, 2)
    assert gather(plan, layout, AT_ONCE).statuses == {"embedded": 3}


def change(layout: RunLayout, index: int, **facts: object) -> None:
    marker = read_marker(layout.outputs, f"shard-{index:05d}")
    assert marker is not None
    changed = replace(marker, facts=replace(marker.facts, **facts))  # type: ignore[arg-type]
    write_json(layout.marker(index), asdict(changed))


def test_mixed_precisions_are_refused_unless_they_are_meant(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    change(layout, 1, precision="bf16")
    with pytest.raises(RunConflict, match=r"different precisions \(1 in bf16, 1 in fp32\).*--mixed-precision"):
        gather(plan, layout, AT_ONCE)
    assert not layout.dataset.exists()
    assert gather(plan, layout, replace(AT_ONCE, mixed_precision=True)).precision == "bf16,fp32"


def test_every_marker_tells_the_canary_and_equal_devices_the_same(done: tuple[Plan, RunLayout]) -> None:
    _, layout = done
    canaries = {json.loads(layout.marker(index).read_text())["facts"]["canary"] for index in range(2)}
    assert len(canaries) == 1
    assert len(canaries.pop()) == 420 * 4 * 4 // 3


def canaries_times(layout: RunLayout, factor: float) -> str:
    marker = read_marker(layout.outputs, "shard-00000")
    assert marker is not None
    vector = decode(marker.facts.canary)
    assert vector is not None
    return encode((factor * vector).astype(np.float32))


def test_an_upgrade_in_the_middle_is_named_and_both_halves_are_kept(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    before = sorted(path.name for path in layout.outputs.rglob("*"))
    versions = read_versions(layout, 1)
    change(layout, 1, canary=canaries_times(layout, 1.01), versions={**versions, "torch": "2.9.0", "cpu": "AVX2"})
    with pytest.raises(RunConflict) as caught:
        gather(plan, layout, AT_ONCE)
    assert caught.value.message == (
        "shards were embedded in ways that give other vectors: 1 with cpu that is not told, torch that is not told "
        "(shard-00000); 1 with cpu AVX2, torch 2.9.0 (shard-00001)."
    )
    assert "All are kept. Choose" in caught.value.remedy
    assert sorted(path.name for path in layout.outputs.rglob("*")) == before


def read_versions(layout: RunLayout, index: int) -> dict[str, str]:
    marker = read_marker(layout.outputs, f"shard-{index:05d}")
    assert marker is not None
    return dict(marker.facts.versions)


def test_vectors_of_another_version_of_ours_are_not_mixed_though_the_canary_is_near(
    done: tuple[Plan, RunLayout],
) -> None:
    plan, layout = done
    change(layout, 0, versions={**read_versions(layout, 0), "vectors": "2"})
    with pytest.raises(RunConflict, match=r"1 with vectors 2 \(shard-00000\); 1 with vectors 1 \(shard-00001\)"):
        gather(plan, layout, AT_ONCE)
    assert not layout.withdrawn.exists()


def test_two_kinds_of_devices_that_disagree_are_both_kept(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    change(layout, 1, canary=canaries_times(layout, 1.5), device="NVIDIA V100")
    with pytest.raises(RunConflict, match=r"1 with device cpu .*; 1 with device NVIDIA V100 \(shard-00001\)"):
        gather(plan, layout, AT_ONCE)
    assert not layout.withdrawn.exists()


def test_versions_that_differ_without_another_vector_are_gathered(done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    change(layout, 1, versions={**read_versions(layout, 1), "torch": "2.9.0"}, device="NVIDIA V100")
    assert gather(plan, layout, AT_ONCE).num_records == 7
