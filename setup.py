"""Builds the CPU's attention kernel where a C compiler is at hand; without one, torch's own attention serves."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class SharedLibrary(build_ext):
    """The kernel is plain C called through ctypes: its name needs no mark of a Python version."""

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
        )
    ],
    cmdclass={"build_ext": SharedLibrary, "bdist_wheel": AnyPythonWheel},
)
