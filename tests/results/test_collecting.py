"""What gather finds among outputs that are none, or false: each told, the others gathered, nothing more withdrawn."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from hpc_embed import __version__
from hpc_embed.config import PlanSettings
from hpc_embed.errors import EnvironmentFault, Incomplete, UsageError
from hpc_embed.planning.planner import make_plan
from hpc_embed.results import checks, waiting
from hpc_embed.results import gather as gather_module
from hpc_embed.results.gather import gather
from hpc_embed.run import files
from hpc_embed.run.canary import decode, encode
from hpc_embed.run.files import write_json
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import is_done, read_marker
from hpc_embed.run.plan import Plan, read_plan
from hpc_embed.run.vectors import VectorFile
from tests.fakes import Counted, Failing, system_error
from tests.results.embedding import embed
from tests.results.test_canary import AT_ONCE, change
from tests.results.test_gather import rewrite

NUM_SHARDS = 7


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of seven shards of two windows."""
    folder = tmp_path_factory.mktemp("seven")
    letters = [b"MKV" + bytes(letter for letter in b"ACDEFGHIKLMNPQ"[: at + 1]) for at in range(2 * NUM_SHARDS)]
    (folder / "in.fa").write_bytes(b"".join(b">r%d\n%s\n" % each for each in enumerate(letters)))
    layout = RunLayout(folder / "run")
    settings = PlanSettings(
        fasta=(str(folder / "in.fa"),), model="aa_composition", num_shards=NUM_SHARDS, force_kind=True
    )
    embed(make_plan(settings, layout).plan, layout)
    return folder


@pytest.fixture
def run_of_seven(seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, RunLayout]:
    """A copy of it, without pauses between tries."""
    monkeypatch.setattr("hpc_embed.run.faults.PAUSES_SECONDS", (0.0,))
    shutil.copytree(seven, tmp_path, dirs_exist_ok=True)
    layout = RunLayout(tmp_path / "run")
    return read_plan(layout.plan), layout


def shards_that_are_done(plan: Plan, layout: RunLayout) -> list[int]:
    return [at for at in range(NUM_SHARDS) if is_done(layout.outputs, f"shard-{at:05d}", plan.fingerprint)]


