"""A model of transformers as it is loaded: its hidden states one by one, its products by ours, its position tables."""

# B = windows, N = tokens of a window, D = hidden, V = rows of a table

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_embed.checkpoints.any_encoder import infer_model_type
from hpc_embed.checkpoints.config import READ_BY_ALL, USUAL, WITHOUT_EFFECT, read_config
from hpc_embed.engine.dense import Dense
from hpc_embed.engine.layers import dtype_of
from hpc_embed.errors import EnvironmentFault, in_one_line

CHOOSE = "Choose a model that it knows natively, or of `hpc-embed models`."
BUFFERS = ("position_ids", "inv_freq", "_extra_state", "masked_bias", ".attn.bias", "num_batches_tracked")
"""Ends of names of what older versions saved and models make anew."""
ONCE_USUAL: Mapping[str, Mapping[str, object]] = {"esm": {"hidden_act": "gelu", "dplm_type": "dplm_esm"}}
"""Fields of published configs that say what transformers' model does in any case."""
NARROW = 8
"""Tokens of a sliding window while one that is wider than a probe is tried."""
WIDENING_ROPES = ("dynamic", "longrope")
"""Rotary positions that become others for all windows of a batch where one is longer than the model was trained on."""


def load_model(folder: Path) -> Any:
    """transformers' encoder of a checkpoint, in float32; of an encoder with a decoder its first half.

    Raises EnvironmentFault for what transformers cannot load, or would load without all that the files say.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    transformers.utils.logging.disable_progress_bar()
    said = read_config(folder)
    model_type = infer_model_type(said)
    try:
        config = _config_of(model_type, said)
        is_text_encoder = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        kind = transformers.AutoModelForTextEncoding if is_text_encoder else transformers.AutoModel
        _refuse_unknown_fields(folder, said, config)
        model, report = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            f"{folder}: transformers {transformers.__version__} cannot load it ({in_one_line(error)}).",
            remedy=CHOOSE,
        ) from error
    missing = [name for name in report["missing_keys"] if not name.startswith(("pooler", "contact_head"))]
    if missing:
        raise EnvironmentFault(
            f"{folder}: not a whole checkpoint of {model_type} ({missing[0]} is missing).",
            remedy="Compare its files with those that were published, or choose another --model.",
        )
    _refuse_unread_tensors(folder, model, report["unexpected_keys"])
    if getattr(config, "is_encoder_decoder", False) and not is_text_encoder:
        model = model.get_encoder()
    model.config.use_cache = False
    return model.train(False)


def _config_of(model_type: str | None, said: Mapping[str, object]) -> Any:
    """By transformers' own class of that type; ValueError where it has none. Code that config.json names is not
    looked at."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"it has no model_type {model_type!r}")
    return CONFIG_MAPPING[model_type].from_dict({name: value for name, value in said.items() if name != "auto_map"})


def _refuse_unknown_fields(folder: Path, said: Mapping[str, object], config: Any) -> None:
    """EnvironmentFault for a field that transformers would drop without a word."""
    known = {*type(config)().to_dict(), *type(config).attribute_map, *WITHOUT_EFFECT, *READ_BY_ALL}
    kind = config.model_type
    usual = {**USUAL, **ONCE_USUAL.get(kind, {})}
    for name, value in said.items():
        if value is not None and name not in known and value != usual.get(name):
            raise EnvironmentFault(
                f"{folder / 'config.json'}: {name} is {value!r}, a field that transformers' {kind} does not have.",
                remedy="Choose a model of `hpc-embed models`; or take the field out if it changes no hidden state.",
            )


