"""Real trained weights: AntiBERTy (Ruffolo et al., 2021) through transformers' BERT, from its own package's files.

Masked residues of real antibodies come back as they were. No random weights can show that tokens, positions and layers
are right together, and trained ones have outliers that BF16 has to bear.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_embed import open_dataset
from hpc_embed.engine.device import has_bf16
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run.identity import pin_model
from hpc_embed.run.plan import Embedding
from hpc_embed.workers.base import LoadedModel
from hpc_embed.workers.registry import make_worker
from tests.conftest import Run

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpc-embed/antiberty"
"""Where .ci/install-antiberty.sh puts the package's files."""
REQUIRED = "HPC_EMBED_REQUIRE_ANTIBERTY"
"""Set by continuous integration: there missing weights are a failure and no reason to skip."""
MASK = 4
EVERY = 10
"""One residue of so many is masked at a time."""
CHAINS = {
    "trastuzumab_H": "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTA"
    "VYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "trastuzumab_L": "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHY"
    "TTPPTFGQGTKVEIK",
    "adalimumab_H": "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTA"
    "VYYCAKVSYLSTASSLDYWGQGTLVTVSS",
    "adalimumab_L": "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYN"
    "RAPYTFGQGTKVEIK",
    "bevacizumab_H": "EVQLVESGGGLVQPGGSLRLSCAASGYTFTNYGMNWVRQAPGKGLEWVGWINTYTGEPTYAADFKRRFTFSLDTSKSTAYLQMNSLRAEDTA"
    "VYYCAKYPHYYGSSHWYFDVWGQGTLVTVSS",
    "bevacizumab_L": "DIQMTQSPSSLSASVGDRVTITCSASQDISNYLNWYQQKPGKAPKVLIYFTSSLHSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQYS"
    "TVPWTFGQGTKVEIK",
    "rituximab_H": "QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSYNQKFKGKATLTADKSSSTAYMQLSSLTSEDSA"
    "VYYCARSTYYGGDWYFNVWGAGTTVTVSA",
    "rituximab_L": "QIVLSQSPAILSASPGEKVTMTCRASSSVSYIHWFQQKPGSSPKPWIYATSNLASGVPVRFSGSGSGTSYSLTISRVEAEDAATYYCQQWTS"
    "NPPTFGGGTKLEIK",
    "cetuximab_H": "QVQLKQSGPGLVQPSQSLSITCTVSGFSLTNYGVHWVRQSPGKGLEWLGVIWSGGNTDYNTPFTSRLSINKDNSKSQVFFKMNSLQSNDTAI"
    "YYCARALTYYDYEFAYWGQGTLVTVSA",
    "cetuximab_L": "DILLTQSPVILSVSPGERVSFSCRASQSIGTNIHWYQQRTNGSPRLLIKYASESISGIPSRFSGSGSGTDFTLSINSVESEDIADYYCQQNN"
    "NWPTTFGAGTKLELK",
    "infliximab_H": "EVKLEESGGGLVQPGGSMKLSCVASGFIFSNHWMNWVRQSPEKGLEWVAEIRSKSINSATHYAESVKGRFTISRDDSKSAVYLQMTDLRTED"
    "TGVYYCSRNYYGSTYDYWGQGTTLTVSS",
    "infliximab_L": "DILLTQSPAILSVSPGERVSFSCRASQFVGSSIHWYQQRTNGSPRLLIKYASESMSGIPSRFSGSGSGTDFTLSINTVESEDIADYYCQQSH"
    "SWPFTFGSGTNLEVK",
    "pembrolizumab_H": "QVQLVQSGVEVKKPGASVKVSCKASGYTFTNYYMYWVRQAPGQGLEWMGGINPSNGGTNFNEKFKNRVTLTTDSSTTTAYMELKSLQFDDTA"
    "VYYCARRDYRFDMGFDYWGQGTTVTVSS",
    "pembrolizumab_L": "EIVLTQSPATLSLSPGERATLSCRASKGVSTSGYSYLHWYQQKPGQAPRLLIYLASYLESGVPARFSGSGSGTDFTLTISSLEPEDFAVYYC"
    "QHSRDLPLTFGGGTKVEIK",
    "nivolumab_H": "QVQLVESGGGVVQPGRSLRLDCKASGITFSNSGMHWVRQAPGKGLEWVAVIWYDGSKRYYADSVKGRFTISRDNSKNTLFLQMNSLRAEDTA"
    "VYYCATNDDYWGQGTLVTVSS",
    "nivolumab_L": "EIVLTQSPATLSLSPGERATLSCRASQSVSSYLAWYQQKPGQAPRLLIYDASNRATGIPARFSGSGSGTDFTLTISSLEPEDFAVYYCQQSS"
    "NWPRTFGQGTKVEIK",
    "palivizumab_H": "QVTLRESGPALVKPTQTLTLTCTFSGFSLSTSGMSVGWIRQPPGKALEWLADIWWDDKKDYNPSLKSRLTISKDTSKNQVVLKVTNMDPADT"
    "ATYYCARSMITNWYFDVWGAGTTVTVSS",
    "palivizumab_L": "DIQMTQSPSTLSASVGDRVTITCKCQLSVGYMHWYQQKPGKAPKLLIYDTSKLASGVPSRFSGSGSGTEFTLTISSLQPDDFATYYCFQGSG"
    "YPFTFGGGTKLEIK",
    "ipilimumab_H": "QVQLVESGGGVVQPGRSLRLSCAASGFTFSSYTMHWVRQAPGKGLEWVTFISYDGNNKYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTA"
    "IYYCARTGWLGPFDYWGQGTLVTVSS",
    "ipilimumab_L": "EIVLTQSPGTLSLSPGERATLSCRASQSVGSSYLAWYQQKPGQAPRLLIYGAFSRATGIPDRFSGSGSGTDFTLTISRLEPEDFAVYYCQQY"
    "GSSPWTFGQGTKVEIK",
}
"""Variable domains of ten antibodies in medical use, heavy and light; public since they were approved."""
SEQUENCES = [chain.encode() for chain in CHAINS.values()]
LIMIT = 510
"""Residues of a window: 512 positions, [CLS] and [SEP]."""


