"""`models --explain`: what a checkpoint is taken for, told to people and to scripts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.checkpoints.faces import ESM2_CONFIG, esm2_face
from tests.checkpoints.test_face import saprot
from tests.conftest import Run


def told(text: str) -> dict[str, str]:
    """Headings and what stands beside them."""
    lines = [line.partition("  ") for line in text.splitlines()]
    return {heading: rest.strip() for heading, _, rest in lines}


def test_every_field_of_a_packed_model_is_accounted_for(run: Run, tmp_path: Path) -> None:
    folder = esm2_face(tmp_path / "mine", hidden_dropout_prob=0.1)
    found = told(run("models", "--explain", folder).stdout)
    assert found["taken for"] == "esm2, packed, by our encoder"
    assert (found["tokenizer"], found["longest window"]) == ("vocab.txt", "510 letters")
    assert found["fields without effect"] == "hidden_dropout_prob"
    assert "token_dropout True" in found["fields heeded"]
    named = ", ".join(found[name] for name in ("fields read", "fields heeded", "fields without effect"))
    assert all(field in named for field in ESM2_CONFIG)
    assert found["proven"] == "not yet, here; the first start does it"


def test_what_a_model_resembles_and_is_not_is_told(run: Run, tmp_path: Path) -> None:
    found = json.loads(run("models", "--explain", saprot(tmp_path / "saprot"), "--json").stdout)
    assert found["taken for"] == "esm, by transformers' own model"
    assert found["and not for"] == "esm2: mask_token_id is 4; token 4 of vocab.txt is '<mask>', not 'L'"
    assert found["letters it knows"] == "ACDEFGHIKLMNPQRSTVWY"


def test_a_refusal_is_the_explanation(run: Run, tmp_path: Path) -> None:
    folder = esm2_face(tmp_path / "mine", use_glu=True)
    assert "use_glu (True) is not known" in run("models", "--explain", folder, code=5).stderr
    assert "has no checkpoint" in run("models", "--explain", "aa_composition", code=2).stderr
