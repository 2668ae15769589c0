"""Any encoder that transformers knows natively: packed where that gives what one window at a time gives.

Its attention becomes ours: one row holds many windows, positions begin anew in each, and a query sees its own window.
Whether a model computes the same so is tried when it is loaded, on a few windows and never by its name. What does not
runs padded, in batches of one length or one window at a time, whichever is the first that was tried and agrees.
"""

# T = packed tokens, B = windows, D = hidden, H = heads, K = head dimension

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_embed.engine.any_attention import NAME, OtherAttention, RowAttention, positions_of_row, register, running
from hpc_embed.engine.any_model import (
    HiddenStates,
    follow_positions,
    kinds_in,
    load_model,
    longest_window,
    narrowed,
    place_products,
    position_tables,
    sliding_window_of,
)
from hpc_embed.engine.batches import PackedBatch, make_marked_batch
from hpc_embed.engine.device import is_out_of_memory
from hpc_embed.engine.embedding import Embedded, embed_outputs
from hpc_embed.engine.exactness import sum_in_one_order
from hpc_embed.engine.layers import dtype_of
from hpc_embed.engine.padded import ALONE, EQUAL, GROUPINGS, Grouping, num_computed_tokens, padded_states
from hpc_embed.errors import EnvironmentFault, in_one_line
from hpc_embed.run.outputs import Outputs

LARGEST_DIFFERENCE = {"fp32": 1e-5, "bf16": 1e-1}
"""Of a trial from one window at a time in FP32, relative to the largest number."""
FAULTS = (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError, AssertionError, ImportError)
"""What a model's own code raises where it is run in another way than its authors did."""
SHORT_TOKENS, PROBE_TOKENS = 12, 80
"""Of the probe that a model is looked at with, and of those that it is tried with, at most."""

Tokens = NDArray[np.integer]
States = dict[int, Tensor]


