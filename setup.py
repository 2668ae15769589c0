"""Builds the kernels for attention, dealing and FASTA where a C compiler is; without one, torch and Python serve."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class SharedLibrary(build_ext):
    """The kernels are plain C called through ctypes: their names need no mark of a Python version."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")).with_suffix(".so"))


class AnyPythonWheel(bdist_wheel):
    """One wheel for every Python of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def kernel(package: str, name: str, *headers: str) -> Extension:
    """Of `kernels/NAME.c`, as `libNAME.so` in the package."""
    folder = f"{package.replace('.', '/')}/kernels"
    return Extension(
        f"{package}.lib{name}",
        [f"{folder}/{name}.c"],
        depends=[f"{folder}/{header}" for header in headers],
        extra_compile_args=["-O3", "-g0", "-std=gnu11"],
        optional=True,
    )


setup(
    ext_modules=[
        kernel("hpc_embed.engine", "attention", "attention_body.h"),
        kernel("hpc_embed.planning", "dealing"),
        kernel("hpc_embed.sequences", "fasta"),
    ],
    cmdclass={"build_ext": SharedLibrary, "bdist_wheel": AnyPythonWheel},
)
