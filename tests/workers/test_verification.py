"""`verify` tells a sound model from a broken one, on untrained models and on checkpoints in folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hpc_embed.cli import main
from hpc_embed.engine import encoder
from hpc_embed.engine.attention import Attend, make_attention
from hpc_embed.engine.biases import Bias
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.esm2 import VOCABULARY, esm2_shape
from hpc_embed.model import AMINO_ACIDS
from hpc_embed.workers.verification import CODONS, probe_sequences
from tests.checkpoints.faces import ESM2_CONFIG, write_vocabulary
from tests.conftest import Run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ESM-2 as transformers itself writes one."""
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-6,  # not ESM-2's own, to see that it is read
    )
    folder = tmp_path_factory.mktemp("models") / "tuned"
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    write_vocabulary(folder)
    return folder


@pytest.mark.parametrize("model", ["esm2_t6_8M:untrained", "dnabert_s:untrained"])
def test_every_precision_and_back_end_of_an_untrained_model_agrees(run: Run, model: str) -> None:
    facts = json.loads(run("verify", model, "--device", "cpu", "--json").stdout)
    assert facts["model"] == model
    assert {row["precision"] for row in facts["agreements"]} >= {"fp32"}
    assert "sdpa" in {row["attention"] for row in facts["agreements"]}
    assert all(row["is_well"] for row in facts["agreements"])
    assert all(row["largest_difference"] < 2e-5 for row in facts["agreements"] if row["precision"] == "fp32")


def test_a_checkpoint_is_compared_with_what_transformers_makes_of_it(run: Run, checkpoint: Path) -> None:
    done = run("verify", checkpoint, "--device", "cpu")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"tuned ({checkpoint.resolve()}) on cpu")
    assert lines[1].split("  ")[0] == "precision"
    assert all(line.endswith("ok") for line in map(str.strip, lines[2:]))
    assert done.stderr == ""


def test_a_mistake_in_our_encoder_is_found(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FAMILIES, "esm2", replace(FAMILIES["esm2"], embedding_scale=1.0))
    assert main(["verify", str(checkpoint), "--device", "cpu"]) == 6
    printed = capsys.readouterr()
    assert "BEYOND" in printed.out
    assert "fp32 with" in printed.err
    assert "lie beyond the bound" in printed.err


def test_what_cannot_be_verified_is_said(run: Run) -> None:
    assert "has no weights to verify" in run("verify", "aa_composition", code=2).stderr
    assert "takes one model, and was given" in run("verify", "esm2_t6_8M", "esm2_t12_35M", code=2).stderr
    assert "neither auto, nor cpu" in run("verify", "esm2_t6_8M:untrained", "--device", "gpu", code=2).stderr
    assert "are not in the hub cache" in run("verify", "esm2_t6_8M", code=5, env={"HF_HOME": "/nonexistent"}).stderr


def test_a_model_that_transformers_runs_is_compared_with_one_window_at_a_time(run: Run, tmp_path: Path) -> None:
    """ESM-2 whose tokens are others: it runs as what its files say, and so it is compared."""
    folder = tmp_path / "reordered"
    folder.mkdir()
    save_file(random_weights(FAMILIES["esm2"], esm2_shape(2, 40, 4), 1), folder / "model.safetensors")
    dimensions = {"num_hidden_layers": 2, "hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 160}
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | dimensions))
    write_vocabulary(folder, (*VOCABULARY[:4], *reversed(VOCABULARY[4:29]), *VOCABULARY[29:]))
    done = run("verify", folder, "--device", "cpu")
    assert "It is no esm2: token 4 of vocab.txt is 'O', not 'L'." in done.stderr
    lines = list(map(str.strip, done.stdout.splitlines()[2:]))
    assert lines
    assert all(line.endswith("ok") for line in lines)


def test_dna_probes_are_the_proteins_in_codons() -> None:
    assert len(CODONS.split()) == len(AMINO_ACIDS)
    assert probe_sequences("dna")[4] == b"ATG"
    assert [len(dna) for dna in probe_sequences("dna")] == [3 * len(protein) for protein in probe_sequences("protein")]


def test_the_others_are_looked_at_where_one_back_end_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fake of a back end whose library does not load."""

    def make(name: str, bias: Bias | None = None) -> Attend:
        def fails(*_: object) -> Tensor:
            raise ImportError("undefined symbol: _ZN3c10")

        return fails if name == "broken" else make_attention(name, bias)

    monkeypatch.setattr(encoder, "make_attention", make)
    monkeypatch.setattr(encoder, "available_back_ends", lambda *_, **__: ["broken", "sdpa"])
    assert main(["verify", "esm2_t6_8M:untrained", "--device", "cpu"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(line[1], line[-1]) for line in lines[:2]] == [("broken", "_ZN3c10"), ("sdpa", "ok")]
