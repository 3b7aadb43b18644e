"""What README and CONTRIBUTING say can be done, can be done."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


def blocks(document: str, language: str) -> list[str]:
    """The contents of the fenced blocks in ``language``."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)


def test_contributing_adds_a_method_with_one_file_and_one_config(tmp_path):
    for name in ("mmrec_jax", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "launch.py", tmp_path)
    files = blocks("CONTRIBUTING.md", "python")
    names = [text.splitlines()[0].removeprefix("# ") for text in files]
    assert [name.split("/")[0] for name in names] == ["mmrec_jax", "configs"]
    for name, text in zip(names, files, strict=True):
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    [command] = blocks("CONTRIBUTING.md", "bash")
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/biased_mf/summary.json").read_text())
    assert summary["name"] == "baseline.biased_mf" and 0 < summary["test"]["recall@20"] < 1
    assert re.search(r"^recall +0\.\d", done.stdout, re.M)


def test_contributing_files_pass_the_linter(tmp_path):
    for number, text in enumerate(blocks("CONTRIBUTING.md", "python")):
        path = tmp_path / f"{number}.py"
        path.write_text(text.partition("\n")[2])
        for check in (["check"], ["format", "--check"]):
            command = [sys.executable, "-m", "ruff", *check, "--config", ROOT / "pyproject.toml"]
            done = subprocess.run([*command, path], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist_and_configs_take_their_variants(document):
    text = (ROOT / document).read_text()
    written = {block.splitlines()[0].removeprefix("# ") for block in blocks(document, "python")}
    for name in set(re.findall(r"\b(?:mmrec_jax|tests|colab|configs)/[\w/]+\.\w+", text)) - written:
        assert (ROOT / name).exists(), name
    for name, variant in set(re.findall(r"--config=([\w/]+\.py):?([\w,]*)", text)):
        if name in written:
            continue
        spec = importlib.util.spec_from_file_location("named_config", ROOT / name)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.get_config(variant).model.name


def test_readme_names_every_method():
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        assert path.name == "base.py" or f"({name})" in text, name


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci/run").read_text()
    [extract] = re.findall(r"^tests=\$\((.*)\)$", script, re.M)
    found = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True).stdout
    command = blocks("README.md", "bash")[1]
    assert found == command.replace(".venv", ".venv-ci") and command.endswith("&& pytest\n")
    assert 'eval "$tests"' in script
