"""What a plan may ask a model for: poolings, layers and strides, and the scan that can be gone on with."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hpc_embed.config import PlanSettings
from hpc_embed.errors import UsageError
from hpc_embed.planning import scratch
from hpc_embed.planning.outputs import layers_of, poolings_of, precision_of, stride_of
from hpc_embed.planning.scratch import WHAT_COUNTS, scratch_key
from hpc_embed.registry import ANY_ENCODER, find_model
from hpc_embed.sequences.sources import look_at

ESM2, DNABERT, COMPOSITION = find_model("esm2_t6_8M"), find_model("dnabert_s"), find_model("aa_composition")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("default", ["mean"]),
        ("mean", ["mean"]),
        (" mean , max,cls ", ["mean", "max", "cls"]),
        ("mean,default,mean", ["mean"]),
        ("per_window", ["per_window", "mean"]),
        ("max,per_window", ["per_window", "max"]),
        ("per_token", ["per_token"]),
        ("per_token,mean,mean_with_special", ["per_token", "mean", "mean_with_special"]),
    ],
)
def test_each_pooling_that_is_asked_for_comes_once(asked: str, expected: list[str]) -> None:
    assert poolings_of(PlanSettings(pooling=asked), ESM2) == expected


@pytest.mark.parametrize(
    ("asked", "model", "says"),
    [
        ("median", ESM2, r"--pooling median: esm2_t6_8M has none of that name. Choose default or mean, "),
        ("mean,", ESM2, "--pooling : esm2_t6_8M has none of that name"),
        ("per_token,per_base", DNABERT, "rows for tokens and for bases at once"),
        ("per_window,per_token", ESM2, "rows for letters are rows of no window. Leave out per_window"),
        ("mean,mean_with_special", ANY_ENCODER, "how many special tokens .* is not known when planning"),
    ],
)
def test_poolings_that_a_model_lacks_or_that_do_not_go_together_are_refused(
    asked: str, model: object, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        poolings_of(PlanSettings(pooling=asked), model)  # type: ignore[arg-type]


def test_any_encoder_gives_poolings_of_one_kind() -> None:
    assert poolings_of(PlanSettings(pooling="mean,max"), ANY_ENCODER) == ["mean", "max"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(-1, (6,)), ("-1", (6,)), ("0", (0,)), ("-7,6,3", (0, 6, 3)), ("6,-1,6", (6,)), ("-1, 2", (6, 2))],
)
def test_layers_count_from_either_end(asked: int | str, expected: tuple[int, ...]) -> None:
    assert layers_of(PlanSettings(layer=asked), ESM2) == expected


@pytest.mark.parametrize(
    ("asked", "says"), [("7", "layers 0 to 6"), ("-8", "layers 0 to 6"), ("one", "not a layer"), ("1,", "not a layer")]
)
def test_layers_that_a_model_lacks_are_refused(asked: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        layers_of(PlanSettings(layer=asked), ESM2)


def test_fp8_is_for_packed_encoders_alone() -> None:
    for model in (ANY_ENCODER, COMPOSITION):
        with pytest.raises(UsageError, match=f"--precision fp8: {model.name} is none of the encoders"):
            precision_of(PlanSettings(precision="fp8"), model)
        assert precision_of(PlanSettings(precision="bf16"), model) == "bf16"
    assert precision_of(PlanSettings(precision="fp8"), ESM2) == "fp8"


def test_a_stride_is_at_most_a_window_long() -> None:
    assert stride_of(PlanSettings(), ESM2, ["mean"]) is None
    assert stride_of(PlanSettings(stride=1022), ESM2, ["mean"]) == 1022
    assert stride_of(PlanSettings(stride=20, max_residues=20), COMPOSITION, ["frequency"]) == 20
    assert stride_of(PlanSettings(stride=5, max_residues=20), ESM2, ["per_window", "mean"]) == 5
    with pytest.raises(UsageError, match=r"windows of 1022 residues would leave gaps\. Choose at most 1022"):
        stride_of(PlanSettings(stride=1023), ESM2, ["mean"])
    with pytest.raises(UsageError, match="windows of 20 residues would leave gaps"):
        stride_of(PlanSettings(stride=21, max_residues=20), ESM2, ["mean"])


@pytest.mark.parametrize("on_long", ["truncate", "skip"])
def test_a_stride_without_windows_is_refused(on_long: str) -> None:
    with pytest.raises(UsageError, match="no record is split into windows"):
        stride_of(PlanSettings(stride=5, on_long=on_long), ESM2, ["mean"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no record is split into windows"):
        stride_of(PlanSettings(stride=5), replace(COMPOSITION, max_residues=None), ["frequency"])


def test_a_stride_and_rows_for_letters_are_refused_together() -> None:
    with pytest.raises(UsageError, match="letters in several windows would have several rows"):
        stride_of(PlanSettings(stride=5), ESM2, ["per_token", "mean"])


OTHER_SETTINGS = {
    "on_long": "skip",
    "max_residues": 7,
    "stride": 3,
    "on_invalid": "error",
    "case": "keep",
    "gaps": "drop",
    "sequence_column": "s",
    "id_column": "i",
    "translate": "six-frames",
    "genetic_code": 4,
    "min_orf_residues": 9,
}


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "in.fa").write_text(">a\nMKV\n")
    return str(tmp_path / "in.fa")


def test_the_same_scan_has_the_same_key_and_every_other_another(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = PlanSettings()

    def key(settings: PlanSettings = settings, keeps_letters: bool = True, **model: object) -> str:
        return scratch_key([(source, look_at(source))], replace(ESM2, **model), settings, keeps_letters=keeps_letters)  # type: ignore[arg-type]

    first = key()
    assert first == key()
    assert len(first) == 32
    assert set(OTHER_SETTINGS) == set(WHAT_COUNTS) <= {each.name for each in fields(PlanSettings)}
    others = [key(replace(settings, **{name: value})) for name, value in OTHER_SETTINGS.items()]  # type: ignore[arg-type]
    others += [key(keeps_letters=False), key(name="another"), key(replace(settings, num_shards=9))]
    assert others.pop() == first  # which is no matter of the scan
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "SCAN_VERSION", 10**6)
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "__version__", "9.9")
        others.append(key())
    with monkeypatch.context() as patch:  # parts may be lost with the machine's power
        patch.setattr(scratch, "BOOT_ID", Path(source))
        others.append(key())
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "BOOT_ID", Path(source) / "nowhere")
        others += [key(), key()]
    os.utime(source, (1, 1))
    others.append(key())
    Path(source).write_text(">a\nMKVL\n")
    os.utime(source, (1, 1))
    others.append(key())
    assert len({first, *others}) == len(others) + 1


def test_what_comes_through_a_pipe_is_scanned_once() -> None:
    keys = {scratch_key([("-", None)], ESM2, PlanSettings(), keeps_letters=True) for _ in range(3)}
    assert len(keys) == 3
