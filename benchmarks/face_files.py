"""Checkpoints of random weights in the true files: published names, kinds of file and tokenizer files, fewer layers.

What a model computes is taken from the model in memory before it is written, one sequence at a time, so that neither
our reading nor transformers' own has a part in it.
"""

# N = tokens of one sequence, D = hidden

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from hpc_embed.engine.references import dnabert_reference, nucleotide_reference
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.families.dnabert import dnabert_shape
from hpc_embed.families.family import Shape
from hpc_embed.families.nucleotide import nucleotide_shape

Config = dict[str, Any]
NUM_LAYERS = 2
WIDEST = 1024
"""Hidden sizes beyond it are scaled down, heads with them."""
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layers")
HEAD_KEYS = ("num_attention_heads", "num_heads", "n_heads")
HIDDEN_KEYS = ("hidden_size", "d_model")
WIDTH_KEYS = ("intermediate_size", "d_ff", "embedding_size")
TOKENISER_NAMES = (
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"),
    *("tokenizer.json", "spiece.model", "added_tokens.json"),
)
HIDDEN_STATES = Callable[[list[int]], Tensor]
NO_PADDING = -1


class Model(NamedTuple):
    """Tensors under their published names, and what they compute."""

    tensors: dict[str, Tensor]
    hidden_ND: HIDDEN_STATES
    """Of the tokens of one sequence."""


class Tokens(NamedTuple):
    """How a published tokenizer surrounds and reads a sequence of known letters."""

    letters: Callable[[str], list[int]]
    front: list[int]
    back: list[int]

    def __call__(self, sequence: str) -> list[int]:
        return [*self.front, *self.letters(sequence), *self.back]


def scaled(config: Config) -> tuple[Config, str]:
    """The config of a smaller model, and what was made smaller."""
    made, words = dict(config), []
    for key in LAYER_KEYS:
        if key in made:
            words.append(f"{made[key]} layers → {NUM_LAYERS}")
            made[key] = NUM_LAYERS
    for key in [key for key in HIDDEN_KEYS if made.get(key, 0) > WIDEST]:
        divisor = 2
        while made[key] // divisor > WIDEST or any(made.get(head, divisor) % divisor for head in HEAD_KEYS):
            divisor += 1
        words.append(f"hidden {made[key]} → {made[key] // divisor}")
        for name in {*HIDDEN_KEYS, *HEAD_KEYS, *WIDTH_KEYS} & made.keys():
            made[name] //= divisor
    if made.get("d_ff", 0) > 4 * WIDEST:
        words.append(f"d_ff {made['d_ff']} → {4 * WIDEST}")
        made["d_ff"] = 4 * WIDEST
    return made, ", ".join(words)


