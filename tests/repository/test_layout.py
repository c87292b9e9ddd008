"""What the repository promises about its files: short, documented, without the patterns that hide errors."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("nas", "searchspace", "proxies", "predictors", "studies")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
KERNELS = Path("searchspace/kernels")
MAX_LINES, MAX_KERNEL_LINES = 450, 600


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def may_print(path: Path) -> bool:
    return path.is_relative_to("nas/cli") or "templates" in path.parts


def calls(node: ast.AST, *names: str) -> bool:
    """Whether the node calls one of the names as written: `print`, `torch.load`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in names


def has_keyword(node: ast.AST, name: str, value: object) -> bool:
    return isinstance(node, ast.Call) and any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in node.keywords
    )


def swallows_errors(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    catches_all = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    return catches_all and all(isinstance(step, ast.Pass | ast.Continue) for step in node.body)


def moves_to_cuda(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"


def evaluates_text(node: ast.AST) -> bool:
    return calls(node, "eval", "exec")


def reads_pickle(node: ast.AST) -> bool:
    unpicklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}
    if isinstance(node, ast.Import):
        return any(name.name.split(".")[0] in unpicklers for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in unpicklers
    unsafe_load = calls(node, "torch.load") and not has_keyword(node, "weights_only", True)
    return unsafe_load or has_keyword(node, "allow_pickle", True)


def found(is_banned: Callable[[ast.AST], bool], files: list[Path]) -> Iterator[str]:
    for path in files:
        for node in ast.walk(parsed(path)):
            if is_banned(node):
                yield f"{path}:{getattr(node, 'lineno', 1)}"


@pytest.mark.parametrize("is_banned", [swallows_errors, moves_to_cuda, evaluates_text, reads_pickle])
def test_no_library_file_contains_a_banned_pattern(is_banned):
    assert list(found(is_banned, FILES)) == []


@pytest.mark.parametrize(
    ("is_banned", "banned", "allowed"),
    [
        (swallows_errors, "try: f()\nexcept Exception: pass", "try: f()\nexcept OSError: pass"),
        (swallows_errors, "try: f()\nexcept: pass", "try: f()\nexcept Exception as e: error = str(e)"),
        (moves_to_cuda, "model.cuda()", "torch.cuda.synchronize()"),
        (evaluates_text, "eval(text)", "model.eval()"),
        (reads_pickle, "import pickle", "import json"),
        (reads_pickle, "torch.load(path)", "torch.load(path, weights_only=True)"),
        (reads_pickle, "np.load(path, allow_pickle=True)", "np.load(path)"),
    ],
)
def test_the_patterns_match_what_they_ban_and_nothing_beside_it(is_banned, banned, allowed):
    assert any(map(is_banned, ast.walk(ast.parse(banned))))
    assert not any(map(is_banned, ast.walk(ast.parse(allowed))))


def test_libraries_do_not_print():
    silent = [path for path in FILES if not may_print(path)]
    assert list(found(lambda node: calls(node, "print"), silent)) == []


def test_no_library_file_is_longer_than_its_limit():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in FILES}
    limits = {path: MAX_KERNEL_LINES if path.is_relative_to(KERNELS) else MAX_LINES for path in FILES}
    assert {str(path): n for path, n in lengths.items() if n > limits[path]} == {}


def test_every_module_says_what_it_is_for():
    modules = [path for path in FILES if path.name != "__init__.py"]
    assert [str(path) for path in modules if not ast.get_docstring(parsed(path))] == []


def test_packages_are_empty_save_the_python_api():
    packages = [path for path in FILES if path.name == "__init__.py" and path != Path("nas/__init__.py")]
    assert [str(path) for path in packages if (ROOT / path).read_text().strip()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_ship_their_types(package):
    assert (ROOT / package / "py.typed").is_file()
