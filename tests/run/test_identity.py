"""Which model exactly: what `--model` may name, and what is pinned of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hpc_embed import registry
from hpc_embed.checkpoints.config import read_config
from hpc_embed.checkpoints.files import weight_files
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.families import FAMILIES
from hpc_embed.families.esm2 import ESM2, VOCABULARY
from hpc_embed.families.t5 import ANKH, T5
from hpc_embed.model import Kind
from hpc_embed.registry import find_model
from hpc_embed.run import files
from hpc_embed.run import identity as identity_module
from hpc_embed.run.identity import (
    ModelIdentity,
    copy_checkpoint,
    digest_of_checkpoint,
    pin_model,
)
from tests.checkpoints.faces import ESM2_CONFIG, sizes_of, write_face

T5_CONFIG: dict[str, object] = {
    "model_type": "t5",
    "num_layers": 2,
    "d_model": 8,
    "num_heads": 2,
    "d_kv": 4,
    "d_ff": 16,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
BERT = {
    "model_type": "bert",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 30,
    "max_position_embeddings": 512,
}
OTHER_PACKAGES = replace(find_model("esm2_t6_8M"), name="another", max_residues=7)
CARD = "---\nlicense: apache-2.0\n---\n"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint(folder: Path, config: Mapping[str, object] = ESM2_CONFIG, **files: str) -> Path:
    """A small checkpoint of the family that the config speaks of, with a vocabulary and more files."""
    family = next((family for family in FAMILIES.values() if family.claims(config, ())), None)
    sizes = {"x.weight": (1,)} if family is None else sizes_of(family, family.shape_of(config))
    write_face(folder, config, sizes, VOCABULARY if family is ESM2 else ("[UNK]", *"ACGT"))
    if family in (T5, ANKH):
        (folder / "vocab.txt").unlink()
        names = ["<pad>", "</s>", "<unk>", *"ALGVSREDTIPKFQNYMHWCXBOUZ"]
        added = [{"id": 149, "content": "<AA2fold>"}] if family is T5 and config["vocab_size"] == 150 else []
        tokenizer = {"model": {"vocab": [[name, 0.0] for name in names]}, "added_tokens": added}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_md", ".md").replace("_txt", ".txt")).write_text(text)
    return folder


def lines_of(folder: Path, *names: str) -> str:
    """What a checkpoint's digest is taken of."""
    return "\n".join(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}" for name in names)


# ---- what --model may name


@pytest.mark.parametrize(
    ("name", "kind", "registry_name"),
    [
        ("composition", "protein", "aa_composition"),
        ("composition", "dna", "tetranucleotide"),
        ("composition", None, "aa_composition"),
        ("tetranucleotide", None, "tetranucleotide"),
        ("aa_composition", "dna", "aa_composition"),
    ],
)
def test_a_model_without_weights_is_its_name(name: str, kind: Kind | None, registry_name: str) -> None:
    model, pinned = pin_model(name, None, kind)
    assert model == find_model(registry_name)
    assert pinned == ModelIdentity(
        name=registry_name,
        registry_name=registry_name,
        source="built-in",
        revision="",
        folder="",
        digest=digest(f"built-in {registry_name}"),
    )
    assert not pinned.is_untrained


def test_random_weights_are_another_model() -> None:
    model, pinned = pin_model("esm2_t6_8M:untrained", None, None)
    assert (model.name, model.dimension) == ("esm2_t6_8M:untrained", 320)
    assert pinned == ModelIdentity(
        name="esm2_t6_8M:untrained",
        registry_name="esm2_t6_8M",
        source="untrained",
        revision="",
        folder="",
        digest=digest("untrained esm2_t6_8M seed 0"),
        licence="MIT",
    )
    assert pinned.is_untrained


@pytest.mark.parametrize(
    "name",
    [
        "aa_composition:untrained",
        "esm2",
        "a/b/c",
        "./model",
        "/model",
        "../model",
        "hf:model",
        "hf:a/b/c",
        "hf:./model",
    ],
)
def test_what_names_no_model_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        pin_model(name, None, None)


def test_a_folder_is_what_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "mine", README_md=CARD)
    monkeypatch.chdir(tmp_path)
    model, pinned = pin_model("./mine", None, None)
    assert pinned == ModelIdentity(
        name="mine",
        registry_name="esm2_t6_8M",
        source=str(folder),
        revision="",
        folder=str(folder),
        digest=digest(lines_of(folder, "config.json", "vocab.txt", "model.safetensors")),
        licence="apache-2.0",
        kind="protein",
        known_letters="LAGVSERTIDPKQNFYMHWCXBUZO.-",
    )
    assert (model.name, model.dimension, model.max_residues, model.num_special_tokens) == ("mine", 8, 510, 2)
    assert (model.family, model.licence, model.hub) == ("esm2", "apache-2.0", "facebook/esm2_t6_8M_UR50D")
    assert model.shape is not None
    assert (model.shape.num_layers, model.shape.intermediate, model.shape.eps) == (3, 32, 1e-5)


