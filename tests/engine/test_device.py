"""Precisions: which one a device gets, and which one it is spared."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from hpc_embed.engine import device, exactness, kernel, processor
from hpc_embed.engine.device import choose_precision, facts, find_device
from hpc_embed.errors import EnvironmentFault
from tests.engine.references import CPU


def test_bf16_is_refused_with_the_reason_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(EnvironmentFault, match=r"--precision bf16: cpu .* has no BF16 instructions.*--force-precision"):
        choose_precision("bf16", CPU)
    assert choose_precision("bf16", CPU, force=True) == "bf16"
    assert choose_precision("auto", CPU) == choose_precision("fp32", CPU) == "fp32"


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_bf16_is_taken_where_the_processor_has_it(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "flags", lambda: {"avx2", flag})
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("auto", CPU) == "fp32"


def test_fp8_is_refused_on_a_processor_and_never_chosen_by_itself() -> None:
    with pytest.raises(EnvironmentFault, match=r"--precision fp8: cpu .* has no FP8 .*--force-precision"):
        choose_precision("fp8", CPU)
    assert choose_precision("fp8", CPU, force=True) == "fp8"


@pytest.mark.parametrize(
    ("capability", "hip", "has_it"),
    [((8, 6), None, False), ((8, 9), None, True), ((9, 0), None, True), ((10, 0), None, True), ((9, 4), "6.4", False)],
)
def test_gpus_with_fp8(
    capability: tuple[int, int], hip: str | None, has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fakes of a GPU's capability; AMD's FP8 is another one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.version, "hip", hip)
    gpu = torch.device("cuda", 0)
    assert device.has_fp8(gpu) is has_it
    assert choose_precision("auto", gpu) == "bf16"
    if has_it:
        assert choose_precision("fp8", gpu) == "fp8"
    else:
        with pytest.raises(EnvironmentFault, match="has no FP8"):
            choose_precision("fp8", gpu)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (MemoryError("Unable to allocate 1 TiB"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_is_known_in_every_library_s_words(error: Exception, is_one: bool) -> None:
    assert device.is_out_of_memory(error) is is_one


def fake_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built_for: list[str], name: str | None = None
) -> None:
    """Torch's answers for a GPU that is not there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a fake GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 2 << 30))
    monkeypatch.setattr(torch.version, "hip", None if name is None else "7.0")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(gcnArchName=name))


BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "has_code"),
    [
        ((7, 0), BUILT_FOR, False),  # V100
        ((7, 5), BUILT_FOR, True),
        ((8, 0), BUILT_FOR, True),
        ((8, 9), BUILT_FOR, True),  # by sm_86: the same major
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_90", "sm_100"], True),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["sm_100f", "compute_100f"], False),
        ((11, 0), ["sm_90", "sm_100"], False),
        ((13, 0), [*BUILT_FOR, "compute_120"], True),  # translated by the driver
        ((7, 0), ["compute_75"], False),
        ((9, 0), [], True),  # torch does not say
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_told_before_the_first_kernel(
    capability: tuple[int, int], built_for: list[str], has_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpu(monkeypatch, capability, built_for)
    if has_code:
        assert find_device("0") == torch.device("cuda", 0)
        return
    words = f"a fake GPU: torch .* has no code for capability {capability[0]}.{capability[1]}, only for {built_for[0]}"
    with pytest.raises(EnvironmentFault, match=f"{words}.*Ask Slurm for another GPU"):
        find_device(0)
    name, is_well, detail = facts()[0]
    assert (name, is_well) == ("gpu 0", False)
    assert "has no code for" in detail


@pytest.mark.parametrize(("name", "has_code"), [("gfx90a:sramecc+:xnack-", True), ("gfx906", False)])
def test_amds_gpus_are_known_by_name(name: str, has_code: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpu(monkeypatch, (9, 0), ["gfx90a", "gfx942"], name)
    assert device.has_code(torch.device("cuda", 0)) is has_code


class Switches:
    """A fake of torch's, as they were before 2.9: whole numbers of bits, and no second switch for split sums."""

    allow_tf32 = True

    def __setattr__(self, name: str, value: object) -> None:
        if not isinstance(value, bool):
            raise TypeError(name)
        object.__setattr__(self, name, value)


@pytest.mark.parametrize("matmul", [SimpleNamespace(fp32_precision="tf32"), Switches()])
def test_fp32_is_true_fp32_whatever_the_environment_says(matmul: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    exactness.keep_exact()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert vars(matmul) == ({"allow_tf32": False} if isinstance(matmul, Switches) else {"fp32_precision": "ieee"})


def test_sums_are_in_one_order_where_torch_has_a_switch_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = SimpleNamespace()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    assert exactness.sum_in_one_order(CPU)
    assert vars(matmul) == {"allow_bf16_reduced_precision_reduction": (False, False)}
    monkeypatch.setattr(torch.backends.cuda, "matmul", Switches())
    assert not exactness.sum_in_one_order(CPU)
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction is False


def test_a_switch_that_a_product_does_not_go_with_is_turned_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("allow_splitk=False requires the cuBLASLt backend")

    matmul = SimpleNamespace()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(exactness, "linear", refuses)
    assert not exactness.sum_in_one_order(CPU)
    assert vars(matmul) == {"allow_bf16_reduced_precision_reduction": False}


@pytest.mark.parametrize(
    ("most", "left", "level"),
    [
        ("", {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}, 3),
        ("avx512_bf16", {"avx2", "avx512f", "avx512_bf16"}, 3),
        ("AVX512", {"avx2", "avx512f"}, 2),
        ("avx2", {"avx2"}, 1),
    ],
)
def test_a_processor_plays_a_lesser_one(most: str, left: set[str], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake of the processor, and of a kernel that was built for everything."""
    monkeypatch.setattr(processor, "_cpuinfo", lambda: ["flags : avx2 avx512f avx512_bf16 amx_bf16"])
    monkeypatch.setattr(kernel, "_library", lambda: SimpleNamespace(hpc_embed_attention_level=lambda: 3))
    monkeypatch.setenv("HPC_EMBED_MAX_CPU_ISA", most)
    assert processor.flags() == left
    assert kernel.level() == level


def test_a_processor_names_its_maker_and_family_where_linux_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["vendor_id\t: AuthenticAMD", "cpu family\t: 26", "model\t\t: 2", "model name\t: AMD EPYC"]
    monkeypatch.setattr(processor, "_cpuinfo", lambda: told)
    assert (processor.maker(), processor.family(), processor.name()) == ("AuthenticAMD", 26, "AMD EPYC")
    monkeypatch.setattr(processor, "_cpuinfo", list)
    assert (processor.maker(), processor.family()) == ("", 0)
