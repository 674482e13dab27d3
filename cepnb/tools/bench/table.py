"""Measure the rows: speed, share of the machine's limit, and ratio to the paper's public code."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tqdm.auto import tqdm

from cepnb.experiments.report import markdown_table
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.rows import ROWS, Inputs
from cepnb.tools.bench.timing import (
    Call,
    conditions,
    conditions_text,
    copy,
    in_turns,
    matrix_product,
    median_ratio,
    operations,
    selected,
)


def measured(
    names: Sequence[str] = (), repeats: int = 7, peer: Path | None = None, progress: bool = True
) -> dict:
    """Measure the named rows (default: all of `ROWS`) in `repeats` turns and return a record.

    A turn calls our code, the machine's limit, and the paper's code if `peer` is a checkout of it.
    Raises `CepnbError` on an unknown row, on fewer than one repeat, and if `peer` is not such a
    checkout.
    """
    names = selected("row", names, ROWS, repeats)
    with tempfile.TemporaryDirectory() as folder, quiet():
        inputs = Inputs(Path(folder))
        peer_rows = Peer(peer, inputs).rows() if peer else {}
        rows = []
        with tqdm(total=len(names) * (repeats + 1), disable=not progress, leave=False) as bar:
            for name in names:
                bar.set_description(name)
                rows.append(_measured_row(name, inputs, peer_rows.get(name), repeats, bar.update))
    return conditions(turns=repeats) | {"rows": rows}


def _measured_row(
    name: str,
    inputs: Inputs,
    peer_row: Callable[[], Call] | None,
    repeats: int,
    watch: Call,
) -> dict:
    row = ROWS[name](inputs)
    work = row.bytes or operations(row.call)
    limit, limit_work = copy() if row.bytes else matrix_product()
    calls = {"ours": row.call, "limit": limit}
    if peer_row is not None:
        calls["peer"] = peer_row()
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
        "ratio": median_ratio(seconds["peer"], seconds["ours"]) if "peer" in seconds else None,
    }


def rows_markdown(record: dict) -> str:
    """Format a record of `measured` as a table with the machine below it."""
    last = ("share of the machine's limit", "times the paper's code")
    head = ("row", "size", "a call", "speed", *last)
    lines = []
    for row in record["rows"]:
        milliseconds = f"{1e3 * row['seconds']:.3g} ms"
        speed = f"{row['per_second']:.3g} {row['unit']}/s"
        limit = "copying" if row["limit"] == "bytes" else "matrix products"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
        share = f"{row['share']:.1%} of {limit}"
        lines.append((row["row"], row["size"], milliseconds, speed, share, ratio))
    return f"{markdown_table(head, lines)}\n\n{conditions_text(record)}"