class AnyEncoder:
    """A model of transformers on a device. Special tokens are marked in the windows; see batches.make_marked_batch."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        precision: str,
        probes: Sequence[Tokens],
        layers: Sequence[int],
        *,
        may_pack: bool = True,
    ) -> None:
        """`probes` are a few windows as its tokeniser makes them, a short one first. EnvironmentFault for what
        transformers cannot load, or whose vectors would depend on other windows whatever one does."""
        if precision == "fp8":
            raise EnvironmentFault(
                "--precision fp8: transformers' own encoders run in FP32 or BF16.",
                remedy="Plan with --precision auto into another --run-dir.",
            )
        if device.type == "cuda" and precision == "bf16":
            sum_in_one_order(device)
        self._folder, self._device, self._precision = folder, device, precision
        self._layers, self._may_pack, self._is_done = sorted(set(layers)), may_pack, False
        self._load(probes)
        if (reason := self._place_products()) is not None:  # some are gone: from the start, without ours
            self._load(probes)
            self._note(f"runs with torch's dense layers and not with ours: {reason}")
        self._is_done = True
        self.use_attention(None)
        dropped = self._attention.dropped.items()
        self._note(*(f"attention by {name} is left out: {reason}" for name, reason in dropped))

    @torch.inference_mode()
    def _load(self, probes: Sequence[Tokens]) -> None:
        self.notes: tuple[str, ...] = ()
        self._is_packed, self._grouping, self._lone_id = False, GROUPINGS[0], -1
        self._attention = RowAttention(self._device, torch.float32)
        self._model = load_model(self._folder).to(self._device)
        self._num_rows: int = len(self._model.get_input_embeddings().weight)
        self._pad: int = getattr(self._model.config, "pad_token_id", None) or 0
        self.longest: int | None = None
        """Tokens of the longest window that its positions hold."""
        self._check(probes)
        self._study(self._on_device(probes[0][:SHORT_TOKENS]))
        most = min(PROBE_TOKENS, self.longest or PROBE_TOKENS)
        self._probes = [self._on_device(probe[:most]) for probe in probes]
        self._alone = self._each_alone()
        self._check_states()
        reason = self._why_not_packed() if self._may_pack else "as was asked for"
        if reason is None:
            self._lone_id = self._token_that_spreads()
        else:
            self._note(f"runs padded and not packed: {reason}")
            self._grouping = self._find_grouping()
            self._note(*filter(None, [self._grouping.reason]))

    # what the model is

    def _study(self, short_N: Tensor) -> None:
        """The short probe goes first: what a short window switches for good is switched before any counts."""
        before, tokens_1N = kinds_in(self._model), short_N[None]
        try:
            self._states = HiddenStates(self._model, tokens_1N)
            self._tables = position_tables(
                lambda: self._states([self._states.num_layers], input_ids=tokens_1N), len(short_N)
            )
        except FAULTS as error:
            raise EnvironmentFault(
                f"{self._folder}: {self._kind} gives no states for {len(short_N)} tokens ({in_one_line(error)}).",
                remedy="Choose an encoder of sequences, or a model of `hpc-embed models`.",
            ) from error
        self.longest = longest_window(self._model, self._tables)
        after = kinds_in(self._model)
        for name in [name for name in before if after.get(name) != before[name]][:1]:
            self._note(f"a short window switches {name} from {before[name]} to {after[name]}: all windows run so")
        self.num_layers = self._states.num_layers
        if max(self._layers) > self.num_layers:
            raise EnvironmentFault(
                f"{self._folder}: layer {max(self._layers)} is asked for, {self._kind} has {self.num_layers}.",
                remedy=f"Plan with --layer {self.num_layers} or less into another --run-dir.",
            )

    def _check_states(self) -> None:
        if not all(bool(x_ND.isfinite().all()) for states in self._alone for x_ND in states.values()):
            raise EnvironmentFault(
                f"{self._folder}: the model gives NaN or infinity for ordinary letters: its weights are suspect.",
                remedy="Compare their digest with the published one, and fetch the checkpoint again.",
            )
        widths = {x_ND.shape[1] for x_ND in self._alone[0].values()}
        if len(widths) > 1:
            raise EnvironmentFault(
                f"{self._folder}: the layers that are asked for are {' and '.join(map(str, sorted(widths)))} wide.",
                remedy="Plan layers of one width together, and the others in a run of their own.",
            )
        self.hidden: int = widths.pop()
        """Numbers of a vector."""

    @property
    def sees_only_backwards(self) -> bool:
        """Whether a window's first token has the same state whatever follows: the last two probes begin alike."""
        one_D, other_D = (states[max(self._layers)][0] for states in self._alone[-2:])
        return bool((one_D - other_D).abs().max() <= 1e-6 * one_D.abs().max())

    # ways to run it

    def _why_not_packed(self) -> str | None:
        """What is in the way of packed rows; with None they are in use from here on."""
        usual = self._model.config._attn_implementation
        try:
            register()
            self._model.set_attn_implementation(NAME)
            if self._model.config._attn_implementation != NAME:
                return f"{self._kind} has no attention that can be replaced"
            follow_positions(self._model, self._tables, positions_of_row)
            self._is_packed = True
            reason = self._differs(self._run_row(self._probes)) or self._slides_otherwise(usual)
        except OtherAttention as error:
            reason = str(error)
        except FAULTS as error:
            reason = _told(error)
        if reason is not None:
            self._is_packed = False
            self._model.set_attn_implementation(usual)
        return reason

    def _slides_otherwise(self, usual: str) -> str | None:
        """The same with sliding windows made narrow, where no probe is as long as they are."""
        wide = [each for each in (*self._model.modules(), self._model.config) if sliding_window_of(each) > PROBE_TOKENS]
        if not wide:
            return None
        with narrowed(wide):
            row = self._run_row(self._probes)
            self._is_packed = False
            self._model.set_attn_implementation(usual)
            alone = self._each_alone()
            self._model.set_attn_implementation(NAME)
            self._is_packed = True
        return self._differs(row, alone)

    def _token_that_spreads(self) -> int:
        """The mask's id where windows beside one that holds it get other vectors, as in ESM; -1 for none."""
        mask_id = getattr(self._model.config, "mask_token_id", None)
        if not isinstance(mask_id, int) or not 0 <= mask_id < self._num_rows:
            return -1
        beside = self._probes[1:]
        row = self._run_row([torch.full_like(self._probes[0], mask_id), *beside])
        return -1 if self._differs(row[1:], self._alone[1:]) is None else mask_id

    def _find_grouping(self) -> Grouping:
        for grouping in GROUPINGS:
            try:
                if all(self._differs(*pair) is None for pair in self._beside_others(grouping)):
                    return grouping
            except FAULTS as error:
                _told(error)
        raise EnvironmentFault(
            f"{self._folder}: {self._kind} gives one window another vector each time.",
            remedy="Choose a model without random numbers in its forward pass, or one of `hpc-embed models`.",
        )

    def _beside_others(self, grouping: Grouping) -> Iterator[tuple[list[States], list[States]]]:
        """Probes among others as `grouping` has them, and alone."""
        if grouping is ALONE:
            yield self._each_alone()[::-1], self._alone[::-1]
        elif grouping is EQUAL:
            for probe_N, states in zip(self._probes, self._alone, strict=True):
                yield self._padded([probe_N, probe_N.flip(0)], self._layers)[:1], [states]
        else:
            yield self._padded(self._probes, self._layers), self._alone

    def _place_products(self) -> str | None:
        """Dense layers by ours; what is in the way of it."""
        try:
            place_products(self._model, self._precision)
            self._attention = RowAttention(self._device, dtype_of(self._precision))
            self._is_done = True
            found = self._run_row(self._probes) if self._is_packed else self._each_alone()
            return self._differs(found, bound=LARGEST_DIFFERENCE[self._precision])
        except FAULTS as error:
            return _told(error)
        finally:
            self._is_done = False

    def _differs(
        self,
        found: Sequence[States],
        expected: Sequence[States] | None = None,
        bound: float = LARGEST_DIFFERENCE["fp32"],
    ) -> str | None:
        differences = [
            float((ours[layer] - theirs[layer]).abs().max() / theirs[layer].abs().max())
            for ours, theirs in zip(found, expected or self._alone, strict=True)
            for layer in self._layers
        ]
        if max(differences) <= bound and not any(map(np.isnan, differences)):
            return None
        return f"its hidden states then differ from those of one window at a time by {max(differences):.0e}"

    # passes

    @torch.inference_mode()
    def _run_row(self, windows: Sequence[Tensor]) -> list[States]:
        """The windows in one row."""
        batch = make_marked_batch([window_N.cpu().numpy() for window_N in windows], self._device)
        return _split(self._packed(batch, self._layers), windows)

    @torch.inference_mode()
    def _each_alone(self) -> list[States]:
        return [self._padded([probe_N], self._layers)[0] for probe_N in self._probes]

    def _padded(self, windows: Sequence[Tensor], layers: Sequence[int]) -> list[States]:
        with self._autocast():
            return _split(padded_states(self._states, windows, layers, self._pad), windows)

    def _packed(self, batch: PackedBatch, layers: Sequence[int]) -> States:
        with running(batch, self._attention) as positions_1T, self._autocast():
            states = self._states(layers, input_ids=batch.tokens_T[None].long(), position_ids=positions_1T)
        return {layer: x_1TD[0] for layer, x_1TD in states.items()}

    def _autocast(self) -> torch.autocast:
        """In BF16 once all is tried."""
        is_bf16 = self._is_done and self._precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=is_bf16)

    @torch.inference_mode()
    def states(self, batch: PackedBatch, layers: Sequence[int]) -> States:
        """Hidden states [T, D] after each of `layers`."""
        if self._is_packed:
            return self._packed(batch, layers)
        windows = torch.split(batch.tokens_T.long(), list(batch.lengths))
        made = [self._padded(chunk, layers) for chunk in self._grouping.chunks(windows)]
        return {layer: torch.cat([states[layer] for chunk in made for states in chunk]) for layer in layers}

    def embed(self, windows: Sequence[Tokens], outputs: Outputs) -> Embedded:
        """Every output of one pass, rows as run/outputs.py lays them out."""
        self._check(windows)
        if self._lone_id >= 0 and any(np.isin(window, (self._lone_id, ~self._lone_id)).any() for window in windows):
            return _joined(
                [embed_outputs(self, [each], outputs, self._device, None, fewest_rows=0) for each in windows]
            )
        made = embed_outputs(self, windows, outputs, self._device, None)
        if self._is_packed:
            return made
        return made._replace(num_computed_tokens=num_computed_tokens(windows, self._grouping))

    def _check(self, windows: Sequence[Tokens]) -> None:
        longest = max(map(len, windows))
        if self.longest is not None and longest > self.longest:
            raise EnvironmentFault(
                f"a window has {longest} tokens, the model positions for {self.longest}.",
                remedy=f"Plan with a smaller --max-residues: {self.longest - 2} or less surely fit.",
            )
        signed = [window.astype(np.int64) for window in windows]  # ~ of unsigned numbers is another
        largest = max(int(np.maximum(window, ~window).max()) for window in signed)
        if largest >= self._num_rows:
            raise EnvironmentFault(
                f"{self._folder}: its tokenizer gives the token {largest}, the model has {self._num_rows}.",
                remedy="Put the tokenizer's files of this very checkpoint beside it.",
            )

    @property
    def _kind(self) -> str:
        return type(self._model).__name__

    def _note(self, *lines: str) -> None:
        self.notes = (*self.notes, *lines)

    def _on_device(self, window: Tokens) -> Tensor:
        return torch.from_numpy(np.maximum(window, ~window).astype(np.int64)).to(self._device)

    def use_attention(self, name: str | None) -> None:
        """Use another of `attention_back_ends`; at first the fastest that computes what it should."""
        self._attention = RowAttention(self._device, dtype_of(self._precision), name)
        if self._is_packed:
            self._run_row(self._probes)  # meets each form of its layers
        self.attention_back_ends = self._attention.back_ends or ["transformers"]
        self.attention_name = " and ".join(self._attention.names) or "transformers"


def _told(error: Exception) -> str:
    """A fault of the model's own code; one of memory says nothing about it."""
    if is_out_of_memory(error):
        raise error
    return in_one_line(error)


def _split(states: States, windows: Sequence[Tensor]) -> list[States]:
    """Of each window by itself."""
    lengths = list(map(len, windows))
    parts = {layer: torch.split(x_TD, lengths) for layer, x_TD in states.items()}
    return [{layer: of_windows[at] for layer, of_windows in parts.items()} for at in range(len(windows))]


def _joined(made: Sequence[Embedded]) -> Embedded:
    vectors, num_tokens, num_computed = zip(*made, strict=True)
    return Embedded(torch.cat(vectors), np.concatenate(num_tokens), sum(num_computed))
