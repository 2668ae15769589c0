"""Which devices workers run on, by what the environment and nvidia-smi tell."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from hpc_embed.cluster.devices import choose_devices, threads_per_worker
from hpc_embed.cluster.places import visible_gpus
from hpc_embed.config import WorkSettings
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.registry import find_model
from tests.cluster.conftest import Fakes

LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5a0e)
  MIG 1g.5gb      Device  0: (UUID: MIG-0f31)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-77b2)
"""
GIBIBYTE = 2**30


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU by the environment, four cores, and more memory than anybody needs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3} if process == 0 else {0})
    has_memory(monkeypatch, 1000 * GIBIBYTE)


def has_memory(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    told = {"SC_AVPHYS_PAGES": number // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: told[name])


@pytest.mark.parametrize(
    ("visible", "number"),
    [
        ("0", 1),
        ("0,1", 2),
        (" 3 , 5 ,", 2),
        ("3,-1,5", 1),
        ("3,gpu,5", 1),
        ("GPU-5a0e,MIG-0f31", 2),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0,-1", 1),
    ],
)
def test_gpus_that_the_environment_leaves_us(
    visible: str, number: int, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.says("nvidia-smi", LISTING * 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(visible_gpus()) == number
    assert fakes.calls("nvidia-smi") == [], "it knows nothing of what we may use"


@pytest.mark.parametrize(
    ("listing", "code", "number"), [(LISTING, 0, 2), ("", 0, 0), (LISTING, 9, 0), ("No devices were found\n", 0, 0)]
)
def test_gpus_that_nvidia_smi_lists(
    listing: str, code: int, number: int, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    fakes.says("nvidia-smi", listing, code)
    assert len(visible_gpus()) == number
    assert fakes.calls("nvidia-smi") == ["-L"]


def test_without_nvidia_smi_there_is_no_gpu(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(fakes.folder))
    assert len(visible_gpus()) == 0


@pytest.mark.parametrize(
    ("devices", "visible", "chosen"),
    [
        ("auto", "0,1,2", [0, 1, 2]),
        ("auto", "", ["cpu"] * 4),
        ("cpu", "0,1", ["cpu"] * 4),
        ("0", "4,7", [0]),
        ("1,0", "4,7", [1, 0]),
        ("1", "4,7", [1]),
    ],
)
def test_devices_of_a_transformer(
    devices: str, visible: str, chosen: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert choose_devices(WorkSettings(devices=devices), find_model("esm2_t6_8M")) == chosen


@pytest.mark.parametrize("devices", ["auto", "cpu", "0"])
def test_a_model_without_weights_runs_on_every_core(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert choose_devices(WorkSettings(devices=devices), find_model("aa_composition")) == ["cpu"] * 4


@pytest.mark.parametrize("devices", ["2", "0,2", "-1", "0,-1"])
def test_a_gpu_that_is_not_there_is_refused(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(EnvironmentFault, match=f"no GPU {devices.rpartition(',')[2]} here, 2 visible"):
        choose_devices(WorkSettings(devices=devices), find_model("esm2_t6_8M"))


@pytest.mark.parametrize("devices", ["gpu", "0,", "0-1", ""])
@pytest.mark.parametrize("model", ["esm2_t6_8M", "aa_composition"])
def test_what_is_no_list_of_gpus_is_refused_for_every_model(devices: str, model: str) -> None:
    with pytest.raises(UsageError, match="not a list of GPUs"):
        choose_devices(WorkSettings(devices=devices), find_model(model))


@pytest.mark.parametrize(
    ("free", "workers", "number"),
    [
        (10**9, None, 4),
        (10**9, 7, 7),
        (458_752, None, 4),
        (454_656, None, 3),
        (344_064, None, 3),
        (339_968, None, 2),
        (4096, None, 1),
        (4096, 2, 2),
    ],
)
def test_workers_on_the_cpu_are_as_many_as_the_memory_holds(
    free: int, workers: int | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of 10,000 numbers needs 80,000 bytes a worker, of 70 % of what is free."""
    has_memory(monkeypatch, free)
    model = replace(find_model("esm2_t6_8M"), num_parameters=10_000)
    assert choose_devices(WorkSettings(devices="cpu", workers=workers), model) == ["cpu"] * number


@pytest.mark.parametrize(
    ("devices", "threads"),
    [(["cpu"], 4), (["cpu"] * 2, 2), (["cpu"] * 3, 1), (["cpu"] * 9, 1), ([0], None), ([0, 1], None)],
)
def test_cores_are_shared_out_among_cpu_workers(devices: list[int | str], threads: int | None) -> None:
    assert threads_per_worker(devices) == threads
