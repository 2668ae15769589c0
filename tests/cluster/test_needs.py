"""What is missing is told before anything is planned."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest

from hpc_embed.cli import main
from hpc_embed.cluster import needs
from hpc_embed.config import PlanSettings, WorkSettings
from hpc_embed.engine import processor
from hpc_embed.errors import EnvironmentFault
from tests.conftest import REPOSITORY

GLOBINS = str(REPOSITORY / "examples" / "globins45.fasta")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without(*packages: str) -> object:
    return lambda name: None if name in packages else find_spec(name)


@pytest.mark.parametrize("model", ["esm2_t6_8M:untrained", "esm2_t33_650M", "someone/model"])
def test_without_torch_a_transformer_is_refused_before_anything_is_planned(
    model: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs, "find_spec", without("torch", "safetensors"))
    assert main(["local", GLOBINS, "--model", model]) == 5
    error = capsys.readouterr().err
    assert f"--model {model} needs torch and safetensors" in error
    assert "pip install 'hpc-embed[torch]'" in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_task_without_torch_says_so_once_and_starts_no_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", GLOBINS, "--model", "dnabert_s:untrained", "--force-kind"]) == 0
    monkeypatch.setattr(needs, "find_spec", without("tokenizers"))
    capsys.readouterr()
    assert main(["run-task"]) == 5
    assert capsys.readouterr().err.count("dnabert_s needs tokenizers") == 1


def test_composition_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", without("torch", "safetensors", "tokenizers"))
    for name in ("composition", "aa_composition", "tetranucleotide"):
        needs.refuse_missing_packages(name)


def test_bf16_without_instructions_for_it_is_refused_before_anything_is_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: {"avx2"})
    arguments = ["local", GLOBINS, "--model", "esm2_t6_8M:untrained", "--precision", "bf16", "--devices", "cpu"]
    assert main(arguments) == 5
    assert "has no BF16 instructions" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "devices", "is_insisted_on", "flags", "is_refused"),
    [
        ("bf16", ("cpu",), False, {"avx2"}, True),
        ("bf16", ("cpu",), True, {"avx2"}, False),
        ("bf16", ("cpu",), False, {"avx2", "avx512_bf16"}, False),
        ("bf16", (0, "cpu"), False, {"avx2"}, False),
        ("fp32", ("cpu",), False, {"avx2"}, False),
        ("fp8", ("cpu",), False, {"avx2", "avx512_bf16", "amx_bf16"}, True),
        ("fp8", ("cpu",), True, {"avx2"}, False),
        ("fp8", (0,), False, {"avx2"}, False),
    ],
)
def test_a_precision_is_refused_on_a_processor_without_it_alone_and_not_where_it_is_insisted_on(
    precision: Literal["bf16", "fp32", "fp8"],
    devices: tuple[int | str, ...],
    is_insisted_on: bool,
    flags: set[str],
    is_refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: flags)
    settings = PlanSettings(fasta=("x",), precision=precision)
    with pytest.raises(EnvironmentFault) if is_refused else nullcontext():
        needs.refuse_slow_precision(settings, WorkSettings(force_precision=is_insisted_on), devices)