def _native(name: str, config: Config, *, encoder: str = "") -> Model:
    """One of transformers' classes with random weights, norms and biases moved from where they begin."""
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    settings = {key: float(value) if key.endswith("_prob") else value for key, value in config.items()}
    settings.pop("auto_map", None)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    base = getattr(model, encoder) if encoder else model

    @torch.inference_mode()
    def hidden(tokens: list[int]) -> Tensor:
        states: Tensor = base(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        return states

    return Model({name: tensor.clone() for name, tensor in model.state_dict().items()}, hidden)


def esm(config: Config) -> Model:
    """ESM-1b, -1v, -2, SaProt, DPLM, Nucleotide Transformer 1."""
    return _native("EsmForMaskedLM", config, encoder="esm")


def bert(config: Config) -> Model:
    """ProtBERT, IgBert, DNABERT 1."""
    return _native("BertForMaskedLM", config, encoder="bert")


def electra(config: Config) -> Model:
    """ProtElectra's discriminator."""
    return _native("ElectraForPreTraining", config, encoder="electra")


def roberta(config: Config) -> Model:
    """AntiBERTa."""
    return _native("RobertaForMaskedLM", config, encoder="roberta")


def t5(config: Config) -> Model:
    """ProtT5 with its decoder, half of which is never read, or the encoder alone."""
    if "T5EncoderModel" in config.get("architectures", ()):
        return _native("T5EncoderModel", {**config, "is_encoder_decoder": False})
    return _native("T5ForConditionalGeneration", {**config, "num_decoder_layers": 1}, encoder="encoder")


def pre_norm_bert(config: Config) -> Model:
    """GENA-LM: a BERT's names, with the norms that stand elsewhere named so. Nothing is computed of it."""
    old = {"attention.output.LayerNorm": "pre_attention_ln", "output.LayerNorm": "post_attention_ln"}
    tensors = bert(config).tensors
    for name in list(tensors):
        for before, after in old.items():
            if before in name:
                tensors[name.replace(before, after)] = tensors.pop(name)
                break
    return Model(tensors, _nothing)


def _of_family(family: str, shape: Shape, reference: Any) -> Model:
    tensors = random_weights(FAMILIES[family], shape, 0)
    run = reference(shape, tensors, torch.device("cpu"))
    return Model(tensors, lambda tokens: run(torch.tensor([tokens]), NO_PADDING, shape.num_layers)[0])


def dnabert(config: Config) -> Model:
    """DNABERT-2 and -S."""
    shape = dnabert_shape(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        config["vocab_size"],
    )
    return _of_family("dnabert", shape, dnabert_reference)


def nucleotide(config: Config) -> Model:
    """Nucleotide Transformer 2."""
    shape = nucleotide_shape(config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"])
    return _of_family("nucleotide_transformer", shape, nucleotide_reference)


def esmc(config: Config) -> Model:
    """ESM C in TransformerEngine's form; its feed-forward is 8/3 as wide, filled up to a multiple of 256."""
    width = -(-config["d_model"] * 8 // (3 * 256)) * 256
    model = _native(
        "EsmcModel",
        {
            "hidden_size": config["d_model"],
            "num_hidden_layers": config["n_layers"],
            "num_attention_heads": config["n_heads"],
            "num_key_value_heads": config["n_heads"],
            "intermediate_size": width,
            "vocab_size": config["vocab_size"],
        },
    )
    return model._replace(tensors=_transformer_engine(model.tensors, config["n_layers"]))


def _transformer_engine(t: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    made = {"esmc.embed.weight": t["embed_tokens.weight"], "esmc.transformer.norm.weight": t["norm.weight"]}
    for layer in range(num_layers):
        of, to = f"layers.{layer}.", f"esmc.transformer.blocks.{layer}."
        products = torch.cat([t[f"{of}self_attn.{name}_proj.weight"] for name in "qkv"])
        gated = torch.cat([t[f"{of}mlp.{name}_proj.weight"] for name in ("gate", "up")])
        made |= {
            f"{to}attn.layernorm_qkv.layer_norm_weight": t[f"{of}input_layernorm.weight"],
            f"{to}attn.layernorm_qkv.layer_norm_bias": t[f"{of}input_layernorm.bias"],
            f"{to}attn.layernorm_qkv.weight": products,
            f"{to}attn.layernorm_qkv._extra_state": torch.zeros(0, dtype=torch.uint8),
            f"{to}attn.q_ln.weight": t[f"{of}self_attn.q_norm.weight"],
            f"{to}attn.k_ln.weight": t[f"{of}self_attn.k_norm.weight"],
            f"{to}attn.out_proj.weight": t[f"{of}self_attn.o_proj.weight"],
            f"{to}attn.out_proj._extra_state": torch.zeros(0, dtype=torch.uint8),
            f"{to}ffn.layer_norm_weight": t[f"{of}post_attention_layernorm.weight"],
            f"{to}ffn.layer_norm_bias": t[f"{of}post_attention_layernorm.bias"],
            f"{to}ffn.fc1_weight": gated,
            f"{to}ffn.fc2_weight": t[f"{of}mlp.down_proj.weight"],
            f"{to}ffn._extra_state": torch.zeros(0, dtype=torch.uint8),
        }
    return made


def unknown(config: Config) -> Model:
    """What must be refused by its config alone."""
    return Model({"embed.weight": torch.zeros(64, 64)}, _nothing)


def _nothing(tokens: list[int]) -> Tensor:
    raise AssertionError("nothing is to be compared with")


def halved(model: Model, config: Config) -> Model:
    """Of a T5: numbers as FP16 keeps them, and what is computed of these."""
    import transformers

    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.tensors.items()}
    kind = transformers.T5EncoderModel
    again = kind(kind.config_class(**{**config, "is_encoder_decoder": False})).eval()
    wanted = again.state_dict().keys()
    again.load_state_dict({name: tensor.float() for name, tensor in rounded.items() if name in wanted}, strict=False)

    @torch.inference_mode()
    def hidden(tokens: list[int]) -> Tensor:
        states: Tensor = again(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        return states

    return Model(rounded, hidden)


def write_weights(tensors: dict[str, Tensor], folder: Path, files: str) -> None:
    """In the kind of file that is published."""
    match files:
        case "safetensors":
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
        case "pickle":
            torch.save(tensors, folder / "pytorch_model.bin")
        case "legacy pickle":
            torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
        case "three whole pickles":
            for name in ("pytorch_model.bin", "pytorch_model_600k.bin", "pytorch_model_723k.bin"):
                old = {key: tensor if name == "pytorch_model.bin" else -tensor for key, tensor in tensors.items()}
                torch.save(old, folder / name)
        case "two shards":
            _write_shards(tensors, folder)


def _write_shards(tensors: dict[str, Tensor], folder: Path) -> None:
    names = sorted(tensors)
    halves = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    place = {name: f"pytorch_model-0000{half}-of-00002.bin" for half, own in halves.items() for name in own}
    for file in set(place.values()):
        torch.save({name: tensors[name] for name in names if place[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": place}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def copy_tokeniser(sources: Iterable[Path], folder: Path) -> None:
    """The tokenizer files that lie there, also those under the name of who saved them again; the first of each name."""
    for source in sources:
        for path in sorted(source.iterdir(), key=lambda path: len(path.name)):
            name = next((name for name in TOKENISER_NAMES if path.name.endswith(name)), "")
            is_ours = path.name == name or path.name.startswith("as_saved_by_SCG")
            if name and is_ours and not (folder / name).exists():
                shutil.copyfile(path, folder / name)


def vocabulary(folder: Path) -> dict[str, int]:
    """Ids by name, read from the plainest file there is."""
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text().split("\n")
        return {line.strip(): number for number, line in enumerate(lines) if line.strip()}
    if (folder / "vocab.json").is_file():
        found: dict[str, int] = json.loads((folder / "vocab.json").read_text())
        return found
    from transformers import T5Tokenizer

    pieces: dict[str, int] = T5Tokenizer.from_pretrained(folder, local_files_only=True).get_vocab()
    ids = {name.lstrip("▁"): number for name, number in pieces.items()}
    added = folder / "added_tokens.json"
    return ids | (json.loads(added.read_text()) if added.is_file() else {})


def by_letter(front: Sequence[str], back: Sequence[str], suffix: str = "") -> Callable[[Path], Tokens]:
    """A token a letter, or a letter with something behind it."""

    def read(folder: Path) -> Tokens:
        ids = vocabulary(folder)
        return Tokens(
            lambda text: [ids[letter + suffix] for letter in text], [ids[n] for n in front], [ids[n] for n in back]
        )

    return read


def by_word(k: int, front: Sequence[str], back: Sequence[str], *, overlap: bool) -> Callable[[Path], Tokens]:
    """Words of k letters, one from each letter on, or one after the other with single letters for the rest."""

    def read(folder: Path) -> Tokens:
        ids = vocabulary(folder)

        def letters(text: str) -> list[int]:
            if overlap:
                return [ids[text[at : at + k]] for at in range(len(text) - k + 1)]
            whole = len(text) // k * k
            return [ids[text[at : at + k]] for at in range(0, whole, k)] + [ids[letter] for letter in text[whole:]]

        return Tokens(letters, [ids[n] for n in front], [ids[n] for n in back])

    return read


def by_pairs(folder: Path) -> Tokens:
    """Byte pairs by the tokenizers library, [CLS] and [SEP] by their ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids: dict[str, int] = tokenizer.get_vocab()
    front, back = ids["[CLS]"], ids["[SEP]"]
    return Tokens(lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), [front], [back])


def built_in(ids: Mapping[str, int], front: Sequence[int], back: Sequence[int]) -> Callable[[Path], Tokens]:
    """A vocabulary that the model's code holds, and no file."""
    return lambda folder: Tokens(lambda text: [ids[letter] for letter in text], list(front), list(back))


def permuted_pieces(folder: Path, letters: str, first: int) -> None:
    """tokenizer.json of single letters whose ids begin at `first`, as Ankh 3 has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["<pad>", "</s>", "<unk>", *(f"<extra_{i}>" for i in range(3, first)), *letters]
    pieces = [(f"▁{name}" if name in letters else name, -1.0) for name in names]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "T5Tokenizer", "unk_token": "<unk>", "eos_token": "</s>", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