def _refuse_unread_tensors(folder: Path, model: Any, names: Iterable[str]) -> None:
    """EnvironmentFault for a tensor of the encoder that the model has no place for; heads may stay unread."""
    prefix = f"{model.base_model_prefix}."
    own = {name.partition(".")[0] for name in model.state_dict()} - {"pooler"}
    for name in names:
        if name.removeprefix(prefix).partition(".")[0] in own and not name.endswith(BUFFERS):
            raise EnvironmentFault(
                f"{folder}: holds {name}, a part of the encoder for which transformers' {model.config.model_type} has "
                "no place.",
                remedy=CHOOSE,
            )


class _Enough(Exception):
    """The deepest layer that is asked for was reached."""


class _Place(NamedTuple):
    """Where a hidden state is handed on: the input of a module's nth call."""

    module: nn.Module
    nth: int


class HiddenStates:
    """A model's hidden states as transformers numbers them, each caught where it is handed on: no others are kept, and
    nothing is computed behind the deepest one."""

    def __init__(self, model: Any, tokens_BN: Tensor) -> None:
        """Finds these places in one pass; without them, as for a layer that is not told apart, all states are kept."""
        self._model = model
        self._takes = inspect.signature(model.forward).parameters
        calls: list[tuple[_Place, Tensor]] = []
        counts: Counter[nn.Module] = Counter()

        def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            given = _given(args, kwargs)
            if given is not None:
                calls.append((_Place(module, counts[module]), given))
            counts[module] += 1

        with _hooked(model.modules(), note):
            states = self._forward(input_ids=tokens_BN, output_hidden_states=True).hidden_states
        self.num_layers = len(states) - 1
        found = (next((place for place, given in calls if given is state), None) for state in states[:-1])
        places = [place for place in found if place is not None]
        self._places = places if len(places) == self.num_layers else None

    def takes(self, name: str) -> bool:
        """Whether the model's forward pass has that argument."""
        return name in self._takes

    def __call__(self, layers: Sequence[int], **inputs: object) -> dict[int, Tensor]:
        """Those after each of `layers`, [B, N, D]."""
        before = [layer for layer in layers if layer != self.num_layers]
        if before and self._places is None:
            out = self._forward(**inputs, output_hidden_states=True)
            kept = {layer: out.hidden_states[layer] for layer in before}
        else:
            kept, out = self._caught(before, is_all=len(before) == len(layers), **inputs)
        if len(before) < len(layers):
            kept[self.num_layers] = out.last_hidden_state
        return kept

    def _caught(self, layers: Sequence[int], *, is_all: bool, **inputs: object) -> tuple[dict[int, Tensor], Any]:
        places = {(*self._places[layer],): layer for layer in layers} if self._places is not None else {}
        deepest = max(layers) if is_all else None
        kept: dict[int, Tensor] = {}
        counts: Counter[nn.Module] = Counter()

        def catch(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            layer = places.get((module, counts[module]))
            counts[module] += 1
            given = None if layer is None else _given(args, kwargs)
            if layer is not None and given is not None:
                kept[layer] = given
                if layer == deepest:
                    raise _Enough

        with _hooked({module for module, _ in places}, catch):
            try:
                return kept, self._forward(**inputs)
            except _Enough:
                return kept, None

    def _forward(self, **inputs: object) -> Any:
        return self._model(**{name: given for name, given in inputs.items() if self._wants(name)})

    def _wants(self, name: str) -> bool:
        takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._takes.values())
        return name in self._takes or (takes_more and name == "output_hidden_states")


