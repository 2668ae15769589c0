"""Encoders of transformers, packed where that is exact: each beside itself, one window at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_embed.engine.any_encoder import AnyEncoder
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.outputs import Outputs, outputs_of
from tests.engine.tiny_models import OF_ONE_LENGTH, PACKED, PADDED, one_at_a_time, save

CPU = torch.device("cpu")
POOLINGS = ("mean", "mean_with_special", "cls", "max", "per_token")
CLS, EOS = 2, 3


def window(length: int, seed: int = 0) -> NDArray[np.int64]:
    """Ordinary tokens between two that are marked as special."""
    letters = np.random.default_rng([length, seed]).integers(5, 40, length)
    return np.concatenate(([-1 - CLS], letters, [-1 - EOS]))


PROBES = [window(22), window(90), window(1), window(31), np.concatenate((window(31)[:2], window(30, 1)[1:]))]
WINDOWS = [window(58), window(40), window(40, 1), window(31), window(2), window(1)]


def encoder_of(folder: Path, outputs: Outputs, precision: str = "fp32") -> AnyEncoder:
    return AnyEncoder(folder, CPU, precision, PROBES, outputs.layers)


def rows_of(encoder: AnyEncoder, windows: list[NDArray[np.int64]], outputs: Outputs) -> list[NDArray[np.float32]]:
    """Each window's."""
    made = encoder.embed(windows, outputs)
    num_rows_B = made.num_tokens_B + outputs.num_pooled_rows if outputs.per_letter else np.ones(len(windows), int)
    return np.split(made.vectors_BD.numpy(), np.cumsum(num_rows_B)[:-1])


def expected_rows(folder: Path, outputs: Outputs) -> list[NDArray[np.float32]]:
    """The same from transformers alone, each window by itself."""
    by_layer = {layer: one_at_a_time(folder, [ids(each) for each in WINDOWS], layer) for layer in outputs.layers}
    rows = []
    for at, each in enumerate(WINDOWS):
        states = torch.cat([by_layer[layer][at] for layer in outputs.layers], dim=1)
        letters = states[torch.from_numpy(each >= 0)]
        pooled = {
            "mean": letters.mean(0),
            "mean_with_special": states.mean(0),
            "cls": states[0],
            "max": letters.amax(0),
        }
        rows.append(torch.cat((letters, torch.stack([pooled[name] for name in outputs.pooled]))).numpy())
    return rows


def ids(marked: NDArray[np.int64]) -> list[int]:
    return [-1 - token if token < 0 else token for token in marked.tolist()]


