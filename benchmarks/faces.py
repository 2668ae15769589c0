"""Do checkpoints as they are published give the vectors that they should, or are they refused for the right reason?

    python -m benchmarks.faces FOLDER... [--only NAME...] [--quick] [--scratch FOLDER]

FOLDER holds the small files of published checkpoints, one folder each, named ORG__NAME: config.json (or a copy of it
under a longer name) and tokenizer files. Of each a checkpoint of random weights is built, under the published tensor
names and in the published kind of file, with two layers and hidden sizes of at most 1,024. Then the whole command
embeds a few sequences with it, `--model CHECKPOINT` and `--model hf:CHECKPOINT`, and tokens and vectors are compared
with what the model computes one sequence at a time from the tokens that its authors' tokenizer gives. `--quick` asks
the worker in this process instead. What must come out stands in FACES; what did not is marked. Exit code 1 for any.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import face_files as files
from benchmarks import measuring
from benchmarks.face_files import Config, Model, Tokens, by_letter, by_pairs, by_word
from benchmarks.measuring import Answer, Figure, Table
from hpc_embed import open_dataset
from hpc_embed.engine.any_tokeniser import unmarked
from hpc_embed.errors import HpcEmbedError
from hpc_embed.run.identity import pin_model
from hpc_embed.run.plan import Embedding
from hpc_embed.workers.registry import make_worker

Kind = Literal["protein", "dna"]
Fate = Literal["embeds", "refused", "either"]
SEQUENCES: dict[Kind, dict[str, str]] = {
    "protein": {
        "ubiquitin": "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG",
        "published": "MCADPSKCIYMYV",
        "long": "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKCDWPH" * 3,
    },
    "dna": {
        "short": "ACGTTGCAACGTACGTTAGCCAG",
        "long": "ACGTTGCAACGTACGTTAGCCAGGATCTTCCAATCGGCTAGAACTGATCATTTGCGCCCGTGAA" * 4,
    },
}
MOST_BYTES = 10 << 30
"""Memory of this process and of each command: a config that is read as one of 80 layers is to fail by itself."""
FARTHEST = 1e-4
"""Largest difference of a vector's numbers, against the largest of them, that is rounding."""
BERT_AROUND = (["[CLS]"], ["[SEP]"])
ESM_AROUND = (["<cls>"], ["<eos>"])
BERT_SIZES: Config = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
PROT_BERT_SIZES: Config = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 30,
    "intermediate_size": 4096,
    "max_position_embeddings": 40000,
    "vocab_size": 30,
}
ESM_LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"


@dataclass(frozen=True, kw_only=True)
class Face:
    """What one published checkpoint is, and what must come of it."""

    kind: Kind = "protein"
    make: Callable[[Config], Model]
    tokens: Callable[[Path], Tokens] | None = None
    files: str = "pickle"
    itself: Fate = "embeds"
    """With `--model FOLDER`."""
    hf: Fate = "embeds"
    """With `--model hf:FOLDER`."""
    is_packed: bool = False
    """Nothing is padded: one of our own families runs it, or `hf:` packed."""
    why: str = ""
    """What is peculiar."""
    pooling: str = "mean"
    config: Config = field(default_factory=dict)
    """What is added to the published config.json, or stands for one that is not at hand."""
    beside: str = ""
    """The folder whose tokenizer files, and config.json, serve where its own are not at hand."""
    is_half: bool = False
    prepare: Callable[[Path], None] = lambda folder: None


def _esm2(kind_of_file: str = "safetensors", **facts: Any) -> Face:
    return Face(make=files.esm, tokens=by_letter(*ESM_AROUND), files=kind_of_file, is_packed=True, **facts)


def _esm1(why: str, **facts: Any) -> Face:
    return Face(make=files.esm, tokens=by_letter(*ESM_AROUND), why=why, **facts)


def _saprot(**facts: Any) -> Face:
    why = "pairs of residue and structure, mask id 4: plain residues are M#K#V#"
    return Face(make=files.esm, tokens=by_letter(*ESM_AROUND, suffix="#"), why=why, **facts)


