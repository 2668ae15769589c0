"""No vector from a checkpoint that has not proven itself here: made once, kept, cited, and refused where it fails."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hpc_embed.engine import references
from hpc_embed.engine.checkpoints import in_other_form
from hpc_embed.engine.weights import random_weights
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.esm2 import RESIDUES, VOCABULARY, esm2_shape
from hpc_embed.families.esmc import ESMC, esmc_shape
from hpc_embed.run.identity import pin_model
from hpc_embed.run.plan import Embedding
from hpc_embed.run.proofs import cache_folder
from hpc_embed.workers import proof
from hpc_embed.workers.base import LoadedModel
from hpc_embed.workers.registry import make_worker
from tests.checkpoints.faces import ESM2_CONFIG, write_vocabulary
from tests.conftest import Run
from tests.workers.checkpoints import PACKED


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("HPC_EMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "proofs"


def esm2(folder: Path) -> Path:
    folder.mkdir()
    save_file(random_weights(FAMILIES["esm2"], esm2_shape(2, 40, 4), 1), folder / "model.safetensors")
    dimensions = {"num_hidden_layers": 2, "hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 160}
    (folder / "config.json").write_text(json.dumps(ESM2_CONFIG | dimensions))
    write_vocabulary(folder)
    return folder


def load(folder: Path) -> LoadedModel:
    model, identity = pin_model(str(folder), None, None)
    embedding = Embedding(
        pooling="mean",
        layer=model.num_layers,
        precision="fp32",
        on_long="window",
        max_residues=None,
        on_invalid="unknown",
        case="upper",
    )
    return make_worker(identity, embedding, num_threads=1).load("cpu")


@pytest.mark.parametrize("name", PACKED)
def test_a_checkpoint_of_each_family_proves_itself(name: str, tmp_path: Path) -> None:
    told = load(PACKED[name][1](tmp_path / "model")).proof
    assert "tokens equal, 1 - cos" in told
    assert "in fp32 on" in told


def test_a_proof_is_made_once_and_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = esm2(tmp_path / "model")
    told = load(folder).proof
    assert cache_folder() == cache
    assert len(list(cache.glob("*.json"))) == 1
    monkeypatch.setattr(proof, "_prove", None)  # would not be called
    assert load(folder).proof == told


def test_who_waits_for_a_proof_finds_the_one_that_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = esm2(tmp_path / "model"), []
    prove = proof._prove

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return prove(*arguments)

    monkeypatch.setattr(proof, "_prove", counted)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(load, [folder, folder])
    assert one.proof == other.proof
    assert made == [1]


def test_other_weights_other_code_and_another_library_want_another_proof(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = esm2(tmp_path / "model")
    load(folder)
    save_file(random_weights(FAMILIES["esm2"], esm2_shape(2, 40, 4), 2), folder / "model.safetensors")
    load(folder)
    monkeypatch.setattr(proof, "digest_of_code", lambda: "other")
    load(folder)
    monkeypatch.setattr(proof, "_version", lambda package: "99")
    load(folder)
    assert len(list(cache.glob("*.json"))) == 4


def test_wrong_vectors_are_refused_before_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = esm2(tmp_path / "model")
    monkeypatch.setitem(FAMILIES, "esm2", replace(FAMILIES["esm2"], embedding_scale=1.0))
    with pytest.raises(EnvironmentFault, match="its vectors are not those of the reference implementation"):
        load(folder)


def test_other_tokens_are_refused_before_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake of a vocabulary that is compared wrongly: the tokenizer itself still knows."""
    folder = esm2(tmp_path / "model")
    swapped = (*VOCABULARY[:4], "A", "L", *VOCABULARY[6:])
    residues = replace(RESIDUES, vocabulary=swapped)
    monkeypatch.setitem(FAMILIES, "esm2", replace(FAMILIES["esm2"], tokens=residues))
    monkeypatch.setattr("hpc_embed.checkpoints.face._differences_of_tokens", lambda *_: [])
    with pytest.raises(EnvironmentFault, match=r"its own tokenizer makes other tokens of MQIFVKTLTG… \(0 20 16 12"):
        load(folder)


def test_without_a_proof_the_dataset_says_so(run: Run, globins: Path, tmp_path: Path, cache: Path) -> None:
    folder = esm2(tmp_path / "model")
    run("local", globins, "--model", folder, "--workers", 1, "--no-proof")
    facts = json.loads((tmp_path / "embed-run/dataset.json").read_text())
    assert facts["proofs"] == ["none, by --no-proof"]
    assert not cache.exists()