def largest_difference(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", [*PACKED, *PADDED, *OF_ONE_LENGTH])
def test_vectors_are_those_of_one_window_at_a_time_and_have_the_same_bits_alone(kind: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / "model")
    outputs = outputs_of(",".join(POOLINGS), [2, 0])
    encoder = encoder_of(folder, outputs)
    assert (encoder.attention_name != "transformers") == (kind in PACKED), encoder.notes
    assert any("windows of one length alone" in note for note in encoder.notes) == (kind in OF_ONE_LENGTH)
    found = rows_of(encoder, WINDOWS, outputs)
    assert largest_difference(found, expected_rows(folder, outputs)) <= 1e-5
    alone = [rows_of(encoder, [each], outputs)[0] for each in WINDOWS]
    if kind in PACKED:
        assert all(map(np.array_equal, found, alone))
    else:
        assert largest_difference(found, alone) <= 1e-5


@pytest.mark.parametrize("kind", ["bert", "llama", "modernbert", "t5"])
def test_bf16_stays_near_fp32_with_the_same_bits_alone_where_packed(kind: str, tmp_path: Path) -> None:
    folder, outputs = save(kind, tmp_path / "model"), outputs_of("mean,max", [2])
    encoder = encoder_of(folder, outputs, "bf16")
    found = np.concatenate(rows_of(encoder, WINDOWS, outputs))
    expected = np.concatenate(rows_of(encoder_of(folder, outputs), WINDOWS, outputs))
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert 0 < (1 - cosines).max() < 1e-3
    if kind != "t5":
        assert all(np.array_equal(found[[at]], rows_of(encoder, [each], outputs)[0]) for at, each in enumerate(WINDOWS))


@pytest.mark.parametrize("kind", ["esm, absolute", "esm, rotary"])
def test_a_mask_in_one_window_does_not_reach_its_neighbours(kind: str, tmp_path: Path) -> None:
    folder, outputs = save(kind, tmp_path / "model"), outputs_of("mean", 3)
    encoder = encoder_of(folder, outputs)
    masked = window(20)
    masked[[3, 4, 9]] = 4
    plain, beside = (rows_of(encoder, windows, outputs) for windows in ([window(30)], [window(30), masked]))
    assert largest_difference(beside[:1], plain) <= 1e-6
    expected = one_at_a_time(folder, [ids(masked)], 3)[0][1:-1].mean(0, keepdim=True).numpy()
    assert largest_difference(beside[1:], [expected]) <= 1e-5


def test_a_short_window_switches_bigbird_before_the_first_batch_and_that_is_told(tmp_path: Path) -> None:
    encoder = encoder_of(save("bigbird", tmp_path / "model"), outputs_of("mean", 3))
    (note,) = [note for note in encoder.notes if "switches" in note]
    assert note == "a short window switches attention_type from block_sparse to original_full: all windows run so"


def test_layers_behind_the_deepest_one_that_is_asked_for_do_not_run(tmp_path: Path) -> None:
    folder = save("bert", tmp_path / "model")
    encoder = encoder_of(folder, outputs_of("mean", [1, 0]))
    ran: list[int] = []
    for at, layer in enumerate(encoder._model.encoder.layer):
        layer.register_forward_hook(lambda *_, at=at: ran.append(at))
    encoder.embed(WINDOWS, outputs_of("mean", [1, 0]))
    assert ran == [0]


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("it may not run so")


@pytest.mark.parametrize(
    ("kind", "broken", "stand_in", "reason"),
    [
        (
            "mistral",
            "any_attention.Sight.hides",
            lambda sight, length: False,
            "hidden states then differ from those of one",
        ),
        (
            "mistral, wide",
            "any_attention.Sight.hides",
            lambda sight, length: False,
            "hidden states then differ from those of one",
        ),
        ("bart", "any_encoder.follow_positions", lambda *_: None, "hidden states then differ from those of one"),
        ("llama", "any_attention._attend", refuse, "AssertionError: it may not run so"),
    ],
)
def test_what_would_be_wrong_packed_runs_padded_and_says_why(
    kind: str, broken: str, stand_in: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outputs = save(kind, tmp_path / "model"), outputs_of("mean", 2)
    with monkeypatch.context() as patched:
        patched.setattr(f"hpc_embed.engine.{broken}", stand_in)
        encoder = encoder_of(folder, outputs)
    (note,) = encoder.notes
    assert note.startswith("runs padded and not packed: ") and reason in note
    expected = [
        states[1:-1].mean(0, keepdim=True).numpy() for states in one_at_a_time(folder, list(map(ids, WINDOWS)), 2)
    ]
    assert largest_difference(rows_of(encoder, WINDOWS, outputs), expected) <= 1e-5


def test_a_model_that_needs_its_own_dense_layers_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_embed.engine.any_model.Product.forward", refuse)
    outputs = outputs_of("mean", 3)
    encoder = encoder_of(save("bert", tmp_path / "model"), outputs)
    assert encoder.notes == ("runs with torch's dense layers and not with ours: AssertionError: it may not run so",)
    assert encoder.attention_name != "transformers"
    expected = one_at_a_time(tmp_path / "model", [ids(each) for each in WINDOWS], 3)
    found = rows_of(encoder, WINDOWS, outputs)
    assert largest_difference(found, [states[1:-1].mean(0, keepdim=True).numpy() for states in expected]) <= 1e-5


def test_a_window_of_special_tokens_alone_has_no_vector(tmp_path: Path) -> None:
    outputs = outputs_of("mean,max,per_token", 3)
    encoder = encoder_of(save("bert", tmp_path / "model"), outputs)
    nothing = np.array([-1 - CLS, -1 - EOS])
    first, second = rows_of(encoder, [window(5), nothing], outputs)
    assert np.isfinite(first).all() and first.shape == (7, 32)
    assert np.isnan(second).all()


@pytest.mark.parametrize(
    ("kind", "layers", "problem"),
    [
        ("bert", 4, "layer 4 is asked for, BertModel has 3. Plan with --layer 3 or less into another --run-dir."),
        ("reformer", 0, "layer 0 has 40 rows for 33 tokens"),
        ("funnel", 2, "layer 2 has 12 rows for 24 tokens"),
        ("opt, projected", [3, 0], "the layers that are asked for are 16 and 32 wide"),
    ],
)
def test_layers_that_give_no_vector_for_each_token_are_refused(
    kind: str, layers: int | list[int], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFault) as told:
        encoder_of(save(kind, tmp_path / "model"), outputs_of("mean", layers))
    assert problem in str(told.value)


@pytest.mark.parametrize(("kind", "hidden"), [("reformer", 64), ("opt, projected", 16), ("bert", 32)])
def test_the_width_of_a_vector_is_what_the_model_gives(kind: str, hidden: int, tmp_path: Path) -> None:
    encoder = encoder_of(save(kind, tmp_path / "model"), outputs_of("mean", 2 if kind == "reformer" else 3))
    assert encoder.hidden == hidden


def test_a_model_of_chance_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.models.mpnet.modeling_mpnet.MPNetSelfAttention.forward",
        lambda self, hidden_states, *_, **__: (torch.rand_like(hidden_states), None),
    )
    with pytest.raises(EnvironmentFault, match="MPNetModel gives one window another vector each time"):
        encoder_of(save("mpnet", tmp_path / "model"), outputs_of("mean", 3))


def test_weights_of_nan_are_named_when_loading(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save("bert", tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(EnvironmentFault, match="NaN or infinity for ordinary letters: its weights are suspect"):
        encoder_of(tmp_path / "model", outputs_of("mean", 3))


def test_a_tokenizer_of_another_model_is_told_before_the_device_is_lost(tmp_path: Path) -> None:
    encoder = encoder_of(save("bert", tmp_path / "model"), outputs_of("mean", 3))
    with pytest.raises(EnvironmentFault, match="its tokenizer gives the token 40, the model has 40"):
        encoder.embed([np.array([-1 - CLS, 40, -1 - EOS])], outputs_of("mean", 3))


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("bert", 512), ("roberta", 298), ("bart", 1024), ("gpt2", 300), ("distilbert", 512), ("longformer", 298)],
)
def test_the_longest_window_is_what_the_table_of_positions_holds(kind: str, longest: int, tmp_path: Path) -> None:
    outputs = outputs_of("mean", 2)
    encoder = encoder_of(save(kind, tmp_path / "model"), outputs)
    assert encoder.longest == longest
    assert np.isfinite(rows_of(encoder, [window(longest - 2)], outputs)[0]).all()
    with pytest.raises(EnvironmentFault, match=f"a window has {longest + 1} tokens, the model positions for {longest}"):
        encoder.embed([window(longest - 1)], outputs)


@pytest.mark.parametrize(("kind", "is_so"), [("gpt2", True), ("llama", True), ("bert", False), ("t5", False)])
def test_a_first_token_that_no_other_reaches_is_found(kind: str, is_so: bool, tmp_path: Path) -> None:
    assert encoder_of(save(kind, tmp_path / "model"), outputs_of("mean", 3)).sees_only_backwards == is_so