class Reference(NamedTuple):
    """transformers' own model and tokenizer, as the package's authors put them together."""

    model: Any
    tokenizer: Any

    def hidden(self, sequence: bytes) -> NDArray[np.float32]:
        """Of each residue, one sequence at a time."""
        given = self.tokenizer(" ".join(sequence.decode()), return_tensors="pt")
        with torch.no_grad():
            states: NDArray[np.float32] = self.model.bert(**given).last_hidden_state[0, 1:-1].numpy()
        return states


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder trained_models of the package."""
    folder = CACHE / "antiberty/trained_models"
    if not folder.is_dir():
        reason = f"no AntiBERTy in {CACHE} (.ci/install-antiberty.sh puts it there)"
        assert not os.environ.get(REQUIRED), reason
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def folder(published: Path) -> Path:
    """The package's own folder of the weights; its vocab.txt lies one folder up."""
    return published / "AntiBERTy_md_smooth"


@pytest.fixture(scope="session")
def reference(folder: Path) -> Reference:
    from transformers import BertForMaskedLM, BertTokenizer

    model = BertForMaskedLM.from_pretrained(folder, local_files_only=True).train(False)
    return Reference(model, BertTokenizer.from_pretrained(folder.parent, do_lower_case=False))


def loaded(folder: Path, pooling: str, precision: str) -> LoadedModel:
    model, identity = pin_model(f"hf:{folder}", None, "protein")
    embedding = Embedding(
        pooling=pooling,
        layer=model.num_layers,
        precision=precision,
        on_long="window",
        max_residues=None,
        on_invalid="unknown",
        case="upper",
    )
    return make_worker(identity, embedding, num_threads=1).load("cpu")