STAGED = {"source": "facebook/esm2_t33_650M_UR50D", "revision": "08e4846", "licence": "MIT"}


@pytest.mark.parametrize(
    ("staged", "source", "revision", "licence"),
    [
        (STAGED, "facebook/esm2_t33_650M_UR50D", "08e4846", "MIT"),
        ({"source": "a/b", "revision": "1"}, "a/b", "1", ""),
        ({"source": "a/b"}, None, "", "apache-2.0"),
        ({"revision": "1"}, None, "", "apache-2.0"),
        (None, None, "", "apache-2.0"),
    ],
)
def test_a_staged_folder_tells_where_it_came_from(
    staged: object, source: str | None, revision: str, licence: str, tmp_path: Path
) -> None:
    text = json.dumps(staged) if staged else "{"
    folder = checkpoint(tmp_path / "esm2_t33_650M", README_md=CARD, staged_json=text)
    model, pinned = pin_model(str(folder), None, None)
    assert (pinned.source, pinned.revision, pinned.licence) == (source or str(folder), revision, licence)
    assert (pinned.name, pinned.registry_name) == ("esm2_t33_650M", "esm2_t33_650M")
    assert (model.hub, model.num_parameters, model.dimension) == ("facebook/esm2_t33_650M_UR50D", 651_000_000, 8)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """What the hub is asked for; its cache has one commit."""
    calls: list[tuple[str, str, str | None]] = []
    folder = checkpoint(tmp_path / "00ce29e", README_md=CARD)

    def hub_folder(name: str, repository: str, revision: str | None) -> Path:
        calls.append((name, repository, revision))
        return folder

    monkeypatch.setattr(identity_module, "hub_folder", hub_folder)
    return calls


@pytest.mark.parametrize(
    ("name", "repository", "registry_name", "licence", "hub"),
    [
        ("esm2_t12_35M", "facebook/esm2_t12_35M_UR50D", "esm2_t12_35M", "MIT", "facebook/esm2_t12_35M_UR50D"),
        ("someone/model", "someone/model", "esm2_t6_8M", "apache-2.0", "someone/model"),
        ("hf:someone/model", "someone/model", "hf", "apache-2.0", "ORG/REPOSITORY"),
    ],
)
def test_a_model_on_the_hub_is_its_commit(
    name: str,
    repository: str,
    registry_name: str,
    licence: str,
    hub: str,
    asked: list[tuple[str, str, str | None]],
    tmp_path: Path,
) -> None:
    model, pinned = pin_model(name, "main", "dna")
    assert model.kind == ("dna" if registry_name == "hf" else "protein")
    assert asked == [(name, repository, "main")]
    assert (pinned.name, pinned.registry_name, pinned.source) == (name, registry_name, repository)
    assert (pinned.revision, pinned.folder) == ("00ce29e", str(tmp_path / "00ce29e"))
    assert (pinned.licence, model.licence, model.hub) == (licence, licence, hub)
    assert (model.name, model.dimension) == (name, 8)


# ---- what is known of a checkpoint


def test_a_model_of_none_of_our_families_takes_the_slow_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint(tmp_path / "bert", BERT)
    model, pinned = pin_model(str(folder), None, "dna")
    assert (pinned.registry_name, model.kind, model.max_residues) == ("hf", "dna", 510)
    assert "model_type 'bert'" in capsys.readouterr().err


def test_hf_takes_the_slow_path_for_our_families_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path / "mine")
    model, pinned = pin_model(f"hf:{folder}", None, None)
    assert (pinned.name, pinned.registry_name, model.family) == ("mine", "hf", "transformers")
    assert "runs through transformers itself" in capsys.readouterr().err
    pin_model(str(folder), None, None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("config", "max_residues", "num_special_tokens"),
    [
        (ESM2_CONFIG, 510, 2),
        ({**ESM2_CONFIG, "max_position_embeddings": None}, 1022, 2),
        ({**T5_CONFIG, "vocab_size": 128}, None, 1),
        ({**T5_CONFIG, "vocab_size": 149}, None, 1),
        ({**T5_CONFIG, "vocab_size": 150}, None, 2),
        ({**T5_CONFIG, "vocab_size": 150, "feed_forward_proj": "gated-gelu"}, None, 1),
    ],
)
def test_limits_and_special_tokens_by_the_config(
    config: dict[str, object], max_residues: int | None, num_special_tokens: int, tmp_path: Path
) -> None:
    model, _ = pin_model(str(checkpoint(tmp_path / "mine", config)), None, None)
    assert (model.max_residues, model.num_special_tokens) == (max_residues, num_special_tokens)


