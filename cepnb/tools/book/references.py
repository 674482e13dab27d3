"""Read a BibTeX file, format its entries as notebooks quote them, and write the page of all entries."""

import re
from collections.abc import Iterable
from pathlib import Path

from cepnb.errors import CepnbError
from cepnb.storage.files import unreadable

Entry = dict[str, str]  # field → value, without braces
START = re.compile(r"^\s*@\w+\s*\{\s*([^,\s]*)", re.MULTILINE)
ENTRY = re.compile(r"^@\w+\{(\S+),\n((?:  \w+ = \{.+\},\n)+)\}$", re.MULTILINE)
FIELD = re.compile(r"^  (\w+) = \{(.+)\},$", re.MULTILINE)
MOST_NAMES = 6  # with more authors, only the first is named


def read_references(path: Path) -> dict[str, Entry]:
    """Return the entries of a BibTeX file by key; each field is on a line of its own.

    Raises `CepnbError` on a key that occurs twice and on an entry that is written in another way or
    has no author, title, year or link.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise unreadable(path, "UTF-8", error) from error
    entries = {key: dict(FIELD.findall(fields)) for key, fields in ENTRY.findall(text)}
    keys = START.findall(text)
    for key in keys:
        if key not in entries:
            fix = "write each field as '  title = {…},' on a line of its own"
            raise CepnbError(f"{path}: entry '{key}' cannot be read; {fix}")
        if keys.count(key) > 1:
            raise CepnbError(f"{path}: '{key}' occurs twice; use another key")
        needed = [field for field in ("author", "title", "year") if field not in entries[key]]
        if missing := needed or (link_of(entries[key]) is None and ["eprint, doi or url"]):
            raise CepnbError(f"{path}: entry '{key}' has no {missing[0]}; add it")
    return entries


def link_of(entry: Entry) -> tuple[str, str] | None:
    """Return the text and the address of an entry's link, or None without one."""
    if "eprint" in entry:
        return f"arXiv:{entry['eprint']}", f"https://arxiv.org/abs/{entry['eprint']}"
    if "doi" in entry:
        return f"doi:{entry['doi']}", f"https://doi.org/{entry['doi']}"
    return (entry["url"].partition("://")[2], entry["url"]) if "url" in entry else None


def formatted(entry: Entry) -> str:
    """Return an entry as a line of Markdown: authors, title, place, year and link."""
    names = [name.partition(",")[0].strip() for name in entry["author"].split(" and ")]
    authors = ", ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} et al."
    place = entry.get("booktitle") or entry.get("journal")
    when = f"{place} {entry['year']}" if place else entry["year"]
    text, address = link_of(entry)
    return f"{authors}: *{entry['title']}*, {when}, [{text}]({address})."


def reference_page(entries: Iterable[Entry], notebooks: dict[str, str]) -> str:
    """Return a page of all entries; each names the notebooks, text by link, that have its address."""
    lines = [
        "# References\n",
        "The works that the notebooks cite, also as [BibTeX](references.bib).\n",
    ]
    for entry in entries:
        address = link_of(entry)[1]
        citing = [link for link, text in notebooks.items() if f"]({address})" in text]
        lines.append(
            f"- {formatted(entry)}" + (f" Cited in {', '.join(citing)}." if citing else "")
        )
    return "\n".join(lines) + "\n"
