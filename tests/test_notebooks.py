"""Every notebook: clean source, required parts, valid links and equations, right solutions."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from cepnb import notebook as notebook_names
from cepnb.errors import CepnbError
from cepnb.notebook import exercises, own_code, score_plots
from cepnb.tools import outputs

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
    assert set(notebook.metadata) <= {"kernelspec", "cepnb"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < (outputs.LARGEST if "cepnb" in notebook.metadata else 100_000)
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, "run `make strip`"
        assert set(cell.metadata.get("tags", ())) <= {"show-input", "front-page"}
        if cell.cell_type == "code":
            assert "cepnb" in notebook.metadata or not cell.outputs, "run `make strip`"
            assert all(len(line) <= 100 for line in cell.source.splitlines()), (
                "a line exceeds 100 columns"
            )


@each_notebook
def test_stored_outputs_belong_to_the_code(path: Path) -> None:
    """Run `make outputs` after a change of code, or `make strip`; text may change freely."""
    notebook = nbformat.read(path, as_version=4)
    if "cepnb" in notebook.metadata:
        assert outputs.up_to_date(notebook) and notebook.metadata.cepnb.profile == "laptop"
        stored = [output for cell in outputs.code_cells(notebook) for output in cell.outputs]
        assert stored and not any(output.output_type == "error" for output in stored)
        kinds = {kind for output in stored for kind in output.get("data", {})}
        assert "image/png" in kinds and not any("widget" in kind for kind in kinds)


def test_notebooks_import_the_package_from_one_place() -> None:
    imported: set[str] = set()
    for code in (code for path in PATHS for code in cells(path, "code")):
        for node in ast.walk(ast.parse(code)):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "asname")]
            if isinstance(node, ast.ImportFrom) and node.module.startswith("cepnb"):
                assert node.module == "cepnb.notebook"
                imported |= set(names)
            elif isinstance(node, ast.Import):
                assert not any(name.startswith("cepnb") for name in names)
    own = {"exercises", "own_code", "plots", "score_plots"}  # modules of cepnb.notebook itself
    assert imported == set(notebook_names.__all__) | own
    for name in notebook_names.__all__:
        value = getattr(notebook_names, name)
        assert getattr(value, "__name__", name).rpartition(".")[2] == name
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        notebook_names.__getattr__("other")


def test_one_cell_is_on_the_front_page_of_the_book_and_makes_an_explorer() -> None:
    everything = [cell for path in PATHS for cell in nbformat.read(path, as_version=4).cells]
    (front,) = [cell for cell in everything if "front-page" in cell.metadata.get("tags", ())]
    assert "BetaExplorer(" in front.source


@each_notebook
def test_goal_parts_and_size(path: Path) -> None:
    texts = cells(path, "markdown")
    number, first = path.name[:2], texts[0]
    assert re.match(rf"# {number} · .+", first)
    assert all(f"**{part}" in first for part in ("Goal.**", "Time.**", "You need**"))
    assert any("**Predict first.**" in text for text in texts) and any(
        "## Notation" in text for text in texts
    )
    counted = [text for text in texts if not text.startswith("## References")]
    assert sum(len(text.split()) for text in counted) <= 3_500
    if number != "00":
        assert any(text.startswith("## Recap") for text in texts)
        assert len(nbformat.read(path, as_version=4).cells) <= 55
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


@each_notebook
def test_code_names_no_relative_path(path: Path) -> None:
    """A notebook runs in any folder: it finds files by the package and by `results_folder`."""
    names = r"(Path|open|read_json|load_scores)\(\[?[\"'](?!/)|chdir|getcwd|Path\.cwd|[\"']\.\.?/"
    assert not [code for code in cells(path, "code") if re.search(names, code)]


@pytest.mark.parametrize("stem", ["06_guided_sampling", "15_what_was_reproduced"])
def test_stored_results_are_found_from_another_folder(
    stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    imports, *codes = cells(FOLDER / f"{stem}.ipynb", "code")
    (code,) = [code for code in codes if "results_folder()" in code]
    exec(f"{imports}\n{code}", {})
    monkeypatch.setattr(score_plots, "__file__", str(tmp_path / "cepnb/notebook/score_plots.py"))
    with pytest.raises(CepnbError, match="results: not found; run the notebook in a checkout"):
        score_plots.results_folder()
    monkeypatch.chdir(FOLDER)
    assert score_plots.results_folder() == FOLDER.parent / "results"


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


@pytest.mark.parametrize("path", PATHS[1:], ids=[path.stem for path in PATHS[1:]])
def test_three_kinds_of_exercises_have_folded_answers(path: Path) -> None:
    """Derive, implement and experiment, in this order, at the end of the notebook."""
    texts = cells(path, "markdown")
    headings = re.findall(r"^#{2,3} (.+)$", "\n".join(texts), re.MULTILINE)
    start = headings.index("Exercises")
    assert headings[start + 1 : start + 4] == ["Derive", "Implement", "Experiment"]
    (derive,) = [text for text in texts if "### Derive" in text]
    (outcome,) = [text for text in texts if "<summary>What happens</summary>" in text]
    assert "<summary>Solution</summary>" in derive and len(outcome.split()) > 20


def solutions(path: Path) -> dict:
    """Run all solutions of a notebook and return their functions by name."""
    space = {"torch": torch}
    for text in cells(path, "markdown"):
        for code in re.findall(
            r"<summary>Solution</summary>\n\n```python\n(.*?)```", text, re.DOTALL
        ):
            exec(code, space)
    return space


def test_the_solutions_put_together_are_cep_and_qgpo() -> None:
    mine = solutions(FOLDER / "06_guided_sampling.ipynb")
    parts = [mine[f"my_{name}"] for name in ("noise_loss", "loss", "guided", "step")]
    line = own_code.own_cep(own_code.CepParts(*parts), "ci", progress=False)
    assert line.startswith("Right: W2 over its floor is")
    mine = solutions(FOLDER / "14_qgpo_end_to_end.ipynb")
    parts = [mine[f"my_{name}"] for name in ("target", "loss", "guided", "step")]
    line = own_code.own_qgpo(own_code.QgpoParts(*parts), progress=False)
    assert line.startswith("Right: the mean value is")
    wrong = own_code.QgpoParts(lambda r, q, b, g: r + g * q.mean(1), *parts[1:])
    assert own_code.own_qgpo(wrong).startswith("target: This is the value of the behaviour")


@pytest.mark.parametrize(
    "path, code", EXERCISES, ids=[re.search(r"check_\w+", code)[0] for _, code in EXERCISES]
)
def test_the_solution_is_right_and_the_unfinished_cell_runs(path: Path, code: str) -> None:
    check, name = re.search(r"exercises\.(check_\w+)\((\w+)\)", code).groups()
    space = {"torch": torch, "exercises": exercises}
    exec(code, space)
    assert getattr(exercises, check)(space[name]).startswith("Not written yet")
    assert getattr(exercises, check)(solutions(path)[name]) == "Right."


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


def right_noise(x0, log_alpha, eps):
    variance = -torch.expm1(2 * log_alpha.double())
    return log_alpha.exp()[:, None] * x0 + variance.sqrt()[:, None] * eps


CHECKS = [name for name in vars(exercises) if name.startswith("check_")]
FINITE = "values are not finite"


ODD_ANSWERS = [
    1.0,
    float("nan"),
    [1.0, 2.0],
    [[1.0], [2.0, 3.0]],
    np.ones(3),
    np.ones((5, 3), dtype=int),
    np.array("text"),
    torch.tensor(float("nan")),
    torch.ones(6, dtype=torch.complex64),
    "text",
    {},
    object(),
    (torch.ones(3), torch.ones(2)),
]


@pytest.mark.parametrize("check", CHECKS)
def test_any_answer_gives_one_line_and_none_of_these_is_right(check: str) -> None:
    for answer in ODD_ANSWERS:
        verdict = getattr(exercises, check)(lambda *inputs: answer)
        assert not verdict.startswith("Right") and len(verdict.splitlines()) == 1, answer


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda *inputs: right_noise(*inputs).numpy(), "Right."),
        (lambda *inputs: right_noise(*inputs).tolist(), "Right."),
        (lambda *inputs: right_noise(*inputs).half(), "The dtype is torch.float16, but must be"),
        (lambda *inputs: right_noise(*inputs).round().long(), "The dtype is torch.int64, but must"),
        (lambda *inputs: right_noise(*inputs)[:1], "The shape is (1, 3), but must be (5, 3)."),
        (lambda *inputs: right_noise(*inputs) * float("nan"), f"15 of 15 {FINITE}; compute"),
        (
            lambda x0, a, eps: right_noise(x0, a, eps) + 0 * (1 / x0),
            f"Not yet: {FINITE} at x_0 = 0",
        ),
        (
            lambda x0, a, eps: a.exp() * x0 + (1 - (2 * a).exp()).sqrt() * eps,
            "The function raises RuntimeError: The size of tensor a (5) must match",
        ),
        (lambda x0: x0, "The function raises TypeError: "),
        (lambda x0, a, eps: x0.mul_(a.exp()[:, None]).add_(right_noise(0 * x0, a, eps)), "Right."),
    ],
)
def test_hints_of_the_noise(answer, hint: str) -> None:
    verdict = exercises.check_noise(answer)
    assert verdict.startswith(hint) and len(verdict.splitlines()) == 1


def test_an_answer_may_be_a_float_but_must_not_fail_at_large_values() -> None:
    right = lambda log_w: float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp())
    assert exercises.check_effective_samples(right) == "Right."

    def fails(log_w):
        if log_w.min() < -1000:
            raise OverflowError("too large")
        return right(log_w)

    verdict = "The function raises OverflowError: too large; its arguments have shapes (50,)."
    assert exercises.check_effective_samples(fails) == verdict


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raising(error: BaseException) -> Callable[..., None]:
    def answer(*_: object) -> None:
        raise error

    return answer


@pytest.mark.parametrize(
    "answer, hint",
    [
        (raising(Silent()), "The function raises Silent; its arguments have shapes"),
        (raising(SystemExit(3)), "The function raises SystemExit: 3; its arguments have"),
        (lambda *_: torch.zeros(6).to_sparse(), "The answer is a Tensor; return a dense tensor"),
        (lambda *_: torch.zeros(6, device="meta"), "The answer is a Tensor; return a dense tensor"),
        (
            lambda *_: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            "The answer is a Tensor; return a dense tensor on the CPU.",
        ),
        (lambda *_: "six", "The answer is a str; return a tensor."),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_check_gives_one_line_whatever_a_function_does(answer: Callable, hint: str) -> None:
    line = exercises.check_info_nce(answer)
    assert line.startswith(hint) and "\n" not in line


def test_an_interrupted_answer_stays_interrupted() -> None:
    with pytest.raises(KeyboardInterrupt):
        exercises.check_info_nce(raising(KeyboardInterrupt()))
