"""What the code may not do, read off its syntax: unpickle, run text, write files half.

Each rule is shown to find what it forbids, so that a rule that finds nothing says something.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [ROOT / "launch.py", *(ROOT / "mmrec_jax").rglob("*.py"), *(ROOT / "configs").rglob("*.py")]
)

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
UNSAFE_MODULES |= {"joblib", "jsonpickle", "pickletools"}
# Calls by the last parts of their names; of a name alone, only without anything before it.
UNSAFE_BARE = {"eval", "exec", "compile", "__import__", "execfile"}
UNSAFE_DOTTED = {"builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"}
UNSAFE_DOTTED |= {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
UNSAFE_DOTTED |= {"pd.read_pickle", "pandas.read_pickle", "torch.load", "os.system", "os.popen"}
LOADERS = {"np.load", "numpy.load", "jnp.load"}
RUNS_FILES = {"runpy.run_path", "runpy.run_module"}

WRITERS = {"write_text", "write_bytes", "tofile", "savefig", "write_table", "write_feather"}
WRITERS |= {"to_parquet", "to_csv", "to_json", "to_excel", "to_feather", "to_pickle", "to_hdf"}
WRITER_NAMES = {f"{n}.{f}" for n in ("np", "numpy", "jnp") for f in ("save", "savez", "savetxt")}
WRITER_NAMES |= {f"{n}.savez_compressed" for n in ("np", "numpy", "jnp")}
WRITER_NAMES |= {"json.dump", "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree"}
WRITER_NAMES |= {"shutil.move", "os.rename", "os.replace", "os.open", "os.fdopen"}

# (file, code of the call): why it may.
ALLOWED_TO_RUN = {
    ("launch.py", "runpy.run_path"): "the sweep() of the configuration file that the user runs",
    ("mmrec_jax/page.py", "runpy.run_path"): "configs/base.py of the checkout, for its defaults",
}
ALLOWED_TO_WRITE = {
    ("mmrec_jax/store.py", "os.replace"): "this is the helper",
    ("mmrec_jax/logs.py", "open"): "the log gains whole lines; a torn last one is not read",
    ("mmrec_jax/data/prepared.py", "write_text"): "in a folder that is renamed when complete",
}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of a name with attributes; what is no name before them is left out."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of whatever may run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None) or ""
            full = [f"{module}.{name}".lstrip(".") for name in names]
            for name in full:
                if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_DOTTED | LOADERS:
                    yield node.lineno, name
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            if name in UNSAFE_DOTTED or name in RUNS_FILES:
                yield node.lineno, name
            elif isinstance(node.func, ast.Name) and name in UNSAFE_BARE:
                yield node.lineno, name
            elif name in LOADERS and not is_false(keyword(node, "allow_pickle")):
                yield node.lineno, f"{name} without allow_pickle=False"
            elif (wide := keyword(node, "allow_pickle")) and not is_false(wide):
                yield node.lineno, f"{name} with allow_pickle"
            elif (shell := keyword(node, "shell")) and not is_false(shell):
                yield node.lineno, f"{name} with a shell"
        elif isinstance(node, ast.Name) and node.id in UNSAFE_BARE - {"compile"}:
            yield node.lineno, node.id  # also where it gets another name first


def mode_of(call: ast.Call) -> str:
    """The mode of a call of ``open``, "?" where it is computed."""
    place = 0 if isinstance(call.func, ast.Attribute) else 1
    given = keyword(call, "mode") or (call.args[place] if len(call.args) > place else None)
    if given is None:
        return "r"
    known = isinstance(given, ast.Constant) and isinstance(given.value, str)
    # What is no mode: the member of an archive, which is only read.
    return given.value if known else "?" if isinstance(call.func, ast.Name) else "r"


def writes(call: ast.Call) -> str:
    """What a call writes a file with, "" if it does not."""
    name = name_of(call.func)
    last = call.func.attr if isinstance(call.func, ast.Attribute) else name
    if last == "open" and name != "os.open":
        return "open" if set(mode_of(call)) & set("wax+?") else ""
    if name in WRITER_NAMES:
        return name
    if last == "to_json" and not call.args:
        return ""  # returns the text
    return last if last in WRITERS and isinstance(call.func, ast.Attribute) else ""


class Writes(ast.NodeVisitor):
    """Collects the calls that write to anything but the file that ``replacing`` has given."""

    def __init__(self):
        self.found: list[tuple[int, str]] = []
        self._parts: list[str] = []

    def visit_With(self, node: ast.With) -> None:
        before = len(self._parts)
        for item in node.items:
            self.visit(item.context_expr)
            call = item.context_expr
            if isinstance(call, ast.Call) and isinstance(item.optional_vars, ast.Name):
                from_part = any(isinstance(a, ast.Name) and a.id in self._parts for a in call.args)
                if name_of(call.func).endswith("replacing") or (writes(call) and from_part):
                    self._parts.append(item.optional_vars.id)
        for statement in node.body:
            self.visit(statement)
        del self._parts[before:]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        self.found += [(node.lineno, name) for name in names if name in WRITER_NAMES]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scoped(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._scoped(node)

    def _scoped(self, node: ast.FunctionDef | ast.Lambda) -> None:
        """A function that is handed ``part``, by that name, writes to it."""
        before = len(self._parts)
        self._parts += [arg.arg for arg in node.args.args if arg.arg == "part"]
        self.generic_visit(node)
        del self._parts[before:]

    def visit_Call(self, node: ast.Call) -> None:
        used = [*node.args, *(k.value for k in node.keywords)]
        if isinstance(node.func, ast.Attribute):
            used.append(node.func.value)
        to_part = any(isinstance(a, ast.Name) and a.id in self._parts for a in used)
        if (name := writes(node)) and not to_part:
            self.found.append((node.lineno, name))
        self.generic_visit(node)


def careless(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of the calls that write a file in place."""
    visitor = Writes()
    visitor.visit(tree)
    return visitor.found