def _prot_bert(why: str, **facts: Any) -> Face:
    return Face(make=files.bert, tokens=by_letter(*BERT_AROUND), why=why, **facts)


def _dna_bert(k: int, **facts: Any) -> Face:
    why = f"overlapping words of {k}; unspaced, a sequence is one [UNK]"
    tokens = by_word(k, *BERT_AROUND, overlap=True)
    config = {"model_type": "bert", **facts.pop("config", {})}
    return Face(kind="dna", make=files.bert, tokens=tokens, why=why, config=config, **facts)


def _nucleotide_1() -> Face:
    why = "absolute positions, 4,105 rows for a vocabulary of 4,107, no <eos>"
    return Face(kind="dna", make=files.esm, tokens=by_word(6, ["<cls>"], [], overlap=False), why=why)


def _nucleotide_2() -> Face:
    why = "SwiGLU under the name esm; its code is remote"
    tokens = by_word(6, ["<cls>"], [], overlap=False)
    return Face(kind="dna", make=files.nucleotide, tokens=tokens, is_packed=True, hf="refused", why=why)


def _dnabert(why: str, **facts: Any) -> Face:
    return Face(
        kind="dna",
        make=files.dnabert,
        tokens=by_pairs,
        pooling="mean_with_special",
        is_packed=True,
        hf="refused",
        why=why,
        **facts,
    )


def _t5(why: str, **facts: Any) -> Face:
    front = facts.pop("front", [])
    tokens = by_letter(front, ["</s>"])
    return Face(make=files.t5, tokens=tokens, is_packed=True, hf=facts.pop("hf", "either"), why=why, **facts)


def _esmc() -> Face:
    ids = {letter: 4 + number for number, letter in enumerate(ESM_LETTERS)}
    why = "TransformerEngine's names and config, which transformers reads as another size"
    return Face(
        make=files.esmc, tokens=files.built_in(ids, [0], [2]), files="safetensors", is_packed=True, hf="either", why=why
    )


def _stranger(model_type: str, why: str, **facts: Any) -> Face:
    return Face(
        make=files.unknown,
        itself="refused",
        hf="refused",
        why=why,
        config={"model_type": model_type, "vocab_size": 64, **facts},
        files="safetensors",
    )