@pytest.mark.parametrize(("indices", "num_told"), [([0], 1), ([1, 4, 6], 3), (list(range(7)), 5)])
def test_what_cannot_be_read_is_named_and_after_five_the_storage_is_not_asked_again(
    indices: list[int], num_told: int, run_of_seven: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = run_of_seven
    with monkeypatch.context() as patch:
        ends = tuple(f"{at:05d}.parquet" for at in indices)
        patch.setattr(files, "storage", Failing(ends, system_error(errno.EIO)))
        with pytest.raises(EnvironmentFault) as caught:
            gather(plan, layout, replace(AT_ONCE, gather_threads=1))
    told = ", ".join(
        f"shard-{at:05d} ({layout.output(at)}: cannot be read or written (Input/output error).)"
        for at in indices[:num_told]
    )
    assert caught.value.message == f"{num_told} of 7 shards cannot be read: {told}."
    assert shards_that_are_done(plan, layout) == list(range(NUM_SHARDS))
    assert gather(plan, layout, AT_ONCE).num_records == 14


def test_a_window_that_another_output_has_withdraws_the_second_alone(run_of_seven: tuple[Plan, RunLayout]) -> None:
    plan, layout = run_of_seven
    first = next(iter(VectorFile(layout.output(1)))).windows_N[:1]
    rewrite(
        layout, 3, lambda rows: rows._replace(windows_N=np.concatenate((first, rows.windows_N[1:])).astype(np.int64))
    )
    with pytest.raises(Incomplete) as caught:
        gather(plan, layout, AT_ONCE)
    why = "output was damaged and is withdrawn (a window that occurs twice)"
    assert caught.value.message == f"1 of 7 shards are missing: shard-00003 ({why})."
    assert shards_that_are_done(plan, layout) == [0, 1, 2, 4, 5, 6]
    assert len(list(layout.withdrawn.iterdir())) == 2


@pytest.mark.parametrize("block_bytes", [1, 2 * 4 * 420, 4 << 20])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_found_in_whatever_block(
    block_bytes: int, row: int, value: float, run_of_seven: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, layout = run_of_seven
    monkeypatch.setattr(checks, "BLOCK_BYTES", block_bytes)
    assert gather(plan, layout, AT_ONCE).is_new

    def spoil(vectors_ND: np.ndarray) -> np.ndarray:
        spoilt = vectors_ND.copy()
        spoilt[row, -1] = value
        return spoilt

    rewrite(layout, 2, lambda rows: rows._replace(vectors_ND=spoil(rows.vectors_ND)))
    with pytest.raises(Incomplete, match=r"1 of 7 .*shard-00002 \(output was damaged and is withdrawn \(NaN or inf"):
        gather(plan, layout, AT_ONCE)


def canary_of(layout: RunLayout, index: int, factor: float) -> str:
    """That of a shard, so many times as long."""
    marker = read_marker(layout.outputs, f"shard-{index:05d}")
    assert marker is not None
    vector = decode(marker.facts.canary)
    assert vector is not None
    return encode((factor * vector).astype(np.float32))


def test_a_device_whose_canary_is_off_is_named_and_its_output_withdrawn(run_of_seven: tuple[Plan, RunLayout]) -> None:
    plan, layout = run_of_seven
    change(layout, 5, canary=canary_of(layout, 5, 2), device="cuda:3 (A100)", process="node7:99")
    with pytest.raises(Incomplete) as caught:
        gather(plan, layout, AT_ONCE)
    why = "is withdrawn: cuda:3 (A100) of node7:99 computes wrongly, its canary is off by 1 of its length"
    assert caught.value.message == f"1 of 7 shards are missing: shard-00005 ({why})."
    assert shards_that_are_done(plan, layout) == [0, 1, 2, 3, 4, 6]
    assert {path.name[:11] for path in layout.withdrawn.iterdir()} == {"shard-00005"}


def test_canaries_of_two_precisions_are_not_compared(run_of_seven: tuple[Plan, RunLayout]) -> None:
    plan, layout = run_of_seven
    change(layout, 5, canary=canary_of(layout, 5, 1.01), precision="bf16")
    assert gather(plan, layout, replace(AT_ONCE, mixed_precision=True)).precision == "bf16,fp32"


def test_progress_counts_every_shard_and_every_record(
    run_of_seven: tuple[Plan, RunLayout], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    monkeypatch.setattr(gather_module, "counting", counted.counting)
    gather(*run_of_seven, AT_ONCE)
    assert counted.shown == [("proving", 7, "shards"), ("gathering", 14, "records")]
    assert counted.amounts == [7, 14]


@pytest.mark.parametrize("layout_name", ["parts", "shards"])
def test_a_dataset_says_what_it_was_made_of(
    layout_name: Literal["parts", "shards"], run_of_seven: tuple[Plan, RunLayout]
) -> None:
    plan, layout = run_of_seven
    change(layout, 6, device="cpu (another)", versions={"hpc_embed": __version__, "numpy": "9"})
    settings = replace(AT_ONCE, layout=layout_name)
    gathered = gather(plan, layout, settings)
    facts = json.loads(layout.dataset_facts.read_text())
    markers = [read_marker(layout.outputs, f"shard-{at:05d}") for at in range(NUM_SHARDS)]
    digests = "\n".join(marker.sha256 for marker in markers if marker)
    assert markers[0] is not None
    assert facts.pop("parts").keys() == {"part-00000.parquet"}
    assert facts.pop("index").keys() >= {"num_bytes", "sha256"}
    assert facts == {
        "model": "aa_composition",
        "untrained": False,
        "model_source": plan.model.source,
        "model_revision": plan.model.revision,
        "model_digest": plan.model.digest,
        "licence": plan.model.licence,
        "pooling": "frequency",
        "layer": plan.embedding.layer,
        "precision": "fp32",
        "dimension": 420,
        "columns": ["embedding"],
        "dtype": "float32",
        "layout": layout_name,
        "num_special_tokens": plan.num_special_tokens,
        "fingerprint": plan.fingerprint,
        "embedding": asdict(plan.embedding),
        "devices": sorted({markers[0].facts.device, "cpu (another)"}),
        "proofs": [],
        "versions": sorted({*(f"{name} {each}" for name, each in markers[0].facts.versions.items()), "numpy 9"}),
        "gathered_by": f"hpc_embed {__version__}",
        "outputs_digest": hashlib.sha256(digests.encode()).hexdigest(),
        "num_records": 14,
        "statuses": {"embedded": 14},
    }
    again = gather(plan, layout, settings)
    for result, is_new in ((gathered, True), (again, False)):
        assert (result.dataset, result.num_records, result.precision) == (str(layout.dataset), 14, "fp32")
        assert (result.statuses, result.is_new) == ({"embedded": 14}, is_new)
        assert 0 < result.seconds < 100


def test_an_index_of_another_size_or_a_folder_that_is_gone_is_made_anew(run_of_seven: tuple[Plan, RunLayout]) -> None:
    plan, layout = run_of_seven
    assert gather(plan, layout, AT_ONCE).is_new
    content = layout.dataset_index.read_bytes()
    for spoil in (
        lambda: layout.dataset_index.write_bytes(content[:-1]),
        layout.dataset_index.unlink,
        lambda: shutil.rmtree(layout.dataset),
        lambda: layout.dataset_facts.write_text("{"),
        lambda: write_json(
            layout.dataset_facts, {**json.loads(layout.dataset_facts.read_text()), "index": {"num_bytes": "many"}}
        ),
        lambda: write_json(layout.dataset_facts, {**json.loads(layout.dataset_facts.read_text()), "index": None}),
    ):
        spoil()
        assert gather(plan, layout, AT_ONCE).is_new
        assert layout.dataset_index.read_bytes() == content
        assert not gather(plan, layout, AT_ONCE).is_new


def test_vectors_that_stay_in_shards_stay_float32(run_of_seven: tuple[Plan, RunLayout]) -> None:
    with pytest.raises(UsageError, match="--layout shards leaves the vectors as they are: float32"):
        gather(*run_of_seven, replace(AT_ONCE, layout="shards", dtype="float16"))


@pytest.mark.parametrize(
    ("appears_after", "seconds", "pauses"),
    [(3.0, 90.0, [1.0, 2.0]), (99.0, 40.0, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 5.0]), (0.0, 90.0, []), (9.0, 0.0, [])],
)
def test_absence_is_looked_at_with_growing_pauses_for_the_time_given(
    appears_after: float, seconds: float, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, slept, told = [0.0], list[float](), list[str]()

    def sleep(time: float) -> None:
        slept.append(time)
        clock[0] += time

    monkeypatch.setattr(waiting, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
    monkeypatch.setattr(waiting, "note", told.append)
    missing: Callable[..., int] = lambda *_: 2 * (clock[0] < appears_after)  # noqa: E731
    monkeypatch.setattr(waiting, "_num_missing", missing)
    waiting.wait_for_markers(None, None, seconds)  # type: ignore[arg-type]
    assert slept == pauses
    assert len(told) == bool(seconds and appears_after)
