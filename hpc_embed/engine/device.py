"""Devices as torch sees them: what they are, what they can, what memory they have."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from hpc_embed.engine import processor
from hpc_embed.engine.exactness import keep_exact
from hpc_embed.errors import EnvironmentFault
from hpc_embed.memory import keep_all_freed_memory
from hpc_embed.units import format_bytes

AMPERE, ADA = 8, (8, 9)
"""Compute capability from which BF16 is in the hardware, and FP8."""
SHARE_OF_MEMORY = 0.8
MOST_TOKENS_CUDA = 131_072
MOST_TOKENS_CPU = 4_096
"""On a CPU larger batches bring no more speed."""
TRIAL_TOKENS_CUDA = (1_024, 8_192)
TRIAL_TOKENS_CPU = (256, 768)
TORCHS_ATTENTION = "torch's attention (ours takes AVX2, and a C compiler when installed)"
NO_ROOM = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC")
"""torch.AcceleratorError is a RuntimeError that says so in its first line, among faults of other kinds."""
_CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def find_device(device_id: int | str) -> torch.device:
    """The torch device of a GPU index or `cpu`; EnvironmentFault where it is not there, or torch has no code for it.

    This process is set up for it.
    """
    if device_id == "cpu":
        keep_all_freed_memory()  # torch asks for a layer's activations anew each time
        return torch.device("cpu")
    if not torch.cuda.is_available() or int(device_id) >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"GPU {device_id} is not there: torch {torch.__version__} sees {torch.cuda.device_count()}.",
            remedy="Check the driver with `hpc-embed doctor`, or choose the CPU.",
        )
    device = torch.device("cuda", int(device_id))
    if not has_code(device):
        raise EnvironmentFault(
            f"GPU {device_id}, {describe(device)}: {_without_code(device)}.",
            remedy="Ask Slurm for another GPU (--constraint or --gres), or install a torch that is built for this one.",
        )
    torch.cuda.set_device(device)
    keep_exact()
    return device


def has_code(device: torch.device) -> bool:
    """True where the installed torch was compiled for a GPU, or can compile what it brings for it.

    Code for sm_XY runs on capability X.Y and later minors of the same major, sm_XYf too; sm_XYa on X.Y alone; and
    compute_XY is translated by the driver for X.Y and all that came later (CUDA's compatibility rules). AMD's GPUs are
    known by their names (gfx90a).
    """
    built_for = torch.cuda.get_arch_list()
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0] in built_for
    major, minor = torch.cuda.get_device_capability(device)
    for architecture in built_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if found is None:
            return True  # a name that we do not know: let torch say
        kind, letter, of = found[1], found[4], (int(found[2]), int(found[3]))
        goes_on = letter != "a" and (of[0] == major or (kind == "compute" and not letter))
        if of == (major, minor) or (goes_on and of < (major, minor)):
            return True
    return not built_for


def _without_code(device: torch.device) -> str:
    of = "this GPU" if torch.version.hip else f"capability {_capability(device)}"
    return f"torch {torch.__version__} has no code for {of}, only for {', '.join(torch.cuda.get_arch_list())}"


def _capability(device: torch.device) -> str:
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def has_bf16(device: torch.device) -> bool:
    """True where the hardware multiplies BF16; on a CPU, where it has instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    return processor.has_bf16()


def has_fp8(device: torch.device) -> bool:
    """True where the hardware multiplies FP8 and torch scales each row by itself; AMD's FP8 is another one."""
    is_nvidia = device.type == "cuda" and not torch.version.hip
    return is_nvidia and torch.cuda.get_device_capability(device) >= ADA and hasattr(torch, "_scaled_mm")


def choose_precision(wanted: str, device: torch.device, *, force: bool = False) -> str:
    """fp32, bf16 or fp8: `auto` is BF16 on GPUs that have it and FP32 elsewhere.

    Raises EnvironmentFault for a precision that a device does not have, unless `force` says that it is meant.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    is_slow = (wanted == "bf16" and not has_bf16(device)) or (wanted == "fp8" and not has_fp8(device))
    if is_slow and not force:
        raise EnvironmentFault(
            f"--precision {wanted}: {describe(device)} {processor.WITHOUT[wanted]}.",
            remedy="Plan with --precision auto or fp32 into another --run-dir, or insist with --force-precision.",
        )
    return wanted


def describe(device: torch.device) -> str:
    """For people: the device's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({processor.name()}, {torch.get_num_threads()} threads)"


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken: the GPU's, or the machine's within our cgroup."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = int(_meminfo()["MemAvailable"]) * 1024
    for limit, usage in _CGROUP_LIMITS:
        try:
            available = min(available, int(limit.read_text()) - int(usage.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return max(available, 0)


def reset_peak(device: torch.device) -> None:
    """Begin to measure `peak_bytes` anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes(device: torch.device) -> int:
    """Most memory in use since `reset_peak`: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """True for an allocation that failed, on either kind of device, torch's own or a library's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_ROOM)


def measure_token_budget(run_tokens: Callable[[int], None], device: torch.device) -> int:
    """Tokens in one batch that the free memory holds.

    `run_tokens(n)` runs a batch of n tokens. Two trials give the bytes that one more token takes; what is
    free, less a reserve, is divided by them, up to the size beyond which batches grow no faster.
    """
    most = MOST_TOKENS_CUDA if device.type == "cuda" else MOST_TOKENS_CPU
    few, many = TRIAL_TOKENS_CUDA if device.type == "cuda" else TRIAL_TOKENS_CPU
    peaks = []
    run_tokens(few)  # what is allocated once does not count
    for num_tokens in (few, many):
        reset_peak(device)
        run_tokens(num_tokens)
        peaks.append(peak_bytes(device))
    bytes_per_token = max((peaks[1] - peaks[0]) / (many - few), 1.0)
    return max(few, min(most, int(SHARE_OF_MEMORY * free_bytes(device) / bytes_per_token)))


def facts() -> list[tuple[str, bool, str]]:
    """What a doctor wants to know: name, whether it is well, detail."""
    from hpc_embed.engine import fp8, kernel
    from hpc_embed.engine.attention import available_back_ends
    from hpc_embed.engine.dense import products
    from hpc_embed.engine.fusion import why_plain

    found: list[tuple[str, bool, str]] = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        if not has_code(device):
            found.append((f"gpu {index}", False, f"{describe(device)}: {_without_code(device)}"))
            continue
        precision = "BF16" if has_bf16(device) else "no BF16, FP32 instead"
        if has_fp8(device):
            precision += " and FP8" if (reason := fp8.why_not(device)) is None else f", no FP8 ({reason})"
        dtype = torch.bfloat16 if has_bf16(device) else torch.float32
        back_ends = ", ".join(available_back_ends(device, 64, dtype))
        free = format_bytes(free_bytes(device))
        compiled = "chains in Triton" if (reason := why_plain()) is None else f"chains compiled: no ({reason})"
        detail = f"{describe(device)}, capability {_capability(device)}, {precision}, {free} free"
        found.append((f"gpu {index}", True, f"{detail}, {back_ends}, {compiled}"))
    if not found:
        found.append(("gpu", False, f"torch {torch.__version__} sees none; hpc-embed runs on the CPU"))
    compiler = shutil.which("cc") or shutil.which("gcc")
    found.append(("compiler", True, compiler or "none, which Triton wants for a GPU's kernels; installing gcc helps"))
    cpu = torch.device("cpu")
    precision = "BF16 instructions" if has_bf16(cpu) else "no BF16 instructions"
    level = kernel.level()
    own = f"attention kernel for {kernel.LEVELS[level]}" if level else TORCHS_ATTENTION
    return [*found, ("cpu", True, f"{processor.name()}, {precision}, {own}, products by {products()}")]


def _meminfo() -> dict[str, str]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: line.split()[1] for line in lines}