SPIECE = "Rostlab__prot_t5_xl_half_uniref50-enc"
FACES: Mapping[str, Face] = {
    "facebook__esm2_t6_8M_UR50D": _esm2(why="the plainest"),
    "facebook__esm2_t12_35M_UR50D": _esm2(),
    "facebook__esm2_t30_150M_UR50D": _esm2(),
    "facebook__esm2_t33_650M_UR50D": _esm2(),
    "facebook__esm2_t36_3B_UR50D": _esm2("two shards"),
    "facebook__esm2_t48_15B_UR50D": _esm2("two shards"),
    "facebook__esm1b_t33_650M_UR50S": _esm1("absolute positions, a norm behind the embedding"),
    "facebook__esm1v_t33_650M_UR90S_1": _esm1("absolute positions, no norm behind the embedding"),
    "facebook__esm-1b": Face(
        make=files.esm,
        itself="refused",
        hf="refused",
        why="an abandoned port: no tokenizer files, and a config that leaves out what it computes",
    ),
    "westlake-repl__SaProt_35M_AF2": _saprot(),
    "westlake-repl__SaProt_650M_AF2": _saprot(),
    "westlake-repl__SaProt_650M_PDB": _saprot(beside="westlake-repl__SaProt_650M_AF2"),
    "westlake-repl__SaProt_1.3B_AF2": _saprot(beside="westlake-repl__SaProt_650M_AF2"),
    "airkingbd__dplm_650m": _esm2(why="ESM-2's maths under architectures EsmForDPLM, with a dplm_type", hf="either"),
    "airkingbd__dplm_3b": _esm2(
        "two shards",
        hf="either",
        beside="airkingbd__dplm_650m",
        config={
            "hidden_size": 2560,
            "num_attention_heads": 40,
            "num_hidden_layers": 36,
            "intermediate_size": 10240,
        },
    ),
    "Rostlab__prot_bert": _prot_bert("no model_type; letters spaced; a pickle without zip", files="legacy pickle"),
    "Rostlab__prot_bert_bfd": _prot_bert("no model_type; letters spaced", files="legacy pickle"),
    "Rostlab__prot_electra_discriminator_bfd": Face(
        make=files.electra,
        tokens=by_letter(*BERT_AROUND),
        files="legacy pickle",
        why="no tokenizer_config.json: by transformers' default every residue is [UNK]",
        config={"model_type": "electra", "embedding_size": 1024, **PROT_BERT_SIZES},
    ),
    "Exscientia__IgBert": _prot_bert(
        "vocab.txt alone", files="safetensors", config={"model_type": "bert", **PROT_BERT_SIZES}
    ),
    "zhihan1996__DNA_bert_3": _dna_bert(3),
    "zhihan1996__DNA_bert_5": _dna_bert(5),
    "zhihan1996__DNA_bert_6": _dna_bert(
        6, itself="either", hf="either", config={"auto_map": {"AutoModel": "dnabert_layer.DNABertModel"}}
    ),
    "InstaDeepAI__nucleotide-transformer-500m-1000g": _nucleotide_1(),
    "InstaDeepAI__nucleotide-transformer-500m-human-ref": _nucleotide_1(),
    "InstaDeepAI__nucleotide-transformer-v2-100m-multi-species": _nucleotide_2(),
    "InstaDeepAI__nucleotide-transformer-v2-500m-multi-species": _nucleotide_2(),
    "zhihan1996__DNABERT-2-117M": _dnabert("neither model_type nor architectures"),
    "zhihan1996__DNABERT-S": _dnabert("ALiBi under the name bert", beside="zhihan1996__DNABERT-2-117M"),
    "AIRI-Institute__gena-lm-bert-base-t2t": Face(
        kind="dna",
        make=files.pre_norm_bert,
        itself="refused",
        hf="refused",
        why="norms before each branch under the name bert: transformers would compute another model",
    ),
    "alchemab__antiberta": Face(
        make=files.roberta,
        tokens=by_letter(["<s>"], ["</s>"]),
        config={"model_type": "roberta", "vocab_size": 25, "pad_token_id": 1, **BERT_SIZES},
        why="RoBERTa of letters, merges.txt empty",
    ),
    "Rostlab__prot_t5_xl_half_uniref50-enc": _t5("FP16 pickle of the encoder alone, spiece.model", is_half=True),
    "Rostlab__prot_t5_xl_uniref50": _t5(
        "three whole pickles beside each other: pytorch_model.bin is the one",
        files="three whole pickles",
        beside=SPIECE,
    ),
    "Rostlab__ProstT5": _t5("150 tokens, <AA2fold> in front", front=["<AA2fold>"], beside=SPIECE),
    "Rostlab__ProstT5_fp16": _t5(
        "its copy in FP16", front=["<AA2fold>"], beside=SPIECE, is_half=True, config={"vocab_size": 150}
    ),
    "ElnaggarLab__ankh-base": _t5(
        "48 layers, gated GELU, 64 buckets",
        prepare=lambda folder: files.permuted_pieces(folder, "ALGVSREDTIPKFQNYMHWCXBOUZ", 3),
    ),
    "ElnaggarLab__ankh3-large": Face(
        make=files.t5,
        tokens=by_letter([], ["</s>"]),
        why="other ids than Ankh 1 and 2",
        beside="ElnaggarLab__ankh-base",
        config={"vocab_size": 256},
        prepare=lambda folder: files.permuted_pieces(folder, "LAGSVERTIDPKNFQYHMCW", 7),
    ),
    "biohub__ESMC-300M": _esmc(),
    "biohub__ESMC-600M": _esmc(),
    "biohub__ESMC-6B": _esmc(),
    "Profluent-Bio__E1": _stranger(
        "E1", "a model of its own code", config={"auto_map": {"AutoModel": "modeling_e1.E1"}}
    ),
    "TattaBio__gLM2_650M": _stranger("gLM2", "lower case is DNA", dim=1280, depth=33, heads=20),
    "LongSafari__hyenadna": _stranger("hyenadna", "no transformer"),
    "multimolecule__rnafm": _stranger("rnafm", "unknown to transformers", hidden_size=640),
    "oxpig__AbLang2": _stranger("ablang2", "unknown to transformers"),
}


