"""`plan` makes anew what a run folder has lost of its plan, with the same bytes, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import EnvironmentFault, RunConflict
from hpc_embed.planning import mending
from hpc_embed.planning.distribution import distribute
from hpc_embed.planning.planner import Planned, make_plan
from hpc_embed.run import faults, files
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.markers import record_failure
from hpc_embed.run.plan import Plan, read_plan
from tests.fakes import Failing, system_error

FASTA = b">a\nMKVLAAGIVG\n>b\nMKVLAAGIVG\n>empty\n>c\nGLLLAGCSWMKTAYIA\n>d\nACDEFGHIKL\n>e\nWYVT\n"
NAMES = ("shards/shard-00000.parquet", "shards/shard-00001.parquet", "shards.parquet", "records.parquet")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of somebody's")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": cut,
    "flipped": flip,
    "a folder": into_a_folder,
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "in.fa").write_bytes(FASTA)
    make_plan(settings(folder), RunLayout(folder / "run"))
    return folder


@pytest.fixture
def folder(planned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(planned, tmp_path / "copy")


def settings(folder: Path, **others: object) -> PlanSettings:
    chosen = {"fasta": (str(folder / "in.fa"),), "model": "aa_composition", "num_shards": 2, "force_kind": True}
    return PlanSettings(**{**chosen, **others})  # type: ignore[arg-type]


def again(folder: Path, **others: object) -> Planned:
    return make_plan(settings(folder, **others), RunLayout(folder / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """Without what was set aside."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and "withdrawn" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_plan_that_is_lost_or_damaged_is_made_anew_with_the_same_bytes(
    name: str, damage: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    DAMAGES[damage](folder / "run" / name)
    planned = again(folder, num_shards=None)
    assert (planned.is_new, planned.is_mended) == (False, True)
    assert contents(folder) == before
    assert f"made anew: {Path(name).name}\n" in capsys.readouterr().err
    assert not again(folder).is_mended


def test_all_of_it_at_once_is_made_anew(folder: Path) -> None:
    before = contents(folder)
    for lost in ("shards", "work", "outputs", "logs"):
        shutil.rmtree(folder / "run" / lost)
    for name in ("shards.parquet", "records.parquet"):
        (folder / "run" / name).unlink()
    assert again(folder).is_mended
    assert contents(folder) == before
    assert {path.name for path in (folder / "run").iterdir() if path.is_dir()} == {"shards", "work", "outputs", "logs"}


def test_where_plan_json_is_lost_the_same_command_makes_the_same_plan(folder: Path) -> None:
    (folder / "run" / "plan.json").unlink()
    assert again(folder).is_new
    before = contents(folder)
    (folder / "run" / "plan.json").unlink()
    assert again(folder).is_new
    assert contents(folder) == before


def test_other_settings_mend_nothing(folder: Path) -> None:
    (folder / "run" / NAMES[0]).unlink()
    with pytest.raises(RunConflict, match="made with other settings"):
        again(folder, on_invalid="skip")
    assert not (folder / "run" / NAMES[0]).exists()


def test_a_shard_that_is_done_needs_its_file_no_more(folder: Path) -> None:
    layout = RunLayout(folder / "run")
    layout.output(0).touch()
    layout.marker(0).touch()
    layout.shard(0).unlink()
    assert not again(folder).is_mended
    assert not layout.shard(0).exists()


def test_tries_that_failed_for_want_of_a_shard_file_count_no_more(folder: Path) -> None:
    layout = RunLayout(folder / "run")
    for index in (0, 1):
        record_failure(layout.outputs, f"shard-0000{index}", "no such shard file")
    layout.shard(1).unlink()
    again(folder)
    assert (layout.failure(0).exists(), layout.failure(1).exists()) == (True, False)


def test_a_version_that_deals_otherwise_touches_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "run" / NAMES[1]).unlink()
    before = contents(folder)
    plain = distribute

    def otherwise(*arguments: object) -> object:
        made = plain(*arguments)  # type: ignore[arg-type]
        first, second = made.shards
        return made._replace(shards=(first, replace(second, sha256="0" * 64)))

    monkeypatch.setattr(mending, "distribute", otherwise)
    with pytest.raises(RunConflict, match="deals windows to shards otherwise"):
        again(folder)
    assert contents(folder) == before


def without_digests(folder: Path) -> Plan:
    """As a version before them wrote the plan."""
    layout = RunLayout(folder / "run")
    plan = read_plan(layout.plan)
    old = replace(plan, shards=[replace(facts, sha256="") for facts in plan.shards], records_sha256="")
    old.write(layout.plan)
    content = json.loads(layout.plan.read_text())
    for name in ("sha256", "shard_table_sha256", "records_sha256"):
        del content[name]
    layout.plan.write_text(json.dumps(content))
    return old


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_of_a_version_without_digests_is_read_and_mended_and_has_them_from_then_on(
    name: str, folder: Path
) -> None:
    before = contents(folder)
    old = without_digests(folder)
    assert read_plan(folder / "run" / "plan.json") == old
    assert not again(folder).is_mended
    (folder / "run" / name).unlink()
    assert again(folder).is_mended
    assert contents(folder) == before


def test_a_shard_that_the_storage_does_not_give_for_now_is_not_taken_for_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PAUSES_SECONDS", (0.0,))
    monkeypatch.setattr(files, "storage", Failing("shard-00001.parquet", system_error(5)))
    with pytest.raises(EnvironmentFault, match=r"shard-00001.parquet: cannot be read"):
        again(folder)


def test_one_number_changed_in_the_shard_table_is_found_by_who_reads_it(folder: Path) -> None:
    layout = RunLayout(folder / "run")
    plan = read_plan(layout.plan)
    other = [replace(facts, num_residues=facts.num_residues + 1) for facts in plan.shards]
    content = layout.plan.read_text()
    replace(plan, shards=other).write(layout.plan)
    layout.plan.write_text(content)
    with pytest.raises(RunConflict, match=r"shards.parquet: not the shard table of this plan \(its checksum"):
        read_plan(layout.plan).shards[0]


def test_one_digit_changed_in_plan_json_is_found(folder: Path) -> None:
    path = folder / "run" / "plan.json"
    assert '"layer": 0' in path.read_text()
    path.write_text(path.read_text().replace('"layer": 0', '"layer": 1'))
    with pytest.raises(RunConflict, match=r"plan.json: not a whole plan \(its checksum differs\)"):
        read_plan(path)
