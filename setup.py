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


setup(
    ext_modules=[
        Extension(
            "hpc_embed.engine.libattention",
            ["hpc_embed/engine/kernels/attention.c"],
            depends=["hpc_embed/engine/kernels/attention_body.h"],
            extra_compile_args=["-O3", "-g0", "-std=gnu11"],
            optional=True,
        ),
        Extension(
            "hpc_embed.planning.libdealing",
            ["hpc_embed/planning/kernels/dealing.c"],
            extra_compile_args=["-O3", "-g0", "-std=gnu11"],
            optional=True,
        ),
        Extension(
            "hpc_embed.sequences.libfasta",
            ["hpc_embed/sequences/kernels/fasta.c"],
            extra_compile_args=["-O3", "-g0", "-std=gnu11"],
            optional=True,
        ),
    ],
    cmdclass={"build_ext": SharedLibrary, "bdist_wheel": AnyPythonWheel},
)
