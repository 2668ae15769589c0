"""What a user can get wrong: one row per mistake, with the words of the error and its exit code."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from tests.checkpoints.faces import ESM2_CONFIG, write_face
from tests.conftest import Run

DNA = ">d\n" + "ACGT" * 50 + "\n"
PROTEIN = ">p1 first\nMKVLAAGIVG\n>p2\n" + "MKTAYIAKQRQISFVKSHFSRQ" * 10 + "\n"

USAGE, INPUT, CONFLICT, ENVIRONMENT, INCOMPLETE = 2, 3, 4, 5, 6


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "protein.fa").write_text(PROTEIN)
    (tmp_path / "dna.fa").write_text(DNA)
    (tmp_path / "empty.fa").write_text("")
    (tmp_path / "blank.fa").write_text(">a\n\n>b\n*\n")
    (tmp_path / "text.fa").write_text("\nThis is no FASTA\n")
    (tmp_path / "odd.fa").write_text(">fine\nMKV\n\n>sp|X/1 odd one\nMKJ\n")
    (tmp_path / "cut.fa.gz").write_bytes(gzip.compress(PROTEIN.encode() * 100)[:-20])
    (tmp_path / "cut.fa.zst").write_bytes(pa.Codec("zstd").compress(PROTEIN.encode(), asbytes=True)[:-5])
    (tmp_path / "short.fq").write_text("@r1\nACGT\n+\nIIII\n@r2\nACGT\n+\nIII\n")
    (tmp_path / "x.tsv").write_text("name\tprotein\np1\tMKV\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "checkpoint").mkdir()
    stranger = {"model_type": "bert", "auto_map": {"AutoModel": "bert.Bert"}}
    write_face(tmp_path / "stranger", stranger, {"x": (1,)})
    write_face(tmp_path / "saprot", ESM2_CONFIG | {"vocab_size": 446}, {"x": (1,)}, None)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text(
        json.dumps(
            {"model_type": "esm", "num_hidden_layers": 6, "hidden_size": 320, "num_attention_heads": 20}
            | {"intermediate_size": 1280, "vocab_size": 33}
        )
    )
    (tmp_path / "typo.yaml").write_text("modell: esm2_t6_8M\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "a-file").write_text("")


MISTAKES = [
    ("plan", USAGE, "no FASTA given. Name files on the command line, or set fasta: [...] in hpc-embed.yaml."),
    ("plan protein.fa protein.fa", USAGE, "protein.fa is given twice."),
    ("plan protein.fa --num-shards 0", USAGE, "--num-shards: Not of type PositiveInt"),
    ("plan protein.fa --num-shards many", USAGE, "--num-shards"),
    ("plan protein.fa --num-shard 3", USAGE, "--num-shard: no such option. Did you mean --num-shards?"),
    ("plan protein.fa --on-long shorten", USAGE, "--on-long"),
    ("plan protein.fa --device h1000", USAGE, "--device"),
    ("plan protein.fa --pooling median --model esm2_t6_8M:untrained", USAGE, "--pooling median"),
    ("plan protein.fa --layer 9 --model esm2_t6_8M:untrained", USAGE, "has layers 0 to 6"),
    ("plan protein.fa --model esm2_t6_8m", USAGE, "Did you mean esm2_t6_8M?"),
    ("plan protein.fa --model composition:untrained", USAGE, "no such model"),
    ("plan protein.fa --model aa_composition:untrained", USAGE, "has no weights to train"),
    ("plan protein.fa --run-dir a-file", USAGE, "--run-dir a-file: cannot be made"),
    ("plan protein.fa --config nowhere.yaml", USAGE, "File does not exist"),
    ("plan protein.fa --config typo.yaml", USAGE, "modell"),
    ("plan protein.fa --config broken.yaml", USAGE, "--config: problems parsing the file"),
    ("plann protein.fa", USAGE, "plann: no such command. Did you mean plan?"),
    ("models protein.fa", USAGE, "models takes no files, and was given protein.fa."),
    ("local protein.fa --devices gpu0", USAGE, "--devices gpu0: not a list of GPUs."),
    ("plan nowhere.fa", INPUT, "nowhere.fa: no such file."),
    ("plan folder", INPUT, "folder: a folder without .fasta, .fa,"),
    ("plan empty.fa", INPUT, "empty.fa: no records."),
    ("plan text.fa", INPUT, "text.fa, line 2: not FASTA"),
    ("plan cut.fa.gz", INPUT, "cut.fa.gz: the gzip data is damaged or cut short"),
    ("plan cut.fa.zst", INPUT, "cut.fa.zst: the zstd data is damaged or cut short (Truncated compressed stream)."),
    ("plan short.fq", INPUT, "short.fq, line 5: not FASTQ (Lengths of sequence and quality values differs for r2 (4"),
    ("plan x.tsv", INPUT, "x.tsv, line 1: not FASTA, the first record does not begin with '>'."),
    ("plan x.tsv --sequence-column seq", INPUT, "x.tsv: no column 'seq' in its header. Give --sequence-column one of"),
    ("plan dna.fa --translate six-frames --genetic-code 99", USAGE, "--genetic-code 99: NCBI has no such table."),
    ("plan dna.fa --genetic-code 11", USAGE, "--genetic-code 11: nothing is translated."),
    ("plan blank.fa", INPUT, "none of the 2 records can be embedded."),
    (
        "plan odd.fa --on-invalid error --model esm2_t6_8M:untrained",
        INPUT,
        "odd.fa, line 4, sp|X/1: letter 'J' unknown to esm2_t6_8M:untrained.",
    ),
    (
        "plan protein.fa --on-long error --max-residues 100",
        INPUT,
        "protein.fa, line 3, p2: 220 residues, the limit is 100.",
    ),
    ("plan dna.fa --model esm2_t6_8M:untrained", INPUT, "dna.fa: these are nucleotides"),
    ("plan protein.fa dna.fa", INPUT, "dna.fa: these are nucleotides"),
    ("plan protein.fa --model dnabert_s:untrained", INPUT, "protein.fa: these are proteins"),
    ("gather --run-dir folder", CONFLICT, "folder holds no plan."),
    ("status --run-dir nowhere", CONFLICT, "nowhere holds no plan."),
    ("run-task --run-dir nowhere", CONFLICT, "nowhere holds no plan."),
    ("plan protein.fa --model esm2_t6_8M", ENVIRONMENT, "are not in the hub cache"),
    ("plan protein.fa --model nobody/nothing", ENVIRONMENT, "are not in the hub cache"),
    ("plan protein.fa --model checkpoint", ENVIRONMENT, "checkpoint: no config.json"),
    ("plan protein.fa --model stranger", ENVIRONMENT, "model_type 'bert' runs code of its own, which is never run"),
    ("plan protein.fa --model saprot", ENVIRONMENT, "saprot: no tokenizer"),
    ("plan protein.fa --model hf:nowhere", USAGE, "neither a folder nor a hub name. Say hf:ORG/REPOSITORY."),
    ("plan protein.fa --model hollow", ENVIRONMENT, "hollow: no weights"),
    ("local protein.fa --model esm2_t6_8M:untrained --devices 0", ENVIRONMENT, "no GPU 0 here"),
]


@pytest.mark.parametrize(("line", "code", "words"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_mistake(line: str, code: int, words: str, run: Run, tmp_path: Path) -> None:
    hub = {"HF_HOME": str(tmp_path / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    done = run(*line.split(), code=code, env=hub)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, "an error is one line"
    assert done.stderr.startswith("hpc-embed: ")
    assert done.stdout == ""
    assert not list(tmp_path.rglob("*.tmp-*")), "nothing half-made stays behind"


def test_a_typo_in_the_settings_file_lists_the_valid_names(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hpc-embed.yaml").write_text("modell: esm2_t6_8M\n")
    error = run("plan", "protein.fa", code=USAGE).stderr
    assert "hpc-embed.yaml: modell is no setting. Did you mean model? Known:" in error


def test_a_wrong_value_in_the_settings_file_names_the_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hpc-embed.yaml").write_text("num_shards: none of them\n")
    assert "hpc-embed.yaml: --num-shards" in run("plan", "protein.fa", code=USAGE).stderr


def test_another_plan_in_the_folder_is_a_conflict(run: Run) -> None:
    run("plan", "protein.fa")
    error = run("plan", "protein.fa", "--max-residues", "50", code=CONFLICT).stderr
    assert error.startswith("hpc-embed: embed-run holds a plan made with other settings (max_residues).")


def test_gathering_too_early_says_what_is_missing(run: Run) -> None:
    run("plan", "protein.fa")
    assert "1 of 1 shards are missing: shard-00000 (not done yet)." in run("gather", code=INCOMPLETE).stderr


@pytest.mark.parametrize("shards", ["7", "a", "1-", "-"])
def test_shards_that_the_plan_does_not_have(run: Run, shards: str) -> None:
    run("plan", "protein.fa")
    assert f"--shards {shards}:" in run("run-task", "--shards", shards, code=USAGE).stderr


def test_unknown_letters_are_warned_of_with_their_first_place(run: Run) -> None:
    error = run("plan", "odd.fa", "--model", "esm2_t6_8M:untrained").stderr
    assert "1 letters that esm2_t6_8M:untrained does not know" in error
    assert "odd.fa, line 4, sp|X/1: 'J'" in error
