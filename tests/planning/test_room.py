"""Room for a run: what another plan has left goes aside, what is this plan's stays; shards beyond the last go away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import BadInput
from hpc_embed.planning import distribution, parts, planner
from hpc_embed.planning.planner import make_plan
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import read_marker
from hpc_embed.run.plan import Plan
from hpc_embed.run.shards import read_shard
from tests.fakes import Counted


@pytest.mark.parametrize("left", ["another plan's", "no marker of ours"])
def test_outputs_of_another_plan_go_aside_and_those_of_this_one_stay(left: str, done: tuple[Plan, RunLayout]) -> None:
    plan, layout = done
    marker = read_marker(layout.outputs, "shard-00001")
    assert marker is not None
    if left == "another plan's":
        write_json(layout.marker(1), asdict(replace(marker, fingerprint="f" * 64)))
    else:
        layout.marker(1).write_text("{}")
    content = layout.output(1).read_bytes()
    planner._make_room(plan, layout)
    assert layout.marker(0).exists()
    assert layout.output(0).exists()
    assert not layout.marker(1).exists()
    assert not layout.output(1).exists()
    assert content in [path.read_bytes() for path in layout.withdrawn.iterdir()]
    assert len(list(layout.withdrawn.iterdir())) == 2
    assert layout.logs.is_dir()


def settings_for(folder: Path, text: str, **more: object) -> PlanSettings:
    (folder / "in.fa").write_text(text)
    chosen = {"fasta": (str(folder / "in.fa"),), "model": "aa_composition", "force_kind": True, **more}
    return PlanSettings(**chosen)  # type: ignore[arg-type]


PROTEINS = "".join(f">r{at}\nMKV{'LAG' * at}\n" for at in range(9))


def test_shards_of_a_plan_with_more_of_them_go_away(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path / "run")
    make_plan(settings_for(tmp_path, PROTEINS, num_shards=5), layout)
    assert layout.shard(4).exists()
    layout.plan.unlink()
    make_plan(settings_for(tmp_path, PROTEINS, num_shards=2), layout)
    assert [index for index in range(6) if layout.shard(index).exists()] == [0, 1]
    assert sum(len(read_shard(layout.shard(index)).sequences_N) for index in range(2)) == 9


@pytest.mark.parametrize("num_threads", [1, 2])
def test_progress_counts_every_shard_that_is_written(
    num_threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    monkeypatch.setattr(distribution, "counting", counted.counting)
    make_plan(settings_for(tmp_path, PROTEINS, num_shards=4, plan_threads=num_threads), RunLayout(tmp_path / "run"))
    assert counted.shown == [("writing", 4, "shards")]
    assert counted.amounts == [4]


@pytest.mark.parametrize("letters_at_once", [1, 7, 10**6])
def test_a_part_s_letters_come_by_the_window_however_many_at_a_time(
    letters_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[list[int]] = []
    plain = parts.read_letters

    def noted(folder: Path, facts: parts.PartFacts) -> Iterator[parts.Windows]:
        for windows in plain(folder, facts):
            lengths.append(windows[0]["length"].tolist())
            assert len(windows[1]) == sum(lengths[-1])
            yield windows

    monkeypatch.setattr(parts, "LETTERS_AT_ONCE", letters_at_once)
    monkeypatch.setattr("hpc_embed.planning.distribution.read_letters", noted)
    layout = RunLayout(tmp_path / "run")
    make_plan(settings_for(tmp_path, PROTEINS, num_shards=2, plan_threads=1), layout)
    assert [length for some in lengths for length in some] == [3 + 3 * at for at in range(9)]
    assert len(lengths) == (1 if letters_at_once == 10**6 else 9)
    found = [read_shard(layout.shard(index)) for index in range(2)]
    keys = np.concatenate([shard.windows_N for shard in found]).tolist()
    sequences = [sequence for shard in found for sequence in shard.sequences_N]
    assert {key: sequences[at] for at, key in enumerate(keys)} == {at: b"MKV" + b"LAG" * at for at in range(9)}


@pytest.mark.parametrize(
    ("text", "more", "says"),
    [
        (
            ">d\n" + "GATTACA" * 99 + "\n", {"model": "esm2_t6_8M:untrained"},
            "these are nucleotides, and esm2_t6_8M:untrained embeds proteins. "
            "Choose another --model, --translate, or insist",
        ),
        (
            PROTEINS, {"model": "dnabert_s:untrained"},
            "these are proteins, and dnabert_s:untrained embeds nucleotides. Choose another --model, or insist",
        ),
        (
            PROTEINS, {"model": "esm2_t6_8M:untrained", "translate": "six-frames"},
            "these are proteins, and --translate takes nucleotides. Choose another --model, or insist",
        ),
    ],
)  # fmt: skip
def test_the_wrong_kind_is_refused_with_the_ways_that_there_are(
    text: str, more: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as caught:
        make_plan(settings_for(tmp_path, text, force_kind=False, **more), RunLayout(tmp_path / "run"))
    assert f"in.fa: {says} with --force-kind." in str(caught.value)