def test_a_dimension_that_is_missing_is_named(tmp_path: Path) -> None:
    config = {key: value for key, value in ESM2_CONFIG.items() if key != "num_attention_heads"}
    folder = checkpoint(tmp_path / "mine")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EnvironmentFault, match="no num_attention_heads"):
        pin_model(str(folder), None, None)


@pytest.mark.parametrize("content", [None, "{", "[]", "3", "\x00"])
def test_a_config_that_is_none_is_a_fault(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(EnvironmentFault):
        read_config(tmp_path)


def test_a_config_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be read"):
        read_config(tmp_path)


# ---- its files


def test_the_digest_covers_what_is_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ours", README_md=CARD, vocab_json="{}")
    lines = lines_of(folder, "config.json", "vocab.txt", "model.safetensors")
    assert digest_of_checkpoint(folder, is_packed=True) == digest(lines)
    lines = lines_of(folder, "config.json", "vocab.txt", "tokenizer_config.json", "vocab.json", "model.safetensors")
    assert digest_of_checkpoint(folder, is_packed=False) == digest(lines)


def test_a_checkpoint_without_weights_is_a_fault(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EnvironmentFault, match="no weights"):
        pin_model(str(folder), None, None)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["model.safetensors", "model_old.safetensors", "pytorch_model_600k.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (["data/weights/esmc_300m_2024_12_v0.pth"], ["esmc_300m_2024_12_v0.pth"]),
        (["data/weights/a.pth", "data/weights/b.pth"], []),
        (["weights.safetensors"], []),
        (["tf_model.h5", "config.json"], []),
    ],
)
def test_weights_are_safetensors_where_there_are_any(names: list[str], weights: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in weight_files(tmp_path)] == weights


def write_index(folder: Path, names: list[str]) -> None:
    index = {"weight_map": {f"tensor{at}": name for at, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_says_which_files_hold_the_weights(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors"):
        (tmp_path / name).touch()
    write_index(tmp_path, ["model-2.safetensors", "model-1.safetensors", "model-2.safetensors"])
    names = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    assert [path.name for path in weight_files(tmp_path)] == names


@pytest.mark.parametrize(
    ("names", "problem"), [(["model-4.safetensors"], "not there"), (["../model.safetensors"], "no name of a file")]
)
def test_an_index_that_lists_what_is_not_there_is_a_fault(names: list[str], problem: str, tmp_path: Path) -> None:
    write_index(tmp_path, names)
    with pytest.raises(EnvironmentFault, match=problem):
        weight_files(tmp_path)


def test_a_copy_has_all_that_is_read_and_is_made_once(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "mine", README_md=CARD, vocab_txt="A\n", notes_txt="private")
    target = tmp_path / "copies" / "mine"
    target.parent.mkdir()
    assert copy_checkpoint(source, target) == target
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert (target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    (source / "vocab.txt").write_text("B\n")
    assert copy_checkpoint(source, target) == target
    assert (target / "vocab.txt").read_text() == "A\n"


def test_a_copy_that_a_twin_has_made_meanwhile_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = checkpoint(tmp_path / "mine", vocab_txt="A\n"), tmp_path / "copy"
    copy_file = files.copy_file

    def copy_late(path: Path, copy: Path) -> None:
        target.mkdir(exist_ok=True)
        (target / "vocab.txt").write_text("a twin's\n")
        copy_file(path, copy)

    monkeypatch.setattr(identity_module, "copy_file", copy_late)
    assert copy_checkpoint(source, target) == target
    assert (target / "vocab.txt").read_text() == "a twin's\n"


def test_an_installed_package_that_cannot_be_loaded_is_told_and_does_not_stop_other_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def some_are_broken(*, group: str) -> list[EntryPoint]:
        points = {"theirs": "no_such_module:MODEL", "odd": "os:sep", "other": "tests.run.test_identity:OTHER_PACKAGES"}
        return [EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(registry, "entry_points", some_are_broken)
    registry.models.cache_clear()
    try:
        assert find_model("esm2_t6_8M").name == "esm2_t6_8M"
        assert capsys.readouterr().err == ""
        assert find_model("another").max_residues == 7
        assert "another" in registry.models()
        told = capsys.readouterr().err.splitlines()
        assert [line.split(")")[0] for line in told] == [
            "warning: the model theirs (no_such_module:MODEL",
            "warning: the model odd (os:sep",
        ]
        assert "No module named 'no_such_module'" in told[0]
        with pytest.raises(UsageError, match="--model theirs: there is no such model"):
            find_model("theirs")
    finally:
        registry.models.cache_clear()
