"""What a GPU would be given to run, seen without one: every kernel that an encoder launches, compiled and counted.

    python -m benchmarks.gpu_code [--models esm2_t33_650M ...] [--capabilities 80 90 100] [--json]

Needs Triton, which brings the assembler and the disassembler along. A model's first layer is run on the CPU with the
kernels' launches noted instead of made, so that each is compiled in the very form that it is launched in. Counted in
its machine code: instructions, registers, spills, tensor-core instructions, accesses to memory by their width.

The roofline that follows is a bound and no measurement: products at PRODUCTS_SHARE of the data sheet's dense BF16
rate or at the memory's, whichever is the slower, and the kernels at MEMORY_SHARE of the memory's rate, attention's
products beside its bytes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks import measuring
from benchmarks.gpu import FP8_HIDDEN
from benchmarks.gpu_models import lengths_of, random_windows
from benchmarks.measuring import Answer, Figure, Table
from hpc_embed.engine.attention import Sight, make_attention
from hpc_embed.engine.batches import make_batch
from hpc_embed.engine.encoder import Encoder
from hpc_embed.engine.gpu_chains import TWINS
from hpc_embed.engine.weights import random_weights
from hpc_embed.families import FAMILIES
from hpc_embed.model import Model
from hpc_embed.planning.cost import cost_of, flops
from hpc_embed.registry import find_model

MODELS = (
    "esm2_t6_8M",
    "esm2_t12_35M",
    "esm2_t33_650M",
    "esm2_t36_3B",
    "dnabert_s",
    "nt_v2_100m",
    "esmc_300m",
    "ankh_base",
)
SIGHTS = {"causal": Sight(is_causal=True), "sliding": Sight(reach=65), "causal-sliding": Sight(True, 65)}
"""Forms of attention that models of transformers alone have."""
PROGRAMS = Path(triton.__file__).parent / "backends/nvidia/bin"
TOKENS = 256
FP8_CAPABILITY = 89
CPU = torch.device("cpu")
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.float8_e4m3fn: "*fp8e4nv"}
NARROW = (".U8", ".S8", ".U16", ".S16")
"""Accesses of one or two bytes."""
IN_PLACE = ("activate", "norm_parts")
"""Kernels that write over what they read."""
PRODUCTS_SHARE, MEMORY_SHARE = 0.85, 0.85
CARDS = {"A100": (312e12, 2.0e12), "H100": (989e12, 3.35e12), "H200": (989e12, 4.8e12), "B200": (2250e12, 8.0e12)}
"""Dense BF16 FLOP/s and bytes a second, by data sheet."""


class Launch(NamedTuple):
    """One launch of a kernel, as it would have been."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    @property
    def bytes_per_token(self) -> float:
        """Of its arguments that have a row for each token, read or written once; twice those it writes over."""
        moved = [
            value.numel() * value.element_size() / TOKENS
            for value in self.arguments.values()
            if isinstance(value, Tensor) and len(value) == TOKENS
        ]
        return sum(moved[-1:] if self.name == "activate" and not self.arguments["HAS_GATE"] else moved) + (
            moved[-1] if self.name in IN_PLACE else 0.0
        )


class Code(NamedTuple):
    """What the machine code of one launch is made of."""

    instructions: int
    registers: int
    spills: int
    """Accesses to registers' places in memory."""
    tensor_core: int
    narrow: int
    """Accesses of one or two bytes."""
    widths: dict[str, int]


