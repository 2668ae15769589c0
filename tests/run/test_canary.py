"""Who of many computes wrongly, by one vector each."""

from __future__ import annotations

import numpy as np
import pytest

from hpc_embed.run.canary import BOUNDS, Canary, decode, encode, odd_ones

TRUE = np.random.default_rng(0).normal(size=64).astype(np.float32)


def canary(scale: float = 1.0, precision: str = "fp32") -> Canary:
    return Canary(precision, encode(TRUE * np.float32(scale)))


def test_a_vector_comes_back_bit_for_bit() -> None:
    assert np.array_equal(decode(encode(TRUE)), TRUE)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "no base64", "AAAA====", encode(np.array([np.nan], np.float32)), "AAA="])
def test_what_is_no_vector_is_none(text: str) -> None:
    assert decode(text) is None


@pytest.mark.parametrize("precision", BOUNDS)
def test_the_one_beyond_the_bound_is_odd_and_those_within_are_not(precision: str) -> None:
    bound = BOUNDS[precision]
    canaries = [canary(1 + 0.5 * bound, precision), canary(1, precision), canary(1 + 3 * bound, precision)]
    assert list(odd_ones(canaries)) == [2]
    assert odd_ones(canaries)[2] == pytest.approx(3 * bound, rel=0.3)


def test_the_smaller_camp_is_odd_however_many_shards_are_one_device_s() -> None:
    assert sorted(odd_ones([canary(2), canary(), canary(), canary(2), canary()])) == [0, 3]


def test_of_two_equal_camps_nobody_is_believed() -> None:
    assert odd_ones([canary(2), canary()]) == {0: pytest.approx(0.5), 1: pytest.approx(0.5)}


def test_precisions_are_compared_each_by_itself_and_markers_without_a_canary_not_at_all() -> None:
    assert odd_ones([canary(), canary(1.01, "bf16"), Canary("fp32", "")]) == {}


def test_distances_are_relative_to_the_true_one_s_length_however_short_it_is() -> None:
    true, odd = (Canary("fp32", encode(TRUE * np.float32(scale))) for scale in (1e-6, 3e-6))
    assert odd_ones([true, odd, true]) == {1: pytest.approx(2.0)}


def test_a_precision_that_has_no_bound_has_that_of_fp32() -> None:
    assert list(odd_ones([canary(1, "fp64"), canary(1 + 6e-4, "fp64"), canary(1, "fp64")])) == [1]
    assert odd_ones([canary(1, "fp64"), canary(1 + 1e-4, "fp64"), canary(1, "fp64")]) == {}


def test_numbers_of_another_type_are_written_as_float32() -> None:
    assert encode(TRUE.astype(np.float64)) == encode(TRUE) == encode(TRUE.astype(">f4"))
    assert decode(encode(TRUE)).dtype == np.float64  # type: ignore[union-attr]
    assert decode(encode(TRUE)[:8] + " \n" + encode(TRUE)[8:]) is None


def test_junk_and_another_dimension_are_odd() -> None:
    canaries = [canary(), canary(), Canary("fp32", "junk"), Canary("fp32", encode(TRUE[:5]))]
    assert odd_ones(canaries) == {2: float("inf"), 3: float("inf")}


def test_no_canaries_have_no_odd_ones() -> None:
    assert odd_ones([]) == {}
