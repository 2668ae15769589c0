"""Which GPU and which cores each worker of a node gets, by what the environment, nvidia-smi and sysfs tell (fakes)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_embed.cluster import places
from hpc_embed.cluster.places import ALLOCATOR, EXPANDABLE, VARIABLES, Place, places_of, visible_gpus
from tests.cluster.conftest import Fakes

LISTING = """GPU 0: NVIDIA H100 (UUID: GPU-5a0e)
  MIG 1g.10gb     Device  0: (UUID: MIG-0f31)
  MIG 1g.10gb     Device  1: (UUID: MIG-77aa)
GPU 1: NVIDIA H100 (UUID: GPU-77b2)
"""
BUSES = """0, GPU-5a0e, 00000000:1B:00.0
1, GPU-77b2, 00000000:43:00.0
2, GPU-aaaa, 00000000:52:00.0
"""


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Eight cores, of which GPUs 0 and 2 have the first four beside them, and GPU 1 the others; no variable set."""
    before = dict(os.environ)
    for name in (*VARIABLES, *ALLOCATOR):
        os.environ.pop(name, None)
    for bus, cores in (("0000:1b:00.0", "0-3"), ("0000:43:00.0", "4-7"), ("0000:52:00.0", "0-3")):
        (tmp_path / "pci" / bus).mkdir(parents=True)
        (tmp_path / "pci" / bus / "local_cpulist").write_text(cores + "\n")
    monkeypatch.setattr(places, "PCI", tmp_path / "pci")
    monkeypatch.setattr(places, "KFD", tmp_path / "kfd")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def test_mig_instances_stand_in_the_place_of_their_gpu(fakes: Fakes) -> None:
    fakes.says("nvidia-smi", LISTING)
    assert visible_gpus() == ["MIG-0f31", "MIG-77aa", "1"]


@pytest.mark.parametrize(
    ("listed", "seen"),
    [("3,5", ["3", "5"]), ("MIG-0f31,MIG-77aa", ["MIG-0f31", "MIG-77aa"]), ("1,none,2", ["1"]), ("-1,0", []), ("", [])],
)
@pytest.mark.parametrize("variable", VARIABLES)
def test_each_maker_s_variable_is_read_up_to_its_first_entry_that_is_none(
    variable: str, listed: str, seen: list[str], fakes: Fakes
) -> None:
    os.environ[variable] = listed
    assert visible_gpus() == seen


def test_amd_gpus_are_counted_where_no_variable_names_them(fakes: Fakes, node: Path) -> None:
    fakes.says("nvidia-smi", "", 9)
    for number, identity in enumerate(("0", "41532", "8811")):
        (node / "kfd" / str(number)).mkdir(parents=True)
        (node / "kfd" / str(number) / "gpu_id").write_text(identity + "\n")
    (node / "kfd" / "3").mkdir()
    (node / "kfd" / "3" / "gpu_id").mkdir()  # cannot be read, so none
    assert visible_gpus() == ["0", "1"]
    assert [place.variable for place in places_of([0, 1])] == ["HIP_VISIBLE_DEVICES"] * 2


def test_every_worker_sees_one_gpu_alone_and_has_its_share_of_the_cores_beside_it(fakes: Fakes) -> None:
    fakes.says("nvidia-smi", BUSES)
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,GPU-77b2,2"
    assert places_of([0, 1, 2]) == [
        Place(0, "CUDA_VISIBLE_DEVICES", "0", frozenset({0, 1})),
        Place(1, "CUDA_VISIBLE_DEVICES", "GPU-77b2", frozenset({4, 5, 6, 7})),
        Place(2, "CUDA_VISIBLE_DEVICES", "2", frozenset({2, 3})),
    ]


def test_nvidia_smi_is_asked_for_what_is_read(fakes: Fakes) -> None:
    query = '[ "$*" = "--query-gpu=index,uuid,pci.bus_id --format=csv,noheader" ] || exit 6'
    fakes.does("nvidia-smi", f'[ "$*" = -L ] && {{ printf %s "{LISTING}"; exit; }}\n{query}\nprintf %s "{BUSES}"')
    assert [place.variable for place in places_of([0, 1])] == ["CUDA_VISIBLE_DEVICES"] * 2
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert [place.cores for place in places_of([0, 1])] == [frozenset(range(4)), frozenset(range(4, 8))]


def test_cores_of_several_stretches_are_all_found(fakes: Fakes, node: Path) -> None:
    fakes.says("nvidia-smi", BUSES)
    (node / "pci" / "0000:1b:00.0" / "local_cpulist").write_text("0-1,3,6-7\n")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert places_of([0, 1])[0].cores == frozenset({0, 1, 3, 6, 7})


def test_a_gpu_that_sysfs_does_not_know_has_all_cores(fakes: Fakes, node: Path) -> None:
    fakes.says("nvidia-smi", BUSES)
    (node / "pci" / "0000:1b:00.0" / "local_cpulist").unlink()
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert places_of([0, 1])[0].cores == frozenset(range(8))


def test_cores_are_shared_out_evenly_where_nothing_tells_which_are_near(fakes: Fakes) -> None:
    fakes.says("nvidia-smi", "", 9)
    os.environ["CUDA_VISIBLE_DEVICES"] = "MIG-a,MIG-b,MIG-c"
    shares = [place.cores for place in places_of([0, 1, 2])]
    assert shares == [frozenset({0, 1}), frozenset({2, 3, 4}), frozenset({5, 6, 7})]


def test_more_workers_than_cores_share_them_all(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.says("nvidia-smi", "", 9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {6})
    os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"
    assert [place.cores for place in places_of([0, 1])] == [None, frozenset({6})]


def test_a_worker_by_itself_keeps_all_cores_and_nobody_is_asked(fakes: Fakes) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "4,7"
    assert places_of([1]) == [Place(1, "CUDA_VISIBLE_DEVICES", "7")]
    assert fakes.calls("nvidia-smi") == []


def test_workers_on_the_cpu_keep_all_cores(fakes: Fakes) -> None:
    assert places_of(["cpu", "cpu"]) == [Place("cpu"), Place("cpu")]
    assert Place("cpu").enter() == "cpu"
    assert fakes.calls("nvidia-smi") == []


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))


def test_a_process_that_enters_its_place_has_one_gpu_of_number_0(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[object] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *process_and_cores: bound.append(process_and_cores))
    assert Place(5, "CUDA_VISIBLE_DEVICES", "MIG-77aa", frozenset({3})).enter() == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-77aa"
    assert {os.environ[name] for name in ALLOCATOR} == {EXPANDABLE}
    assert bound == [(0, {3})]


def test_the_allocator_that_somebody_chose_stays() -> None:
    os.environ[ALLOCATOR[1]] = "max_split_size_mb:128"
    assert Place(0, "CUDA_VISIBLE_DEVICES", "0").enter() == 0
    assert os.environ[ALLOCATOR[1]] == "max_split_size_mb:128"
    assert ALLOCATOR[0] not in os.environ
