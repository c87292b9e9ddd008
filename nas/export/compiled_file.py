"""Compiles a traced program ahead of time with AOTInductor: one file with machine code for this kind of processor.

Writing it needs a C++ compiler, running it does not. Loading the file executes its code, just like `run.py`.
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

OPTIONS = {"cpp.dynamic_threads": True}  # torch's number of threads at run time, not at compile time


def check_compiler() -> None:
    """Raises UsageError if there is no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise UsageError(
            f"--format aotinductor: it needs a C++ compiler, and {name!r} is not on this machine; install g++, "
            "or set the environment variable CXX to a compiler"
        )


@cache
def compiler() -> str:
    """The C++ compiler and its version, to be recorded with measurements."""
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), "--version"], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[0]


def where_it_runs(path: Path) -> str:
    """A sentence on the machines that can run the file."""
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{path.name} is machine code for CPUs with {kind} and torch {torch.__version__}; recompile it for others"


def write_compiled(graph: Graph, path: Path) -> Run:
    """Compile the graph to `path`, which ends in .pt2; returns the function that the file computes.

    Raises UsageError if there is no compiler or AOTInductor can't compile the network.
    """
    check_compiler()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            torch._inductor.aoti_compile_and_package(
                graph.program, package_path=str(path), inductor_configs=dict(OPTIONS)
            )
    except Exception as error:  # AOTInductor's errors have no common base class
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--format aotinductor: AOTInductor can't compile this network ({said}); use --format torch-export"
        ) from error
    module = package(path)

    def run(inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        outputs: Tensor = module(*given(graph, inputs, mask).values())
        return cut(outputs, inputs)

    return run


def package(path: Path) -> Any:
    """Load a compiled file as a function of the graph's inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch._inductor.aoti_load_package(str(path))