def test_the_dataset_cites_the_proof(run: Run, globins: Path, tmp_path: Path, cache: Path) -> None:
    folder = esm2(tmp_path / "model")
    run("local", globins, "--model", folder, "--workers", 2)
    (told,) = json.loads((tmp_path / "embed-run/dataset.json").read_text())["proofs"]
    assert told.startswith("beside transformers ")
    assert len(list(cache.glob("*.json"))) == 1
    again = run("plan", globins, "--model", folder, "--run-dir", "again", "--json")
    assert again.returncode == 0
    assert json.loads((tmp_path / "again/plan.json").read_text())["model"]["proof"] == told


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HPC_EMBED_CACHE", str(tmp_path / "file"))
    (told,) = [note for note in load(esm2(tmp_path / "model")).notes if "proof" in note]
    assert "cannot be kept in" in told


def test_a_kept_proof_that_is_none_is_made_anew(tmp_path: Path, cache: Path) -> None:
    folder = esm2(tmp_path / "model")
    load(folder)
    (kept,) = cache.glob("*.json")
    for content in ("{", "[]", '{"facts": 3}'):
        kept.write_text(content)
        load(folder)
        assert json.loads(kept.read_text())["reference"].startswith("transformers ")


def test_no_room_for_a_reference_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "free_bytes", lambda device: 1000)
    with pytest.raises(EnvironmentFault, match=r"no room for the .* of the reference implementation.*--no-proof"):
        load(esm2(tmp_path / "model"))


def test_a_tokenizer_that_transformers_cannot_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = esm2(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TheirOwn"}')
    with pytest.raises(EnvironmentFault, match="its tokenizer, TheirOwn, runs code of its own"):
        load(folder)


SHAPE = esmc_shape(2, 128, 2, 512)
SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
ESMC_FORMS: tuple[dict[str, object], ...] = (
    {"model_type": "esmc", "vocab_size": 64, **SIZES},
    {},
    {"model_type": "esmc", "vocab_size": 64, "d_model": 128, "n_heads": 2, "n_layers": 2},
)
"""The config.json of transformers' form, of the authors' first files, and of TransformerEngine's form."""


def as_transformer_engine_writes(name: str) -> str:
    """A fused layer's tensors have no dot before their last word."""
    return re.sub(r"(layer_norm|fc1|fc2)\.(weight|bias)$", r"\1_\2", f"esmc.{name}")


def esmc(folder: Path, form: int) -> Path:
    """One and the same ESM C in one of its forms."""
    folder.mkdir()
    first = ESMC.names[0]
    tensors = in_other_form(random_weights(ESMC, SHAPE, 3, names=first), 2, first, ESMC.names[form])
    if form == 2:
        tensors = {as_transformer_engine_writes(name): tensor for name, tensor in tensors.items()}
        tensors["esmc.transformer.blocks.0.attn.layernorm_qkv._extra_state"] = torch.zeros(0, dtype=torch.uint8)
    (folder / "config.json").write_text(json.dumps(ESMC_FORMS[form]))
    if form == 1:
        (folder / "data" / "weights").mkdir(parents=True)
        torch.save(tensors, folder / "data" / "weights" / "esmc.pth")
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("form", [1, 2])
def test_the_authors_forms_of_esmc_are_proven_and_equal_transformers_own(form: int, tmp_path: Path) -> None:
    vectors = []
    for each in (0, form):
        loaded = load(esmc(tmp_path / f"form {each}", each))
        assert "tokens equal" in loaded.proof
        vectors.append(loaded.start(loaded.tokenise([b"MKTAYIAKQRQISFVKSHFSRQ"]))().vectors_BD)
    assert np.array_equal(vectors[0], vectors[1])


def test_a_tokenizer_json_is_a_tokenizer_whatever_class_its_settings_name(tmp_path: Path) -> None:
    """ESM C's authors' form brings one, and the name of a class that transformers does not have."""
    from transformers import EsmcTokenizer

    folder = esmc(tmp_path / "model", 2)
    EsmcTokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "ESMCTokenizer"}))
    assert "tokens equal" in load(folder).proof
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": {"type": "Odd"}}))
    with pytest.raises(EnvironmentFault, match=r"tokenizer\.json: no tokenizer"):
        load(folder)
    content["post_processor"] = None  # nothing stands around a sequence any more
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(EnvironmentFault, match="its own tokenizer makes other tokens"):
        load(folder)


def test_a_transformers_without_the_reference_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(references.MODEL_CLASSES, "esmc", ("EsmcConfig", "EsmdModel"))
    with pytest.raises(EnvironmentFault, match=r"transformers \S+ has no EsmdModel, .*--no-proof"):
        load(esmc(tmp_path / "model", 0))


def test_a_legacy_pickle_is_read(tmp_path: Path) -> None:
    folder = esm2(tmp_path / "model")
    expected = load(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = load(folder)
    window = [b"MKTAYIAKQRQISFVKSHFSRQ"]
    vectors = [each.start(each.tokenise(window))().vectors_BD for each in (expected, found)]
    assert np.array_equal(vectors[0], vectors[1])
