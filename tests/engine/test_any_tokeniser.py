"""Letters to tokens through a checkpoint's own tokenizer files, as they are published, and as they are broken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from hpc_embed.engine.any_tokeniser import NativeTokeniser, marked, unmarked
from hpc_embed.engine.tokens import make_tokeniser
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.t5 import t5_shape
from hpc_embed.model import AMINO_ACIDS, Kind
from hpc_embed.registry import find_model

ESM = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
PROT_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"]
DNABERT_3 = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map("".join, product("ATCG", repeat=3))]
SAPROT = ["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *map("".join, product("ACDEFGHIKLMNPQRSTVWY#", "pynwr#"))]
NUCLEOTIDE = ["<unk>", "<pad>", "<mask>", "<cls>", *map("".join, product("ATCG", repeat=6)), *"ATCGN", "<eos>", "<bos>"]
ANKH = ["<pad>", "</s>", "<unk>", *"ALGVSREDTIPKFQNYMHWC"]
ANKH3 = ["<pad>", "</s>", "<unk>", *"3456", *"LAGSVERTIDPKNFQYHMCW"]
ESM_SETTINGS = {"tokenizer_class": "EsmTokenizer"}
NOTHING_LOWERED = {"do_lower_case": False}


def folder_of(
    path: Path, vocabulary: Sequence[str], config: Mapping[str, object], settings: Mapping[str, object] | None = None
) -> Path:
    """config.json, vocab.txt, and tokenizer_config.json where there is one."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"vocab_size": len(vocabulary), **config}))
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    if settings is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def esm(path: Path, vocabulary: Sequence[str] = ESM) -> Path:
    return folder_of(path, vocabulary, {"model_type": "esm"}, ESM_SETTINGS)


def nucleotide(path: Path) -> Path:
    config = {"model_type": "esm", "vocab_size": 4105}
    return folder_of(path, NUCLEOTIDE, config, {**ESM_SETTINGS, "eos_token": None})


def prot_bert(path: Path, vocabulary: Sequence[str] = PROT_BERT) -> Path:
    return folder_of(path, vocabulary, {"model_type": "bert"}, NOTHING_LOWERED)