def masked(windows: list[NDArray[np.integer]]) -> Iterator[tuple[int, NDArray[np.integer], list[int]]]:
    """Each window twice, one residue in ten masked, others each time: its number, its tokens, the places."""
    for number, window in enumerate(windows):
        for first in (0, EVERY // 2):
            places = list(range(1 + first, len(window) - 1, EVERY))
            tokens = window.copy()
            tokens[places] = MASK
            yield number, tokens, places


def accuracy(model: LoadedModel, reference: Reference) -> float:
    """Share of masked residues that the published head reads from our hidden states."""
    windows = list(model.tokenise(SEQUENCES))
    tries = sorted(masked(windows), key=lambda one: -len(one[1]))
    made = model.start([tokens for _, tokens, _ in tries])()
    ends = np.cumsum(made.num_tokens_B)
    hits: list[bool] = []
    for (number, _, places), end, length in zip(tries, ends, made.num_tokens_B, strict=True):
        hidden = torch.from_numpy(np.array(made.vectors_BD[end - length : end]))[[place - 1 for place in places]]
        with torch.no_grad():
            guesses = reference.model.cls(hidden.float()).argmax(-1).numpy()
        hits += (guesses == windows[number][places]).tolist()
    return float(np.mean(hits))


def test_masked_residues_of_antibodies_come_back(folder: Path, reference: Reference) -> None:
    """By chance it would be 0.05, and 0.1 with the commonest residue."""
    assert accuracy(loaded(folder, "per_token", "fp32"), reference) > 0.8


def test_each_residue_has_transformers_own_vector(folder: Path, reference: Reference) -> None:
    model = loaded(folder, "per_token", "fp32")
    ordered = sorted(SEQUENCES, key=len, reverse=True)
    made = model.start(model.tokenise(ordered))()
    expected = np.concatenate([reference.hidden(sequence) for sequence in ordered])
    assert np.abs(made.vectors_BD - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this processor has no BF16")
def test_bf16_bears_trained_outliers(folder: Path, reference: Reference) -> None:
    model = loaded(folder, "mean", "bf16")
    ordered = sorted(SEQUENCES, key=len, reverse=True)
    ours = model.start(model.tokenise(ordered))().vectors_BD.astype(np.float64)
    expected = np.stack([reference.hidden(sequence).mean(axis=0) for sequence in ordered]).astype(np.float64)
    cosines = (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1 - cosines.min() <= 1e-2
    assert accuracy(loaded(folder, "per_token", "bf16"), reference) > 0.8


def test_the_whole_command_embeds_chains_and_windows(
    run: Run, folder: Path, reference: Reference, tmp_path: Path
) -> None:
    long = b"".join(SEQUENCES)
    records = {**CHAINS, "all": long.decode()}
    (tmp_path / "x.fasta").write_text("".join(f">{name}\n{chain}\n" for name, chain in records.items()))
    run("local", "x.fasta", "--model", folder, "--precision", "fp32", "--workers", 1, "--token-budget", 2048)
    dataset = open_dataset(tmp_path / "embed-run")
    chain = "cetuximab_H"
    assert np.abs(dataset[chain][0].vector - reference.hidden(records[chain].encode()).mean(axis=0)).max() <= 1e-5
    cuts = [len(long) * at // 5 for at in range(6)]  # five windows of equal lengths, each at most LIMIT
    parts = [long[start:stop] for start, stop in pairwise(cuts)]
    assert max(map(len, parts)) <= LIMIT
    pooled = np.concatenate([reference.hidden(part) for part in parts]).mean(axis=0)
    assert dataset["all"][0].status == "windowed"
    assert np.abs(dataset["all"][0].vector - pooled).max() <= 1e-4


def test_the_registry_finds_it_in_its_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentFault, match="pip install --no-deps antiberty"):
        pin_model("antiberty", None, None)
    monkeypatch.syspath_prepend(str(CACHE))
    model, identity = pin_model("antiberty", None, None)
    assert (identity.folder, identity.registry_name) == (str(folder.resolve()), "hf")
    assert (model.dimension, model.max_residues, model.known_letters) == (512, 510, "ACDEFGHIKLMNPQRSTVWY")
    assert model.licence == "MIT"
