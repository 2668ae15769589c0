"""Precisions: which one a device gets, and which one it is spared."""

from __future__ import annotations

import pytest
import torch

from hpc_embed.engine import device, processor
from hpc_embed.engine.device import choose_precision
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
