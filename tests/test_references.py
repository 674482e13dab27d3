"""References: every notebook ends with entries of docs/references.bib, and every entry is cited."""

import re
from pathlib import Path

import nbformat
import pytest

from cepnb.errors import CepnbError
from cepnb.tools.book.references import formatted, link_of, read_references, reference_page

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ENTRIES = read_references(ROOT / "docs/references.bib")
ADDRESSES = {link_of(entry)[1] for entry in ENTRIES.values()}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def texts(path: Path) -> list[str]:
    """Return the text of each cell; code is empty."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source if cell.cell_type == "markdown" else "" for cell in cells]


@each_notebook
def test_a_notebook_ends_with_two_to_six_entries_and_links_to_no_other_work(path: Path) -> None:
    *body, last = texts(path)
    heading, *lines = last.splitlines()
    assert heading == "## References" and not any("## References" in text for text in body)
    entries = [f"- {formatted(entry)} " for entry in ENTRIES.values()]
    listed = [line for line in lines if line]
    assert 2 <= len(listed) <= 6
    for line in listed:
        (entry,) = [entry for entry in entries if line.startswith(entry)]
        assert re.fullmatch(r"\S.*\.", line.removeprefix(entry)), "say what the work is for"
    works = r"\]\((https://(?:arxiv|doi)\.org/[^)\s]+)\)"
    for address in re.findall(works, "\n".join(body)):
        assert address in ADDRESSES and address in last, f"{address} is not among the references"


def test_every_entry_is_cited_and_plausible() -> None:
    cited = "\n".join(texts(path)[-1] for path in NOTEBOOKS)
    for key, entry in ENTRIES.items():
        assert f"- {formatted(entry)}" in cited, f"{key} is in no notebook's references"
        name = re.sub(r"\W", "", entry["author"].partition(",")[0].split()[-1]).lower()
        assert key.startswith(f"{name}{entry['year']}"), key
        if number := re.fullmatch(r"(\d\d)(\d\d)\.\d{5}", entry.get("eprint", "")):
            assert int(number[1]) <= int(entry["year"]) - 2000 and 1 <= int(number[2]) <= 12, key
        else:
            assert "eprint" not in entry, key
    assert len(ADDRESSES) == len(ENTRIES) and list(ENTRIES) == sorted(ENTRIES)


def entry(**fields: str) -> str:
    needed = {
        "author": "Ito, A. and Li, B.",
        "title": "On A",
        "year": "2020",
        "eprint": "2001.00001",
    }
    lines = [f"  {name} = {{{value}}},\n" for name, value in (needed | fields).items() if value]
    return f"@misc{{one,\n{''.join(lines)}}}\n"


@pytest.mark.parametrize(
    "fields, line",
    [
        ({}, "Ito, Li: *On A*, 2020, [arXiv:2001.00001](https://arxiv.org/abs/2001.00001)."),
        (
            {"booktitle": "ICML", "eprint": "", "doi": "10.1/a"},
            "Ito, Li: *On A*, ICML 2020, [doi:10.1/a](https://doi.org/10.1/a).",
        ),
        (
            {
                "author": " and ".join(["van der Berg, C."] * 7),
                "eprint": "",
                "url": "https://a.org/b",
            },
            "van der Berg et al.: *On A*, 2020, [a.org/b](https://a.org/b).",
        ),
    ],
)
def test_an_entry_is_a_line_with_authors_place_year_and_link(
    fields: dict[str, str], line: str, tmp_path: Path
) -> None:
    (tmp_path / "a.bib").write_text(entry(**fields), encoding="utf-8")
    (found,) = read_references(tmp_path / "a.bib").values()
    assert formatted(found) == line
    page = reference_page([found], {"[01](01.ipynb)": f"see {line}", "[02](02.ipynb)": "nothing"})
    assert page.splitlines()[-1] == f"- {line} Cited in [01](01.ipynb)."
    assert reference_page([found], {}).splitlines()[-1] == f"- {line}"


@pytest.mark.parametrize(
    "text, message",
    [
        (entry(title=""), "entry 'one' has no title; add it"),
        (entry(author=""), "entry 'one' has no author; add it"),
        (entry(eprint=""), "entry 'one' has no eprint, doi or url; add it"),
        (entry() + entry(), "'one' occurs twice; use another key"),
        (entry() + "@misc{two, title = {A}}\n", "entry 'two' cannot be read; write each field as"),
        (entry().replace("},\n}", "}\n}"), "entry 'one' cannot be read; write each field as"),
        (entry().replace("  title", "title"), "entry 'one' cannot be read; write each field as"),
        (entry(title="Müller").encode("latin-1"), "not a complete UTF-8 file"),
        (None, "not found; check the path"),
    ],
)
def test_a_damaged_file_gives_one_line(
    text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.bib"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CepnbError, match=re.escape(message)) as raised:
        read_references(path)
    assert "\n" not in str(raised.value)