@contextmanager
def noted_launches(capability: int) -> Iterator[list[Launch]]:
    """Those that a GPU of that capability would be given meanwhile."""
    noted: list[Launch] = []

    def note(kernel: Any, *values: object, grid: object, warmup: bool, **named: Any) -> None:
        arguments = dict(zip(kernel.arg_names, values, strict=False)) | named
        options = {name: arguments.pop(name) for name in ("num_warps", "num_stages") if name in arguments}
        noted.append(Launch(kernel, arguments, options))

    generation = mock.patch("hpc_embed.engine.gpu_attention.generation_of", lambda _: capability // 10)
    with generation, mock.patch.object(JITFunction, "run", note):
        yield noted


def attention_launch(capability: int, sight: Sight) -> Launch:
    """Attention that leaves out some of a window, as models of transformers have it; heads of 64."""
    qkv_T3HK, windows = torch.randn(TOKENS, 3, 16, 64).bfloat16(), [np.full(TOKENS // 2, 5, dtype=np.int32)] * 2
    with noted_launches(capability) as noted:
        make_attention("triton", None, sight)(qkv_T3HK, None, make_batch(windows, CPU))
    return noted[0]


def launches(model: Model, capability: int, precision: str = "bf16") -> list[Launch]:
    """Those of a model's first layer on such a GPU, its attention by Triton."""
    assert model.shape is not None
    family, shape = FAMILIES[model.family], replace(model.shape, num_layers=1)
    with ExitStack() as patches:
        patches.enter_context(mock.patch("hpc_embed.engine.dense.products", lambda *_: "torch"))
        patches.enter_context(mock.patch("hpc_embed.engine.dense._multiplies_in_float32", lambda *_: False))
        encoder = Encoder(family, shape, random_weights(family, shape, 0), source="", device=CPU, precision=precision)
        encoder.use_attention("triton")
        patches.enter_context(mock.patch("hpc_embed.engine.chains.quantised", TWINS["quantised"]))
        for module in ("layers", "norm", "rotary", "dense"):
            name = f"hpc_embed.engine.{module}.fused"
            patches.enter_context(mock.patch(name, lambda chain, _: TWINS[chain.__name__]))
        noted = patches.enter_context(noted_launches(capability))
        encoder(make_batch(random_windows(model, [TOKENS // 2] * 2), CPU), 1)
    return noted


def compiled(launch: Launch, capability: int) -> Code:
    """Compile a launch for a GPU that need not be there, and count."""
    kernel, constants = launch.kernel, {}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for place, parameter in enumerate(kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            aligned = True
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            aligned = isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(made.asm["cubin"])
        code, resources = (_disassembled(option, cubin) for option in ("--dump-sass", "--dump-resource-usage"))
    operations = re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", code)
    kinds = Counter(operation.split(".")[0] for operation in operations)
    memory = Counter(operation for operation in operations if operation.startswith(("LDG", "STG", "UTMA")))
    return Code(
        instructions=len(operations),
        registers=_resource("REG", resources),
        spills=kinds["STL"] + kinds["LDL"],
        tensor_core=kinds["HMMA"] + kinds["HGMMA"] + kinds["QGMMA"] + kinds["UTCHMMA"] + kinds["UTCQMMA"],
        narrow=sum(number for name, number in memory.items() if name.endswith(NARROW)),
        widths=dict(memory),
    )


def _disassembled(option: str, cubin: Path) -> str:
    done = subprocess.run([PROGRAMS / "cuobjdump", option, cubin], capture_output=True, text=True, check=True)
    return done.stdout


def _resource(name: str, resources: str) -> int:
    found = re.search(rf"{name}:(\d+)", resources)
    return int(found[1]) if found else 0


def roofline(model: Model, noted: list[Launch], peak: float, rate: float) -> tuple[float, float]:
    """Tokens a second at most, and their share of the peak, on the lengths of real sequences."""
    assert model.shape is not None
    lengths = np.array(lengths_of(model))
    every_flop = flops(cost_of(model), lengths).sum() / lengths.sum()
    hidden, width = model.shape.hidden, model.shape.width
    attention_flops = 4 * width * float((lengths.astype(float) ** 2).sum() / lengths.sum()) * model.num_layers
    inner = model.feed_forward_weights // hidden  # the columns out of and into the feed-forward's products
    product_bytes = 2 * (2 * hidden + 4 * width + 2 * hidden + inner) * model.num_layers
    products = max((every_flop - attention_flops) / (PRODUCTS_SHARE * peak), product_bytes / (MEMORY_SHARE * rate))
    kernel_bytes = sum(launch.bytes_per_token for launch in noted) * model.num_layers
    seconds = products + kernel_bytes / (MEMORY_SHARE * rate) + attention_flops / (PRODUCTS_SHARE * peak)
    return 1 / seconds, every_flop / seconds / peak


def answer(models: list[str], capabilities: list[int]) -> Answer:
    """For each model its kernels, then every model's rooflines."""
    rows: list[list[str]] = []
    figures: list[Figure] = []
    for name in models:
        model = find_model(name)
        for capability in capabilities:
            noted = launches(model, capability)
            if capability >= FP8_CAPABILITY and model.hidden >= FP8_HIDDEN:
                noted += launches(model, capability, "fp8")
            for launch in {launch.name: launch for launch in noted}.values():
                row, more = _counted(name, launch, capability)
                rows.append(row)
                figures += more
    for (name, sight), capability in product(SIGHTS.items(), capabilities):
        row, more = _counted(name, attention_launch(capability, sight), capability)
        rows.append(row)
        figures += more
    bounds = []
    for name in models:
        model = find_model(name)
        noted = launches(model, 90)
        for card, (peak, rate) in CARDS.items():
            rate_of_tokens, share = roofline(model, noted, peak, rate)
            bounds.append([name, card, f"{rate_of_tokens:,.0f}", f"{share:.0%}"])
            figures.append(Figure(f"{name} {card}: at most", rate_of_tokens, "tokens/s"))
    headings = (
        "model",
        "kernel",
        "for",
        "instructions",
        "registers",
        "spilled",
        "tensor core",
        "narrow",
        "bytes/token",
        "memory",
    )
    note = f"Compiled by Triton {triton.__version__}, no GPU needed. Narrow: accesses of one or two bytes."
    return Answer(
        [
            Table("The kernels of one layer", headings, rows, note),
            Table("Rooflines: bounds, not measurements", ("model", "card", "tokens/s at most", "of the peak"), bounds),
        ],
        figures,
    )


def _counted(name: str, launch: Launch, capability: int) -> tuple[list[str], list[Figure]]:
    code = compiled(launch, capability)
    widths = ", ".join(f"{number} {width}" for width, number in sorted(code.widths.items()))
    counts = [code.instructions, code.registers, code.spills, code.tensor_core, code.narrow]
    place = [name, launch.name, f"sm_{capability}"]
    row = [*place, *map(str, counts), f"{launch.bytes_per_token:,.0f}", widths]
    figures = [
        Figure(f"{' '.join(place)}: {what}", value, "")
        for what, value in (
            ("instructions", code.instructions),
            ("spills", code.spills),
            ("tensor-core instructions", code.tensor_core),
            ("accesses of one or two bytes", code.narrow),
        )
    ]
    return row, figures


def main() -> None:
    """Compile, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--capabilities", nargs="+", type=int, default=[80, 90, 100])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    measuring.show(answer(options.models, options.capabilities), as_json=options.json)


if __name__ == "__main__":
    main()