def pieces(path: Path, vocabulary: Sequence[str]) -> Path:
    """A SentencePiece vocabulary of single letters, as tokenizer.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    path.mkdir()
    names = [f"▁{name}" if len(name) == 1 and name.isalpha() else name for name in vocabulary]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([name for name in names if name.startswith("<AA2")])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": "t5", "vocab_size": 144}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def ids_of(tokeniser: NativeTokeniser, sequence: str) -> list[int]:
    (tokens,) = tokeniser([sequence.encode()])
    return [int(token) for token in unmarked(tokens)]


def agree_with_the_tokenizer_itself(tokeniser: NativeTokeniser, sequences: Sequence[str]) -> None:
    given = [sequence.encode() for sequence in sequences]
    for ours_N, its_N in zip(tokeniser(given), tokeniser.by_itself(given), strict=True):
        assert ours_N.tolist() == its_N.tolist()


GOLDEN = "MCADPSKCIYMYV"
"""A sequence whose ids others have published, made with the published checkpoints."""
GOLDEN_ESM = [0, 20, 23, 5, 13, 14, 8, 15, 23, 12, 19, 20, 19, 7, 2]
GOLDEN_ANKH = [19, 22, 3, 10, 13, 7, 14, 22, 12, 18, 19, 18, 6, 1]
GOLDEN_ANKH3 = [24, 25, 8, 16, 17, 10, 18, 25, 15, 22, 24, 22, 11, 1]


def test_esm2_esmc_and_dplm_give_the_published_ids(tmp_path: Path) -> None:
    for name in ("esm2_t6_8M", "esmc_300m"):
        model = find_model(name)
        assert model.shape is not None
        (tokens,) = make_tokeniser(FAMILIES[model.family], model.shape, None)([GOLDEN.encode()])
        assert tokens.tolist() == GOLDEN_ESM, name
    special = {name[1:-1] + "_token": name for name in ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>")}
    dplm = folder_of(tmp_path / "dplm", ESM, {"model_type": "esm"}, {**ESM_SETTINGS, **special})
    assert ids_of(NativeTokeniser(esm(tmp_path / "esm2")), GOLDEN) == GOLDEN_ESM
    assert ids_of(NativeTokeniser(dplm), GOLDEN) == GOLDEN_ESM


@pytest.mark.parametrize(("vocabulary", "golden"), [(ANKH, GOLDEN_ANKH), (ANKH3, GOLDEN_ANKH3)], ids=["ankh", "ankh3"])
def test_ankh_and_ankh3_give_the_published_ids(tmp_path: Path, vocabulary: list[str], golden: list[int]) -> None:
    folder = pieces(tmp_path / "ankh", vocabulary)
    shape = t5_shape(1, 16, 2, 16, 8, vocabulary=144)
    (tokens,) = make_tokeniser(FAMILIES["ankh"], shape, folder)([GOLDEN.encode()])
    assert tokens.tolist() == golden
    assert ids_of(NativeTokeniser(folder), GOLDEN) == golden


def test_letters_are_given_as_the_vocabulary_knows_them(tmp_path: Path) -> None:
    plain, spaced = NativeTokeniser(esm(tmp_path / "esm")), NativeTokeniser(prot_bert(tmp_path / "bert"))
    words = NativeTokeniser(folder_of(tmp_path / "dna", DNABERT_3, {"model_type": "bert"}, NOTHING_LOWERED), "dna")
    assert (plain.way.note, plain.notes) == ("", ())
    assert spaced.notes == ("tokens: letters put apart by spaces.",)
    assert words.notes[0] == "tokens: overlapping words of 3 letters."
    assert ids_of(spaced, "MKX") == [2, 21, 12, 25, 3]
    assert ids_of(words, "ACGTA") == [2, *(DNABERT_3.index(word) for word in ("ACG", "CGT", "GTA")), 3]


def test_saprot_gets_pairs_of_a_residue_and_no_structure_and_says_so(tmp_path: Path) -> None:
    tokeniser = NativeTokeniser(esm(tmp_path / "saprot", SAPROT))
    assert ids_of(tokeniser, "MKV") == [0, *(SAPROT.index(pair) for pair in ("M#", "K#", "V#")), 2]
    assert tokeniser.notes == ("tokens: pairs of a residue and '#' for a structure that is not known.",)
    assert (tokeniser.is_letter_a_token, tokeniser.known_letters) == (True, "".join(sorted(AMINO_ACIDS)))


@pytest.mark.parametrize(
    ("made", "kind", "unknown", "known"),
    [
        (esm, "protein", 3, "ABCDEFGHIKLMNOPQRSTUVWXYZ"),
        (prot_bert, "protein", 1, "ABCDEFGHIKLMNOPQRSTUVWXYZ"),
        (lambda path: esm(path, SAPROT), "protein", 3, "ACDEFGHIKLMNPQRSTVWY"),
        (nucleotide, "dna", 0, "ACGNT"),
        (lambda path: prot_bert(path, DNABERT_3), "dna", 1, "ACGT"),
        (lambda path: pieces(path, ANKH), "protein", 2, "ACDEFGHIKLMNPQRSTVWY"),
    ],
    ids=["esm", "prot_bert", "saprot", "nt_v1", "dnabert_1", "ankh"],
)
def test_a_table_gives_what_the_tokenizer_gives_and_each_unknown_letter_is_one_token(
    tmp_path: Path, made: object, kind: Kind, unknown: int, known: str
) -> None:
    assert callable(made)
    tokeniser = NativeTokeniser(made(tmp_path / "model"), kind)
    assert (tokeniser.unknown_id, tokeniser.known_letters) == (unknown, known)
    assert tokeniser._fast is not None
    agree_with_the_tokenizer_itself(tokeniser, [known * 9, known[::-1], known[:3], "ACGTJJACGTGGJA", "J"])
    if tokeniser.is_letter_a_token:
        assert [ids_of(tokeniser, "AJJJA").count(unknown), ids_of(tokeniser, "AjA*A1A").count(unknown)] == [3, 3]


@pytest.mark.parametrize("letter", ["J", "1", "*", "a", "_", "?"])
def test_a_letter_outside_the_vocabulary_takes_none_of_its_neighbours(tmp_path: Path, letter: str) -> None:
    for at, made in enumerate((esm, prot_bert)):
        tokeniser = NativeTokeniser(made(tmp_path / str(at)))
        around = ids_of(tokeniser, "MK")
        assert ids_of(tokeniser, f"M{letter}K") == [*around[:2], tokeniser.unknown_id, *around[2:]]


def test_letters_that_the_vocabulary_has_beside_residues_are_tokens_of_their_own(tmp_path: Path) -> None:
    tokeniser = NativeTokeniser(esm(tmp_path / "esm"))
    assert ids_of(tokeniser, "M-.XUK") == [0, 20, 30, 29, 24, 26, 15, 2]


@pytest.mark.parametrize("settings", [None, {"do_lower_case": True}, {"max_len": 512}])
def test_a_vocabulary_of_capitals_is_not_lower_cased_whatever_the_files_say_or_leave_out(
    tmp_path: Path, settings: dict[str, object] | None
) -> None:
    folder = folder_of(tmp_path / "electra", PROT_BERT, {"model_type": "electra"}, settings)
    tokeniser = NativeTokeniser(folder)
    assert ids_of(tokeniser, "MKVX") == [2, 21, 12, 8, 25, 3]
    assert tokeniser.notes[0] == "tokens: its vocabulary has capitals alone, so letters are not lower-cased."


def test_a_vocabulary_with_lower_case_is_left_as_it_is(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *AMINO_ACIDS.lower()]
    tokeniser = NativeTokeniser(folder_of(tmp_path / "uncased", words, {"model_type": "bert"}))
    assert ids_of(tokeniser, "MK") == [2, words.index("m"), words.index("k"), 3]


def test_a_config_without_model_type_takes_the_tokenizer_of_its_vocabulary(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "prot_bert", PROT_BERT, {"hidden_size": 1024}, NOTHING_LOWERED)
    assert ids_of(NativeTokeniser(folder), "MKV") == [2, 21, 12, 8, 3]
    assert ids_of(NativeTokeniser(folder_of(tmp_path / "esm", ESM, {}, {})), "MKV") == [0, 20, 15, 7, 2]


def test_a_config_that_names_code_of_its_own_is_asked_nothing_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    config = {"auto_map": {"AutoConfig": "configuration_bert.BertConfig"}}
    settings = {"tokenizer_class": "BertTokenizer", **NOTHING_LOWERED}
    folder = folder_of(tmp_path / "dnabert", PROT_BERT, config, settings)
    assert ids_of(NativeTokeniser(folder), "MKV") == [2, 21, 12, 8, 3]
    for theirs in ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, {"tokenizer_class": "DNATokenizer"}):
        (folder / "tokenizer_config.json").write_text(json.dumps(theirs))
        with pytest.raises(EnvironmentFault, match=r"its tokenizer, (unnamed|DNATokenizer), runs code of its own"):
            NativeTokeniser(folder)


def test_a_folder_without_a_vocabulary_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    folder = prot_bert(tmp_path / "bert")
    (folder / "vocab.txt").rename(tmp_path / "vocab.txt")
    with pytest.raises(EnvironmentFault) as raised:
        NativeTokeniser(folder, "protein")
    assert str(raised.value) == (
        f"{folder}: its tokenizer makes [UNK] of 20 of 20 residues. Put the checkpoint's own vocab.txt, tokenizer.json "
        f"or spiece.model beside its config.json. There is one at {tmp_path / 'vocab.txt'}."
    )


def test_a_vocabulary_of_another_kind_of_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"its tokenizer makes <unk> of 15 of 20 residues\. vocab\.txt is of"):
        NativeTokeniser(nucleotide(tmp_path / "nt"), "protein")
    with pytest.raises(EnvironmentFault, match=r"makes \[UNK\] of 16 of 20 residues"):
        NativeTokeniser(prot_bert(tmp_path / "dnabert", DNABERT_3), "protein")


def test_bases_in_front_of_a_model_of_proteins_are_told(tmp_path: Path) -> None:
    assert "all 20 residues" in NativeTokeniser(esm(tmp_path / "esm"), "dna").notes[0]
    rna = esm(tmp_path / "dna", ["<cls>", "<pad>", "<eos>", "<unk>", *"ACGTN", "<mask>"])
    assert NativeTokeniser(rna, "dna").notes == ()


def test_a_model_of_rna_reads_t_as_u_and_says_so(tmp_path: Path) -> None:
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"ACGUN", "<mask>"]
    tokeniser = NativeTokeniser(esm(tmp_path / "rna", words), "dna")
    assert ids_of(tokeniser, "ACGTU") == [0, 4, 5, 6, 7, 7, 2]
    assert tokeniser.known_letters == "ACGNTU"
    assert tokeniser.notes == ("tokens: letters as they are, U for T.",)


def test_a_prefix_that_a_models_card_asks_for_is_there_and_is_special(tmp_path: Path) -> None:
    words = ["<pad>", "</s>", "<unk>", *AMINO_ACIDS, "<AA2fold>"]
    tokeniser = NativeTokeniser(pieces(tmp_path / "prostt5", words), "protein")
    (tokens,) = tokeniser([b"MK"])
    assert unmarked(tokens).tolist() == [words.index(name) for name in ("<AA2fold>", "M", "K", "</s>")]
    assert (tokens < 0).tolist() == [True, False, False, True]


def test_lower_case_that_means_something_else_is_told(tmp_path: Path) -> None:
    """ProstT5's lower-case letters are states of a structure."""
    words = ["<pad>", "</s>", "<unk>", *AMINO_ACIDS, *AMINO_ACIDS.lower()]
    tokeniser = NativeTokeniser(pieces(tmp_path / "prostt5", words), "protein")
    assert ids_of(tokeniser, "Aa") == [words.index("A"), words.index("a"), 1]
    assert tokeniser.known_letters == "".join(sorted(AMINO_ACIDS))
    assert tokeniser.notes[1].startswith(
        "tokens: lower-case letters have tokens of their own, which stand for something"
    )


