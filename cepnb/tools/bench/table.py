"""The rows measured and set out: speeds, shares of the machine's limits, and ratios to the paper's code."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tqdm.auto import tqdm

from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.rows import ROWS, Inputs
from cepnb.tools.bench.turns import (
    asked_for,
    conditions,
    copy,
    in_turns,
    matrix_product,
    median_ratio,
    operations,
    said,
)


def measured(
    names: Sequence[str] = (), repeats: int = 7, peer: Path | None = None, progress: bool = True
) -> dict:
    """A record of the machine and of each of the rows named (all of `ROWS` by default), `repeats` turns each.

    A turn of a row is a call of ours, one of the paper's code where `peer` is a checkout of it, and one of what the
    machine's limit is measured by. Raises `CepnbError` on a row that is not known, and where `peer` is no such checkout.
    """
    names = asked_for("row", names, ROWS, repeats)
    with tempfile.TemporaryDirectory() as folder, quiet():
        inputs = Inputs(Path(folder))
        theirs = Peer(peer, inputs).calls() if peer else {}
        with tqdm(total=len(names) * (repeats + 1), disable=not progress, leave=False) as bar:
            rows = []
            for name in names:
                bar.set_description(name)
                rows.append(_row(name, inputs, theirs.get(name), repeats, bar.update))
    return conditions(turns=repeats) | {"rows": rows}


def _row(
    name: str,
    inputs: Inputs,
    peer: Callable[[], Callable[[], object]] | None,
    repeats: int,
    watch: Callable[[], object],
) -> dict:
    row = ROWS[name](inputs)
    work = row.bytes or operations(row.call)  # which is also the first call, and not timed
    limit, limit_work = copy() if row.bytes else matrix_product()
    calls = {"ours": row.call, "limit": limit}
    if peer is not None:
        calls["peer"] = peer()
    for call in calls.values():
        call()
    watch()
    seconds = in_turns(calls, repeats, watch)
    return {
        "row": name,
        "size": row.size,
        "unit": row.unit,
        "seconds": median(seconds["ours"]),
        "per_second": row.count / median(seconds["ours"]),
        "limit": "bytes" if row.bytes else "operations",
        "work": work,
        "limit_per_second": limit_work / median(seconds["limit"]),
        "share": work / limit_work * median_ratio(seconds["limit"], seconds["ours"]),
        "ratio": None if peer is None else median_ratio(seconds["peer"], seconds["ours"]),
    }


def rows_markdown(record: dict) -> str:
    """A record as a table, with what it was measured on below it."""
    lines = [
        "| row | size | a call | speed | share of the machine's limit | times the paper's code |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        limit = "copying" if row["limit"] == "bytes" else "matrix products"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
        lines.append(
            f"| {row['row']} | {row['size']} | {1e3 * row['seconds']:.3g} ms | {row['per_second']:.3g} {row['unit']}/s "
            f"| {row['share']:.1%} of {limit} | {ratio} |"
        )
    return "\n".join([*lines, "", said(record)])
