"""The documentation is true: examples run, links resolve, and every equation is where docs/equations.md says."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "results" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def code_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def words(page: Path) -> int:
    """Count the words of a page without its code and tables."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return sum(len(line.split()) for line in text.splitlines() if not line.startswith("|"))


def test_readme_and_results_are_short() -> None:
    assert words(ROOT / "README.md") <= 1_200
    assert words(ROOT / "results" / "README.md") <= 3_000


EXAMPLES = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in (ROOT / "README.md", ROOT / "docs" / "api.md")
    for number, code in enumerate(code_blocks(page), start=1)
]


def test_readme_has_three_examples_of_ten_lines() -> None:
    examples = code_blocks(ROOT / "README.md")
    assert len(examples) == 3
    for code in examples:
        statements = [line for line in code.splitlines() if line and "import" not in line]
        assert len(statements) <= 10


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    """Run the text of the page in a fresh process, in an empty folder."""
    environment = os.environ | {"CEPNB_PROFILE": "ci", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def equation_rows() -> list[tuple[str, ...]]:
    text = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| Eq", "| Theorem", "| Table"))]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]


@pytest.mark.parametrize("row", equation_rows(), ids=lambda row: row[0])
def test_an_equation_is_where_the_table_says(row: tuple[str, ...]) -> None:
    equation, _, function, notebook, test = row
    module, _, path = function.strip("`").partition(":")
    found = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    assert found.__doc__, f"{function} has no docstring"

    link = re.search(r"\((.*)\)", notebook)[1]
    text = (ROOT / "docs" / link).resolve().read_text(encoding="utf-8")
    if number := re.fullmatch(r"Eq\. (\d+)", equation):
        cited = rf"(Eqs?\.[^\"]*?\b|tag\{{){number[1]}\b|–{number[1]}\b"
        assert re.search(cited, text), f"{link} does not cite {equation}"

    file, _, name = test.strip("`").partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_equation_of_the_notebooks_is_in_the_table() -> None:
    listed = {int(n) for row in equation_rows() for n in re.findall(r"^Eq\. (\d+)$", row[0])}
    first = (ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8")
    table = {int(number) for number in re.findall(r"\"\| (\d+) \|", first)}
    assert table and table <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("https://", "#")):
            assert (page.parent / link.split("#")[0]).exists(), link


def test_links_of_the_books_front_page_name_notebooks() -> None:
    text = (ROOT / "cepnb/tools/book/index.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((notebooks/[^)]+)\)", text)
    assert len(links) >= 3 and all((ROOT / link).is_file() for link in links)


def test_the_repository_map_names_every_sub_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path for path in (ROOT / "cepnb").iterdir() if path.is_dir()]
    for folder in folders:
        if not folder.name.startswith("_"):
            assert f"  {folder.name}/" in text, f"{folder.name} is not in the map"