class Made(NamedTuple):
    """A checkpoint that was built."""

    folder: Path
    face: Face
    model: Model
    tokens: Tokens | None
    smaller: str

    def expected(self) -> tuple[list[list[int]], NDArray[np.float32]]:
        """Tokens and vectors of the sequences."""
        assert self.tokens is not None
        all_tokens = [self.tokens(text) for text in SEQUENCES[self.face.kind].values()]
        front, back = len(self.tokens.front), len(self.tokens.back)
        vectors = []
        for tokens in all_tokens:
            hidden_ND = self.model.hidden_ND(tokens)
            kept_ND = hidden_ND if self.face.pooling == "mean_with_special" else hidden_ND[front : len(tokens) - back]
            vectors.append(kept_ND.mean(0))
        return all_tokens, torch.stack(vectors).numpy()


class Outcome(NamedTuple):
    """What one way made of a checkpoint."""

    way: str
    """The family that ran it, `hf:` packed or padded, or nothing."""
    tokens: list[list[int]]
    vectors: NDArray[np.float32] | None
    refused: str = ""
    """Why, in one line."""
    crashed: str = ""


def build(source: Path, scratch: Path) -> Made:
    """The checkpoint of a face in an empty folder."""
    face = FACES[source.name]
    folder = scratch / source.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = [source, *([source.parent / face.beside] if face.beside else [])]
    config, smaller = files.scaled({**next(_configs(sources), {}), **face.config})
    files.copy_tokeniser(sources, folder)
    face.prepare(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    model = face.make(config)
    if face.is_half:
        model = files.halved(model, config)
    files.write_weights(model.tensors, folder, face.files)
    return Made(folder, face, model, face.tokens(folder) if face.tokens else None, smaller)


def _configs(sources: list[Path]) -> Iterator[Config]:
    """Of the face itself, under whatever name, then of the one beside."""
    for source in sources:
        paths = [path for path in source.glob("*config*.json") if "tokenizer" not in path.name]
        for path in sorted(paths, key=lambda path: (path.name != "config.json", path.name)):
            found: Config = json.loads(path.read_text())
            yield found


def ask_the_worker(made: Made, model_name: str) -> Outcome:
    """Tokens and vectors by the worker's contract, in this process."""
    try:
        model, identity = pin_model(model_name, None, made.face.kind)
        way = model.family if identity.registry_name != "hf" else "hf:"
        embedding = Embedding(
            pooling=made.face.pooling,
            layer=model.num_layers,
            precision="fp32",
            on_long="window",
            max_residues=None,
            on_invalid="unknown",
            case="upper",
        )
        loaded = make_worker(identity, embedding).load("cpu")
        if way == "hf:":
            way = f"hf:, {'padded' if loaded.versions.get('attention') == 'transformers' else 'packed'}"
        given = list(SEQUENCES[made.face.kind].values())
        tokens = loaded.tokenise([text.encode() for text in given])
        order = sorted(range(len(tokens)), key=lambda place: -len(tokens[place]))
        vectors = loaded.start([tokens[place] for place in order])().vectors_BD[np.argsort(order)]
    except HpcEmbedError as error:
        return Outcome("", [], None, refused=str(error))
    except Exception as error:  # whatever a way may do; it is told as what it is
        return Outcome("", [], None, crashed=f"{type(error).__name__}: {error}")
    return Outcome(way, [[int(i) for i in unmarked(row)] for row in tokens], vectors)


def run_the_command(made: Made, model_name: str, scratch: Path) -> NDArray[np.float32] | str:
    """Vectors that `hpc-embed local` makes, or the last line of what it says."""
    fasta = scratch / f"{made.face.kind}.fasta"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in SEQUENCES[made.face.kind].items()))
    run = scratch / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "hpc_embed", "local", str(fasta), "--model", model_name, "--run-dir", str(run)]
    command += ["--pooling", made.face.pooling, "--precision", "fp32", "--workers", "1", "--no-report"]
    command += ["--token-budget", "4096"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    dataset = open_dataset(run)
    vectors = [dataset[name][0].vector for name in SEQUENCES[made.face.kind]]
    return np.stack([vector for vector in vectors if vector is not None])


def judge(made: Made, outcome: Outcome, fate: Fate, *, must_pack: bool = False) -> tuple[str, str, str, bool]:
    """What came out, differences of tokens and of vectors, and whether it may."""
    if outcome.crashed:
        return f"no message of ours: {outcome.crashed}", "", "", False
    if outcome.refused or outcome.vectors is None:
        return f"refused: {outcome.refused}", "", "", fate != "embeds"
    if made.tokens is None:
        return f"{outcome.way}: embedded", "", "", False
    tokens, vectors = made.expected()
    pairs = zip(tokens, outcome.tokens, strict=True)
    num_other = sum(sum(a != b for a, b in zip(x, y, strict=False)) + abs(len(x) - len(y)) for x, y in pairs)
    difference = float(np.abs(vectors - outcome.vectors).max() / np.abs(vectors).max())
    is_right = num_other == 0 and difference <= FARTHEST and not (must_pack and outcome.way.endswith("padded"))
    return outcome.way, str(num_other), f"{difference:.1e}", is_right and fate != "refused"


def answer(folders: list[Path], only: list[str], scratch: Path, *, quick: bool) -> Answer:
    """A row for each face and way."""
    rows, figures = [], []
    for source in sorted(path for folder in folders for path in folder.iterdir() if path.is_dir()):
        if source.name not in FACES or (only and not any(word in source.name for word in only)):
            continue
        made = build(source, scratch)
        for prefix, fate in (("", made.face.itself), ("hf:", made.face.hf)):
            name = f"{prefix}{made.folder}"
            outcome = ask_the_worker(made, name)
            if not quick and not outcome.crashed:
                found = run_the_command(made, name, scratch)
                outcome = (
                    outcome._replace(refused=found, vectors=None)
                    if isinstance(found, str)
                    else outcome._replace(vectors=found)
                )
            what, tokens, vectors, is_well = judge(made, outcome, fate, must_pack=made.face.is_packed and not prefix)
            what = what.replace(f"{made.folder}", "FOLDER")
            mark = "" if is_well else "✗"
            rows.append([source.name.replace("__", "/"), prefix or "itself", what, tokens, vectors, fate, mark])
            figures.append(Figure(f"{source.name}: {prefix or 'itself'}: as it must be", float(is_well), ""))
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
        shutil.rmtree(made.folder)
        rows[-1][2] += f" ({'; '.join(filter(None, [made.face.why, made.smaller]))})"
    headings = ["checkpoint", "model", "ran by", "other tokens", "farthest number", "must", ""]
    return Answer([Table("Published checkpoints, random weights", headings, rows)], figures)


def main() -> None:
    """Try every face."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="parts of names")
    parser.add_argument("--quick", action="store_true", help="ask the worker, and not the whole command")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
    with tempfile.TemporaryDirectory() as temporary:
        found = answer(options.folders, options.only, options.scratch or Path(temporary), quick=options.quick)
    measuring.show(found, as_json=options.json)
    sys.exit(0 if all(figure.value for figure in found.figures) else 1)


if __name__ == "__main__":
    main()
