"""'This run again': every setting of a plan stands in the command, at whatever value."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from hpc_embed.catalogue import find_command
from hpc_embed.cli import make_parser, settings_of
from hpc_embed.config import PlanSettings, RunSettings
from hpc_embed.planning.planner import make_plan
from hpc_embed.report.repeating import command_to_repeat
from hpc_embed.run.layout import RunLayout
from hpc_embed.run.plan import Plan

PROTEINS = ">a\nMKVLAAGIVGLLLAGCSWMKTAYIAKQRQISFVKSHFSRQLEERLGLIE\n>b\nMKVBZLAWYVT\n>c\nMKWWWV\n>d\nMEEEV\n"
DNA = ">a\n" + "ATGGCTAAATGGTGGTGGTGGCTACTACTATAA" * 3 + "\n"
TABLE = "key\tletters\nx\tMKVLAAGIVGWYVT\ny\tMWYVTLAAG\n"
UNTRAINED = {"model": "esm2_t6_8M:untrained"}
TRANSLATED = {"fasta": ("dna.fa",), "translate": "six-frames", "min_orf_residues": 9}
OF_A_TABLE = {"fasta": ("table.tsv",), "sequence_column": "letters"}
ODD: dict[str, tuple[Any, dict[str, Any]]] = {
    "fasta": (("two words.fa", "in.fa"), {}),
    "model": ("aa_composition", {}),
    "pooling": ("mean,max", UNTRAINED),
    "layer": (3, UNTRAINED),
    "precision": ("fp32", UNTRAINED),
    "on_long": ("truncate", {"max_residues": 20}),
    "max_residues": (20, {}),
    "stride": (7, {"max_residues": 20}),
    "on_invalid": ("skip", {}),
    "case": ("keep", {}),
    "gaps": ("drop", {}),
    "translate": ("longest-orf", TRANSLATED),
    "genetic_code": (4, TRANSLATED),
    "min_orf_residues": (11, TRANSLATED),
    "sequence_column": ("letters", OF_A_TABLE),
    "id_column": ("key", OF_A_TABLE),
    "force_kind": (True, {"fasta": ("dna.fa",), "model": "aa_composition"}),
    "num_shards": (3, {}),
}
"""A value that is no default, and what else has to be given for it."""
OF_A_HUB = {"revision"}
CHANGES_NOTHING = {"shard_minutes", "device", "plan_threads", "plan_memory_mebibytes"}
"""How planning is done, or what --num-shards says already."""


def planned(folder: Path, settings: dict[str, Any]) -> Plan:
    return make_plan(PlanSettings(**settings), RunLayout(folder)).plan


def read_back(command: str) -> tuple[RunSettings, PlanSettings]:
    """As the command line reads it."""
    name, *arguments = shlex.split(command)[1:]
    asked = find_command(name)
    where, wanted, *_ = settings_of(asked, make_parser(asked).parse_line(arguments))
    return where, wanted


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("in.fa", PROTEINS), ("two words.fa", PROTEINS), ("dna.fa", DNA), ("table.tsv", TABLE)):
        (tmp_path / name).write_text(content)


def test_every_setting_of_a_plan_is_tried() -> None:
    assert {field.name for field in fields(PlanSettings)} == {*ODD, *OF_A_HUB, *CHANGES_NOTHING}
    defaults = {field.name: field.default for field in fields(PlanSettings)}
    assert not [name for name, (value, _) in ODD.items() if value == defaults[name]]


@pytest.mark.parametrize("name", ODD)
def test_a_setting_comes_back_and_makes_the_same_run(name: str) -> None:
    value, others = ODD[name]
    plan = planned(Path("run"), {"fasta": ("in.fa",), **others, name: value})
    where, wanted = read_back(command_to_repeat(plan, "run"))
    assert where.run_dir == "run-again"
    found = getattr(wanted, name)
    assert (tuple(found) if isinstance(found, list) else found) == value
    again = make_plan(wanted, RunLayout(Path(where.run_dir))).plan
    assert again.fingerprint == plan.fingerprint
    assert [*again.shards] == [*plan.shards]


def test_several_layers_and_a_pinned_revision_come_back() -> None:
    plan = planned(Path("run"), {"fasta": ("in.fa",), **UNTRAINED, "layer": "6,0", "pooling": "mean"})
    assert read_back(command_to_repeat(plan, "run"))[1].layer == "6,0"
    of_a_hub = replace(plan, model=replace(plan.model, name="some/model", revision="0123abc"))
    wanted = read_back(command_to_repeat(of_a_hub, "run"))[1]
    assert (wanted.model, wanted.revision) == ("some/model", "0123abc")


def test_a_run_that_insisted_on_nothing_repeats_without_insisting() -> None:
    plan = planned(Path("run"), {"fasta": ("in.fa",)})
    assert not plan.is_kind_forced
    assert "force-kind" not in command_to_repeat(plan, "run")
    assert "is_kind_forced" not in Path("run/plan.json").read_text()


def test_a_file_that_looks_like_a_flag_is_a_file() -> None:
    Path("-odd.fa").write_text(PROTEINS)
    plan = planned(Path("run"), {"fasta": ("-odd.fa", "in.fa")})
    command = command_to_repeat(plan, "run")
    assert command.endswith(" -- -odd.fa in.fa")
    assert tuple(read_back(command)[1].fasta) == ("-odd.fa", "in.fa")


def test_standard_input_needs_no_separator() -> None:
    plan = planned(Path("run"), {"fasta": ("in.fa",)})
    piped = replace(plan, inputs=(replace(plan.inputs[0], path="-"),))
    assert shlex.split(command_to_repeat(piped, "run"))[-2:] != ["--", "-"]
    assert shlex.split(command_to_repeat(piped, "run"))[-1] == "-"