def test_an_id_beyond_the_embedding_is_refused_and_a_word_that_no_letter_needs_is_not(tmp_path: Path) -> None:
    """Nucleotide Transformer 1: 4,107 words, 4,105 rows, and an <eos> that tokenizer_config.json has to leave out."""
    published = nucleotide(tmp_path / "published")
    assert ids_of(NativeTokeniser(published, "dna"), "AAAAAAN") == [3, 4, 4104]
    config = {"model_type": "esm", "vocab_size": 4105}
    with pytest.raises(EnvironmentFault, match=r"gives <eos> the id 4105, and the embedding has 4105 rows\. Restore"):
        NativeTokeniser(folder_of(tmp_path / "saved", NUCLEOTIDE, config, ESM_SETTINGS), "dna")


def test_a_sequence_is_one_word_of_wordpiece_however_long_it_is(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGT", "##A", "##C", "##G", "##T", "##ACGT"]
    tokeniser = NativeTokeniser(prot_bert(tmp_path / "pieces", words), "dna")
    assert ids_of(tokeniser, "A" + "ACGT" * 100) == [2, 5, *[13] * 100, 3]


def byte_pairs(path: Path, *, has_unknown: bool) -> Path:
    from tokenizers import Tokenizer, models

    path.mkdir()
    words = ["<unk>", *"ACGTN", "AC", "ACG", "GT"]
    vocabulary = {name: at for at, name in enumerate(words)}
    merges = [("A", "C"), ("AC", "G"), ("G", "T")]
    unknown = "<unk>" if has_unknown else None
    Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True)).save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": len(words)}))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **({"unk_token": unknown} if has_unknown else {})}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def test_byte_pairs_tell_how_many_letters_each_token_stands_for(tmp_path: Path) -> None:
    tokeniser = NativeTokeniser(byte_pairs(tmp_path / "bpe", has_unknown=True), "dna")
    (tokens,) = tokeniser([b"ACGTNACRRGT"])
    assert tokens.tolist() == [7, 4, 5, 6, 0, 0, 8]  # a run of unknown letters is no single token
    assert tokeniser.letters_of(tokens).tolist() == [3, 1, 1, 2, 1, 1, 2]
    assert (tokeniser.is_letter_a_token, tokeniser.knows_lengths) == (False, True)
    assert tokeniser.notes == ("tokens: of several letters.",)