def left(found, path: Path, allowed: dict) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    lines = [(line, name) for line, name in found if (relative, name) not in allowed]
    return [f"{relative}:{line}: {name}" for line, name in lines]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from shelve import open",
        "import marshal",
        "import cloudpickle",
        "from os import system",
        "eval(text)",
        "run = eval",
        "exec(text)",
        "import builtins; builtins.eval(text)",
        "compile(text, 'x', 'exec')",
        "__import__(text)",
        "yaml.load(file)",
        "yaml.unsafe_load(file)",
        "np.load(path)",
        "from numpy import load",
        "np.load(path, allow_pickle=True)",
        "np.load(path, None, allow_pickle=wanted)",
        "np.save(path, x, allow_pickle=True)",
        "torch.load(path)",
        "pd.read_pickle(path)",
        "runpy.run_path(path)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_what_runs_its_input_is_found(code):
    assert list(unsafe(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "re.compile(pattern)",
        "lowered.compile()",
        "yaml.safe_load(file)",
        "ast.literal_eval(text)",
        "# pickle and eval(text) are bad\ntext = 'eval(x)'",
        "subprocess.run(parts, shell=False)",
    ],
)
def test_what_is_harmless_is_not(code):
    assert not list(unsafe(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, mode)",
        "path.open('w')",
        "path.write_text(text)",
        "np.save(path, x)",
        "np.savez(path, x=x)",
        "frame.to_parquet(path)",
        "frame.to_json(path)",
        "figure.savefig(path)",
        "json.dump(value, file)",
        "from numpy import save",
        "shutil.copyfile(a, b)",
        "with replacing(path) as part:\n  path.write_text(text)",
        "with replacing(path) as part:\n  pass\npart.write_text(text)",
        "with open(path, 'w') as file:\n  json.dump(value, file)",
        "def write(path):\n  path.write_text(text)",
    ],
)
def test_a_file_written_in_place_is_found(code):
    assert careless(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "open(path, 'rb')",
        "path.open('rb')",
        "archive.open(member)",
        "config.to_json()",
        "with replacing(path) as part:\n  part.write_text(text)",
        "with store.replacing(path) as part, open(part, 'w') as file:\n  json.dump(x, file)",
        "with replacing(path) as part:\n  with open(part, 'wb') as file:\n    np.save(file, x)",
        "with replacing(path) as part:\n  figure.savefig(part, dpi=120)",
        "write = lambda part: frame.to_csv(part)",
    ],
)
def test_a_file_replaced_or_read_is_not(code):
    assert not careless(ast.parse(code))


def test_nothing_runs_what_it_reads():
    assert len(SOURCES) > 100
    parsed = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]
    assert sum((left(unsafe(tree), path, ALLOWED_TO_RUN) for path, tree in parsed), []) == []


def test_files_are_replaced_in_one_step():
    parsed = [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]
    assert sum((left(careless(tree), path, ALLOWED_TO_WRITE) for path, tree in parsed), []) == []


def test_every_exception_is_needed():
    for allowed, rule in ((ALLOWED_TO_RUN, unsafe), (ALLOWED_TO_WRITE, careless)):
        for file, name in allowed:
            found = rule(ast.parse((ROOT / file).read_text(encoding="utf-8")))
            assert name in {n for _, n in found}, f"{file} has no {name} any more"


# Dependencies.


def bounds(text: str) -> list[str]:
    """Requirements in a pyproject.toml that exclude newer versions without saying why."""
    project = tomllib.loads(text)["project"]
    extras = project.get("optional-dependencies", {}).values()
    bad = []
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        lines = [line for line in text.splitlines() if f'"{requirement}"' in line]
        said = all(line.partition("#")[2].strip() for line in lines)
        if re.search(r"[<~]|==|!=", requirement.partition(";")[0]) and not said:
            bad.append(requirement)
    return bad


def test_an_upper_bound_names_what_breaks():
    head = '[project]\nname = "x"\n'
    assert bounds(head + 'dependencies = [\n  "a>=1",\n]\n') == []
    for bound in ("a<2", "a>=1,<2", "a==1.0", "a~=1.2", "a!=1.3"):
        assert bounds(head + f'dependencies = [\n  "{bound}",\n]\n') == [bound]
        assert bounds(head + f'dependencies = [\n  "{bound}",  # 2.0 drops b\n]\n') == []
    assert bounds((ROOT / "pyproject.toml").read_text()) == []


def test_every_dependency_has_a_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [r for r in project["dependencies"] if ">=" not in r] == []
