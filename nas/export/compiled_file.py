"""A traced program compiled ahead of time by AOTInductor: machine code for this kind of processor, in one file.

Needs a C++ compiler here, none where the file is run. It is code: what is loaded is run, as `run.py` itself is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import UsageError
from nas.export.graph import Graph, Run, cut, given

OPTIONS = {"cpp.dynamic_threads": True}  # as many as torch has when it is run, not when it was compiled


def check_compiler() -> None:
    """Raises UsageError where there is no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise UsageError(
            f"--format aotinductor: compiling takes a C++ compiler, and {name!r} is not on this machine; install g++, "
            "or set the variable CXX to a compiler"
        )


@cache
def compiler() -> str:
    """The C++ compiler and its version, for what is measured of its code."""
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[0]


def where_it_runs(path: Path) -> str:
    """A sentence on the machines that take the file."""
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{path.name} is machine code for CPUs with {kind} and torch {torch.__version__}; compile it anew for others"


def write_compiled(graph: Graph, path: Path) -> Run:
    """Compile to a package `path`, which ends in .pt2; returns what the file computes.

    Raises UsageError for a network that AOTInductor has no code for.
    """
    check_compiler()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            torch._inductor.aoti_compile_and_package(
                graph.program, package_path=str(path), inductor_configs=dict(OPTIONS)
            )
    except Exception as error:  # its errors have no common base
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--format aotinductor: AOTInductor has no code for this network ({said}); torch-export takes it"
        ) from error
    module = package(path)

    def run(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs: Tensor = module(*given(graph, inputs, mask).values())
        return cut(outputs, inputs)

    return run


def package(path: Path) -> Any:
    """A compiled file as a function of the graph's inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch._inductor.aoti_load_package(str(path))
