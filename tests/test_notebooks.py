"""Every notebook: clean source, required parts, valid links and equations, right solutions."""

import re
from pathlib import Path

import nbformat
import pytest
import torch

from cepnb.notebook import exercises

FOLDER = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


def cells(path: Path, kind: str) -> list[str]:
    return [
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind
    ]


def test_numbers_are_unique_and_start_at_00() -> None:
    numbers = [path.name[:2] for path in PATHS]
    assert numbers[0] == "00" and len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name) for path in PATHS)


@each_notebook
def test_source_is_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (
        set(notebook.metadata) == {"kernelspec"} and notebook.metadata.kernelspec.name == "python3"
    )
    assert path.stat().st_size < 100_000
    for cell in notebook.cells:
        assert not cell.metadata, "run `make strip`"
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, "run `make strip`"
            assert all(len(line) <= 100 for line in cell.source.splitlines()), (
                "a line exceeds 100 columns"
            )


@each_notebook
def test_goal_parts_and_size(path: Path) -> None:
    texts = cells(path, "markdown")
    number, first = path.name[:2], texts[0]
    assert re.match(rf"# {number} · .+", first)
    assert all(f"**{part}" in first for part in ("Goal.**", "Time.**", "You need**"))
    assert any("**Predict first.**" in text for text in texts) and any(
        "## Notation" in text for text in texts
    )
    assert sum(len(text.split()) for text in texts) <= 2_000
    if number != "00":
        assert any(text.startswith("## Recap") for text in texts)
        assert 25 <= len(nbformat.read(path, as_version=4).cells) <= 45
        assert any("Explorer(" in code for code in cells(path, "code"))


@each_notebook
def test_links_point_to_files(path: Path) -> None:
    links = [
        link for text in cells(path, "markdown") for link in re.findall(r"\]\(([^)\s]+)\)", text)
    ]
    assert links
    for link in links:
        if not link.startswith("https://"):
            assert (FOLDER / link.split("#")[0]).is_file(), link


def cited(path: Path) -> set[int]:
    """Equation numbers in a notebook: "Eq. 12", "Eqs. 12, 13 and 20", "Eqs. 12–13" and tags."""
    text = "\n".join(cells(path, "markdown") + cells(path, "code"))
    lists = re.findall(r"Eqs?\. ?(\d+(?:(?:, | and |–)\d+)*)", text)
    return {
        int(number)
        for numbers in lists + re.findall(r"\\tag\{(\d+)\}", text)
        for number in re.findall(r"\d+", numbers)
    }


def test_the_table_lists_every_equation_and_a_notebook_that_cites_it() -> None:
    table = next(
        text for text in cells(PATHS[0], "markdown") if text.startswith("## The paper's equations")
    )
    listed = {
        int(number): FOLDER / link
        for number, link in re.findall(r"^\| (\d+) \|.*\]\((\S+)\) \|$", table, re.MULTILINE)
    }
    found = {
        number: [path for path in PATHS if number in cited(path)]
        for number in set().union(*map(cited, PATHS))
    }
    assert found.keys() == listed.keys()
    assert all(listed[number] in found[number] for number in listed)


EXERCISES = [
    (path, code) for path in PATHS for code in cells(path, "code") if "exercises.check_" in code
]


def test_every_notebook_but_the_first_has_exercises() -> None:
    assert {path.name[:2] for path, _ in EXERCISES} == {path.name[:2] for path in PATHS} - {"00"}


@pytest.mark.parametrize(
    "path, code", EXERCISES, ids=[re.search(r"check_\w+", code)[0] for _, code in EXERCISES]
)
def test_the_solution_is_right_and_the_unfinished_cell_runs(path: Path, code: str) -> None:
    check, name = re.search(r"exercises\.(check_\w+)\((\w+)\)", code).groups()
    space = {"torch": torch, "exercises": exercises}
    exec(code, space)
    assert getattr(exercises, check)(space[name]).startswith("Not written yet")
    solutions = [
        text
        for text in cells(path, "markdown")
        if "<summary>Solution</summary>" in text and f"def {name}(" in text
    ]
    assert len(solutions) == 1
    exec(re.search(r"```python\n(.*?)```", solutions[0], re.DOTALL)[1], space)
    assert getattr(exercises, check)(space[name]) == "Right."


@pytest.mark.parametrize(
    "answer, hint",
    [
        (
            lambda f, e: (torch.softmax(-e, 1) * torch.log_softmax(-f, 1)).sum(1),
            "The sign is the other way round",
        ),
        (lambda f, e: -(torch.softmax(-e, 1) * torch.log_softmax(f, 1)).sum(1), "The sign of f"),
        (
            lambda f, e: -(torch.softmax(e, 1) * torch.log_softmax(-f, 1)).sum(1),
            "The sign of the labels",
        ),
        (lambda f, e: -(torch.softmax(-e, 1) * torch.log_softmax(-f, 1)), "The shape is"),
        (lambda f, e: -(torch.softmax(-e, 0) * torch.log_softmax(-f, 1)).sum(1), "Not yet"),
        (
            lambda f, e: (
                -((-e).exp() / (-e).exp().sum(1, keepdim=True) * torch.log_softmax(-f, 1)).sum(1)
            ),
            "Right for small",
        ),
    ],
)
def test_hints_of_the_contrastive_loss(answer, hint: str) -> None:
    assert exercises.check_contrastive_loss(answer).startswith(hint)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda r, q, b, g: r + g * q.mean(1), "This is the value of the behaviour policy"),
        (lambda r, q, b, g: r + g * q.max(1).values, "This is the maximum over the support"),
        (lambda r, q, b, g: r[:, None] + g * torch.softmax(b * q, 1) * q, "The shape is"),
        (lambda r, q, b, g: r + g * torch.logsumexp(b * q, 1) / b, "Not yet"),
        (
            lambda r, q, b, g: (
                r + g * ((b * q).exp() / (b * q).exp().sum(1, keepdim=True) * q).sum(1)
            ),
            "Right for small",
        ),
    ],
)
def test_hints_of_the_softmax_target(answer, hint: str) -> None:
    assert exercises.check_softmax_target(answer).startswith(hint)
