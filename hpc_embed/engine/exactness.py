"""torch's switches for the products of a GPU, set so that exactness comes before speed."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn.functional import linear


def keep_exact() -> None:
    """FP32 of a GPU as true FP32, whatever the environment of a container says."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # read when cuBLAS starts, which is after this
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # torch 2.9; the older name may not be used beside it
        matmul.fp32_precision = "ieee"
    else:
        matmul.allow_tf32 = False


def sum_in_one_order(device: torch.device) -> bool:
    """BF16 products with a bias, on a GPU: float32 sums, none of them split along the inner dimension, so that a row
    has the same bits among any number of rows. False where this torch has no switch for it, or none that works.

    cuBLASLt alone heeds the switch. torch takes it for products with a bias, and raises for others.
    """
    matmul: Any = torch.backends.cuda.matmul
    try:
        matmul.allow_bf16_reduced_precision_reduction = (False, False)
        weight, bias = torch.ones(64, 64, device=device, dtype=torch.bfloat16), torch.ones(64, device=device)
        for num_rows in (1, 64):
            linear(weight[:num_rows], weight, bias.bfloat16())
    except (TypeError, RuntimeError, AttributeError):
        matmul.allow_bf16_reduced_precision_reduction = False
        return False
    return True


def sums_may_split(error: RuntimeError) -> bool:
    """Turn `sum_in_one_order` back where a product of some shape was refused for it; False for other errors."""
    if "cuBLASLt" not in str(error):
        return False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return True