def test_truncation_and_padding_that_were_saved_with_a_tokenizer_are_not_heeded(tmp_path: Path) -> None:
    """A copy of DNABERT-2's tokenizer.json cuts at 636 tokens, another pads to 2,000."""
    path = byte_pairs(tmp_path / "bpe", has_unknown=True) / "tokenizer.json"
    saved = {
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        },
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | saved))
    tokeniser = NativeTokeniser(path.parent, "dna")
    assert [ids_of(tokeniser, "ACG" * 5), ids_of(tokeniser, "GT")] == [[7] * 5, [8]]


def test_a_tokenizer_that_would_leave_letters_out_is_asked_for_known_ones_alone(tmp_path: Path) -> None:
    tokeniser = NativeTokeniser(byte_pairs(tmp_path / "bpe", has_unknown=False), "dna")
    assert (tokeniser.unknown_id, tokeniser.known_letters) == (None, "ACGNT")
    with pytest.raises(EnvironmentFault, match="has no token for 'R', and none for unknown letters"):
        tokeniser([b"ACGR"])


def test_the_last_of_overlapping_words_stands_for_the_letters_that_end_it(tmp_path: Path) -> None:
    tokeniser = NativeTokeniser(prot_bert(tmp_path / "dnabert", DNABERT_3), "dna")
    (tokens,) = tokeniser([b"ACGTA"])
    assert tokeniser.letters_of(tokens).tolist() == [0, 1, 1, 3, 0]
    assert ids_of(tokeniser, "AC") == [2, 1, 3]
    assert tokeniser.notes[1] == "tokens: a sequence of fewer than 3 letters is one [UNK]."


def test_known_letters_that_become_an_unknown_token_together_are_a_fault(tmp_path: Path) -> None:
    """A tokenizer whose unknown tokens depend on what stands beside a letter: the plan could not have counted them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    folder = byte_pairs(tmp_path / "words", has_unknown=True)
    ids = {name: at for at, name in enumerate(["<unk>", *"ACGT"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("GG|."), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(EnvironmentFault, match="makes 15 <unk> of GGGGGGGGGGGGGGGGGGGG…, of which it knows each"):
        NativeTokeniser(folder, "dna")


def test_marks_keep_the_ids() -> None:
    tokens_N = np.array([0, 5, 2])
    marks_N = marked(tokens_N, np.array([True, False, True]))
    assert (marks_N.tolist(), unmarked(marks_N).tolist()) == ([-1, 5, -3], [0, 5, 2])
