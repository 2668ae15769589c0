"""Mutated and junk files in front of every reader."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hpc_embed.catalogue import find_command
from hpc_embed.cli import make_parser
from hpc_embed.run import faults
from hpc_embed.sequences.fasta import read_fasta
from tests.fuzz.parsers import CONFIG, NAMES, Parser, copied_parser, parsers

CASES = int(os.environ.get("HPC_EMBED_FUZZ_CASES", "40"))
TOKENS = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"\n",
    b">",
    b"null",
    b"-1",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"1e999",
    b"9" * 30,
    b"../",
]
Edit = tuple[float, int, bytes]
edits = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 40),
        st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Parser]:
    return parsers(tmp_path_factory.mktemp("fuzz"))


def changed(sample: bytes, all_edits: list[Edit]) -> bytes:
    """Each edit puts something in the place of some bytes; one longer than 35 cuts off the rest."""
    for place, length, content in all_edits:
        at = int(place * len(sample))
        sample = sample[:at] + content + (b"" if length > 35 else sample[at + length % 9 :])
    return sample


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_gives_what_it_read_or_one_of_our_errors(
    name: str, readers: dict[str, Parser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "PAUSES_SECONDS", ())
    parser = readers[name]
    fuzz(parser.read, st.one_of(st.builds(changed, st.just(parser.sample), edits), st.binary(max_size=200)))
    parser.read(parser.sample)


def fuzz(read: Callable[[bytes], None], contents: st.SearchStrategy[bytes]) -> None:
    @settings(
        max_examples=CASES,
        deadline=5000,
        derandomize=CASES < 1000,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(contents)
    def check(content: bytes) -> None:
        read(content)

    check()


def test_every_reader_is_fuzzed(readers: dict[str, Parser]) -> None:
    assert sorted(readers) == sorted(NAMES)


def test_a_copied_parser_is_as_new_after_a_settings_file(readers: dict[str, Parser]) -> None:
    command = find_command("plan")
    for content in (b"num_shards: 7\nfasta: [a, b]\n", readers["settings"].sample):
        readers["settings"].read(content)
        assert copied_parser(command).get_defaults() == make_parser(command).get_defaults()


def test_a_megabyte_on_one_line_and_a_gzip_bomb_of_short_records_are_read(tmp_path: Path) -> None:
    (tmp_path / "giant.fa").write_bytes(b">" + b"x" * 1_000_000 + b"\n" + b"M" * 5_000_000)
    (record,) = read_fasta(str(tmp_path / "giant.fa"))
    assert (len(record.id), len(record.sequence)) == (1_000_000, 5_000_000)
    (tmp_path / "bomb.fa.gz").write_bytes(gzip.compress(b">a\nMKV\n" * 300_000))
    assert sum(1 for _ in read_fasta(str(tmp_path / "bomb.fa.gz"))) == 300_000


@pytest.mark.parametrize("number", ["0", "-1", "1e999", "NaN", "true", '"6"', "[6]", "9" * 30])
@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_size", "max_position_embeddings"])
@pytest.mark.parametrize("model_type", ["esm", "esmc", "bert"])
def test_a_dimension_that_can_be_none_is_told_or_left_alone(
    model_type: str, key: str, number: str, readers: dict[str, Parser]
) -> None:
    config = json.dumps({**CONFIG, "model_type": model_type, key: "here"}).replace('"here"', number)
    readers["config"].read(config.encode())
