"""What a model card says of its licence, and which licences forbid commercial use."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_embed.checkpoints.licences import is_non_commercial, licence_of_card


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n# A model\n", "mit"),
        ("---\ntags:\n- protein\nlicense: cc-by-nc-sa-4.0\n---\n", "cc-by-nc-sa-4.0"),
        ('---\nlicense: "apache-2.0"\n---\n', "apache-2.0"),
        ("---\nlicense: 'apache-2.0' \n---\n", "apache-2.0"),
        ("---\nlicense_name: cambrian non-commercial \n---\n", "cambrian non-commercial"),
        ("---\nbase_license: mit\n---\n", ""),
        ("---\ntags: []\n---\nlicense: mit\n---\n", ""),
        ("---\nlicense:\n- mit\n---\n", ""),
        ("---\ntags: []\n---\nlicense: mit\n", ""),
        ("license: mit\n", ""),
        ("# A model\n---\nlicense: mit\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_of_a_card(card: str, licence: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of_card(tmp_path) == licence


def test_a_card_that_is_missing_or_badly_encoded_is_no_fault(tmp_path: Path) -> None:
    assert licence_of_card(tmp_path) == ""
    (tmp_path / "README.md").write_bytes(b"---\nauthor: M\xfcller\nlicense: mit\n---\n")
    assert licence_of_card(tmp_path) == "mit"


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("CC-BY-NC-SA-4.0", True),
        ("cambrian non-commercial", True),
        ("Noncommercial use", True),
        ("research-only", True),
        ("MIT", False),
        ("AFL-3.0", False),
        ("", False),
    ],
)
def test_licences_that_forbid_commercial_use(licence: str, forbids: bool) -> None:
    assert is_non_commercial(licence) is forbids