def _given(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor | None:
    given = args[0] if args else kwargs.get("hidden_states")
    return given if isinstance(given, Tensor) else None


@contextmanager
def _hooked(modules: Any, hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Product(nn.Module):
    """A dense layer of ours in place of the library's."""

    def __init__(self, weight_ED: Tensor, bias_E: Tensor | None, precision: str) -> None:
        super().__init__()
        dtype = dtype_of(precision)
        self._dense = Dense(weight_ED, bias_E, device=weight_ED.device, dtype=dtype)
        self.weight = weight_ED.new_empty(0, dtype=dtype)
        """Of the type that some models look at."""

    def forward(self, x: Tensor) -> Tensor:
        """Its product with the last dimension."""
        out_RE = self._dense(x.reshape(-1, x.shape[-1]))
        return out_RE.view(*x.shape[:-1], out_RE.shape[-1])


def place_products(model: Any, precision: str) -> None:
    """Every dense layer becomes ours: its weights cast once, and on a CPU the same bits in any number of rows."""
    from transformers.pytorch_utils import Conv1D

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, Product(layer.weight.detach(), _detached(layer.bias), precision))
            elif type(layer) is Conv1D:  # GPT-2's, its weights the other way round
                setattr(parent, name, Product(layer.weight.detach().T, _detached(layer.bias), precision))


def _detached(bias_E: Tensor | None) -> Tensor | None:
    return None if bias_E is None else bias_E.detach()


class Table(NamedTuple):
    """A table of positions: the first of a window has the row `offset`."""

    weight_VD: Tensor
    offset: int


class _Lookups(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tables: list[Table] = []
        self._length = length

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding.default:
            rows = args[1].flatten()[: self._length].tolist()  # some pad within to whole blocks
            if rows == list(range(rows[0], rows[0] + self._length)):
                self.tables.append(Table(args[0], rows[0]))
        return func(*args, **(kwargs or {}))


def position_tables(run: Callable[[], object], length: int) -> list[Table]:
    """The tables that one window of `length` tokens, not neighbours in the vocabulary, is looked up in by position."""
    lookups = _Lookups(length)
    with lookups:
        run()
    return lookups.tables


def longest_window(model: Any, tables: Sequence[Table]) -> int | None:
    """Tokens that the positions hold, None for no limit."""
    limits = [len(table.weight_VD) - table.offset for table in tables]
    stated = [getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions")]
    if any(kind in WIDENING_ROPES for module in model.modules() for kind in _rope_kinds(module)):
        limits += [getattr(model.config, "original_max_position_embeddings", None) or 0]
    return min((limit for limit in [*limits, *(stated if tables else [])] if limit), default=None)


def _rope_kinds(module: nn.Module) -> list[object]:
    kind = getattr(module, "rope_type", None)
    return list(kind.values()) if isinstance(kind, dict) else [kind]


def follow_positions(model: Any, tables: Sequence[Table], positions: Callable[[], Tensor | None]) -> None:
    """Look up in the tables by these positions [1, T], wherever there are any."""
    addresses = {table.weight_VD.data_ptr(): table.offset for table in tables}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.data_ptr() in addresses:
            _follow(module, addresses[module.weight.data_ptr()], positions)


def _follow(table: nn.Embedding, offset: int, positions: Callable[[], Tensor | None]) -> None:
    usual = table.forward

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        positions_1T = positions()
        return usual(*args, **kwargs) if positions_1T is None else embedding(positions_1T + offset, table.weight)

    table.forward = forward  # type: ignore[method-assign]


def kinds_in(model: Any) -> dict[str, str]:
    """What is called by a name in a model and its config, which a pass may switch: `attention_type` and the like."""
    modules = ((name, vars(module)) for name, module in model.named_modules())
    return {
        f"{place}.{name}".strip("."): value
        for place, values in chain(modules, [("config", vars(model.config))])
        for name, value in values.items()
        if isinstance(value, str) and not name.startswith("_")
    }


def sliding_window_of(of: object) -> int:
    width = getattr(of, "sliding_window", None)
    return width if isinstance(width, int) else 0


@contextmanager
def narrowed(wide: Iterable[Any]) -> Iterator[None]:
    """The narrowest of these sliding windows becomes NARROW tokens wide, the others by as much narrower."""
    widths = [(each, sliding_window_of(each)) for each in wide]
    less = min(width for _, width in widths) - NARROW
    try:
        for each, width in widths:
            each.sliding_window = width - less
        yield
    finally:
        for each, width in widths:
            each.sliding_window = width
