"""Proves that nothing in this program turns data into code: no pickle in any of its forms, no eval, no shell, no import by text.

Reads the syntax tree of every module, so names that are imported under others are found too. There is no way to excuse a line: what
is refused here has to be done without.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKED = ("clr", "worker", "service", "benchmarks", "examples", "tools")

MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "joblib", "code", "codeop"}
    | {"runpy", "imp", "pty"}
)
"""Modules that exist to turn bytes or text into objects or code."""

CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile"), "runs text as code"),
    **dict.fromkeys(("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "runs text in a shell"),
    **dict.fromkeys(("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"), "pickles"),
    **dict.fromkeys(("pandas.read_pickle", "numpy.core.multiarray._reconstruct", "polars.DataFrame.deserialize"), "pickles"),
    **dict.fromkeys(("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"), "makes any object"),
}
NUMPY_FILES = frozenset({"numpy.load", "numpy.save", "numpy.savez", "numpy.savez_compressed"})
CELERY_FORMATS = frozenset({"accept_content", "result_accept_content", "task_serializer", "result_serializer", "event_serializer"})


@dataclass(frozen=True)
class Finding:
    """One place where data could become code."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def findings(source: str, path: str) -> list[Finding]:
    """Every forbidden thing in a module's source, in its order."""
    tree = ast.parse(source, path)
    names = _imported_names(tree)
    found = [Finding(path, line, what) for node in ast.walk(tree) for line, what in _of_node(node, names)]
    return sorted(found, key=lambda finding: finding.line)


def findings_in(root: Path) -> list[Finding]:
    """Every forbidden thing in the program below ``root``."""
    paths = [path for part in CHECKED for path in sorted((root / part).rglob("*.py"))]
    return [finding for path in paths for finding in findings(path.read_text(encoding="utf-8"), str(path.relative_to(root)))]


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``np`` for ``numpy``, ``load`` for ``torch.load``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _of_node(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Import(lineno=line, names=aliases):
            yield from ((line, f"imports {alias.name}: use JSON, npy or safetensors") for alias in aliases if _is_forbidden(alias.name))
        case ast.ImportFrom(lineno=line, module=str(module), level=0) if _is_forbidden(module):
            yield line, f"imports {module}: use JSON, npy or safetensors"
        case ast.ImportFrom(lineno=line, module=str(module), names=aliases, level=0):
            full_names = [f"{module}.{alias.name}" for alias in aliases]
            yield from ((line, f"imports {name}, which {CALLS[name]}") for name in full_names if name in CALLS)
        case ast.Call():
            yield from _of_call(node, _dotted(node.func, names))
        case ast.Dict(keys=keys, values=values):
            pairs = ((key.value, value) for key, value in zip(keys, values, strict=True) if isinstance(key, ast.Constant))
            yield from ((value.lineno, _FORMAT) for name, value in pairs if name in CELERY_FORMATS and not _is_json(value))
        case ast.Assign(targets=[ast.Attribute(attr=name)], value=value, lineno=line) if name in CELERY_FORMATS and not _is_json(value):
            yield line, _FORMAT


_FORMAT = "lets Celery read something else than JSON: it must be 'json'"


def _of_call(call: ast.Call, name: str) -> Iterator[tuple[int, str]]:
    options = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    if name in CALLS:
        yield call.lineno, f"{name} {CALLS[name]}"
    if name in NUMPY_FILES and not _is_constant(options.get("allow_pickle"), value=False):
        yield call.lineno, f"{name} without allow_pickle=False"
    if name in ("importlib.import_module", "importlib.util.spec_from_file_location") and not all(map(_is_text, call.args)):
        yield call.lineno, f"{name} by a name that is computed: import it by its name"
    if "shell" in options and not _is_constant(options["shell"], value=False):
        yield call.lineno, f"{name or 'a call'} with shell=: pass a list of arguments"
    if "allow_pickle" in options and name not in NUMPY_FILES and not _is_constant(options["allow_pickle"], value=False):
        yield call.lineno, f"{name or 'a call'} with allow_pickle"
    for option in CELERY_FORMATS & options.keys():
        if not _is_json(options[option]):
            yield options[option].lineno, _FORMAT


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full name of what is called, such as ``numpy.load``; empty where it has none."""
    match node:
        case ast.Name(id=name):
            return names.get(name, name)
        case ast.Attribute(value=value, attr=attribute):
            owner = _dotted(value, names)
            return f"{owner}.{attribute}" if owner else ""
        case _:
            return ""


def _is_forbidden(module: str) -> bool:
    return module.partition(".")[0] in MODULES


def _is_constant(node: ast.expr | None, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_json(node: ast.expr) -> bool:
    """``"json"``, or a list of nothing else."""
    if isinstance(node, ast.List | ast.Tuple):
        return all(_is_json(item) for item in node.elts)
    return isinstance(node, ast.Constant) and node.value == "json"


def main() -> int:
    """Prints what is found; the exit status says whether that is nothing."""
    found = findings_in(ROOT)
    for finding in found:
        sys.stdout.write(f"{finding}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
