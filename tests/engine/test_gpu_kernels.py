"""The GPU's kernels without a GPU: run in Triton's interpreter, and what is done where they fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from hpc_embed.engine import attention, chains, encoder, fusion
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.dense import Dense
from tests.engine.references import CPU, TINY, esm2_encoder, random_tokens

pytest.importorskip("triton", reason="on x86-64 alone")
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}
"""The interpreter cuts BF16 off where a GPU rounds it."""


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, object]]:
    """Every case of tests/engine/interpreted.py."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.engine.interpreted"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_kernels_compute_what_their_plain_twins_do(interpreted: list[dict[str, object]]) -> None:
    assert {str(case["name"]).split()[0] for case in interpreted} == {"attention", *chains_with_twins()}
    beyond = [case for case in interpreted if not float(str(case["difference"])) <= BOUNDS[str(case["dtype"])]]
    assert beyond == []
    assert {case["difference"] for case in interpreted if case["name"] == "quantised"} == {0.0}


def test_attention_has_the_same_bits_alone_and_packed(interpreted: list[dict[str, object]]) -> None:
    cases = [case for case in interpreted if str(case["name"]).startswith("attention")]
    assert len(cases) == 36
    assert [case for case in cases if not case["is_alone_the_same"]] == []


def chains_with_twins() -> set[str]:
    return {"rotate", "add_norm", "norm_of_sum", "norm_queries_keys", "quantised", "gate", "activated"}


def test_a_back_end_that_fails_or_differs_is_dropped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes of two back ends, one with a broken ABI and one that computes something else."""
    real = attention.make_attention

    def make(name: str, bias: object = None) -> attention.Attend:
        if name == "broken":
            return broken
        if name == "wrong":
            return lambda qkv, rotary, batch: qkv[:, 2] * 1.5
        return real("sdpa")

    def broken(*_: object) -> torch.Tensor:
        raise ImportError("undefined symbol: _ZN3c10\nand more")

    monkeypatch.setattr(encoder, "make_attention", make)
    monkeypatch.setattr(encoder, "available_back_ends", lambda *_, **__: ["broken", "wrong", "sdpa"])
    made = esm2_encoder(TINY)
    assert made.attention_name == "sdpa"
    assert made.dropped["broken"] == "ImportError: undefined symbol: _ZN3c10"
    assert made.dropped["wrong"].startswith("differs from SDPA by ")
    monkeypatch.undo()
    batch = make_batch(random_tokens([3, 70]), CPU)
    assert (made(batch, 6) - esm2_encoder(TINY)(batch, 6)).abs().max() <= 1e-4


def test_a_nan_is_a_difference() -> None:
    reason = attention.why_not(
        lambda qkv, rotary, batch: qkv[:, 2] * float("nan"), 2, 16, lambda batch: None, None, CPU, torch.float32
    )
    assert reason == "differs from SDPA by nan"


def test_every_back_end_of_this_cpu_passes_its_trial() -> None:
    made = esm2_encoder(TINY)
    for name in made.attention_back_ends:
        made.use_attention(name)
        assert made._why_not() is None, name
    assert made.dropped == {}


def test_without_a_gpu_or_what_triton_needs_chains_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fusion.fused(chains.rotate, "cpu") is chains.rotate
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    assert fusion.why_plain() == "no GPU"
    fusion.why_plain.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # a fake: Triton finds no driver behind it
    try:
        reason = fusion.why_plain()
        assert reason is not None
        assert "\n" not in reason
        assert fusion.fused(chains.gate, "cuda") is chains.gate
        assert attention.available_back_ends(torch.device("cuda"), 64, torch.float32) == ["sdpa"]
    finally:
        fusion.why_plain.cache_clear()


def test_steps_between_the_products_are_the_twins_where_these_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the chains that an encoder on a GPU asks for, noted by a fake that hands out the plain ones."""
    asked: list[str] = []

    def noted(chain: object, device_type: str) -> object:
        asked.append(getattr(chain, "__name__", ""))
        return chain

    for module in ("layers", "norm", "rotary", "dense"):
        monkeypatch.setattr(f"hpc_embed.engine.{module}.fused", noted)
    monkeypatch.setattr("hpc_embed.engine.dense.products", lambda *_: "torch")
    made = esm2_encoder(TINY)
    made.use_attention("sdpa")
    made(make_batch(random_tokens([3, 70]), CPU), 6)
    assert set(asked) == {"rotate", "activated", "add_norm"}
    dense = Dense(torch.ones(3, 4), None, device=CPU, dtype=torch.float32)
    dense.gated(dense, torch.ones(2, 4), "gelu")
    assert asked[-1] == "gate"


@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 40, 64, 80, 96, 128])
@pytest.mark.parametrize("generation", [8, 9, 10, 12])
def test_blocks_fit_into_what_every_gpu_has_for_them(head_dim: int, generation: int) -> None:
    gpu_attention = pytest.importorskip("hpc_embed.engine.gpu_attention")
    padded = max(16, 1 << (head_dim - 1).bit_length())
    for dtype, size in ((torch.bfloat16, 2), (torch.float32, 4)):
        blocks = gpu_attention.blocks_for(head_dim, dtype, generation, is_rotary=head_dim < 100)
        shared = size * padded * (blocks.queries + 2 * blocks.keys * blocks.stages)
        assert shared <= 99 * 1024, "shared memory of a block on the smallest, sm_86 and sm_120"
