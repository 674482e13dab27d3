"""Print to a terminal, which shows tables and wraps lines, or to a pipe, which receives plain text."""

import shutil
import sys
import textwrap

NARROWEST = 30  # columns of wrapped text, also in a terminal that is too narrow


def print_markdown(text: str) -> None:
    """Print Markdown; a terminal shows it formatted, and breaks long cells."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown, TableElement

    class WholeTable(TableElement):
        """rich's table, which would shorten long words."""

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for table in super().__rich_console__(console, options):
                for column in table.columns:
                    column.overflow = "fold"
                yield table

    document = Markdown(text)
    document.elements = Markdown.elements | {"table_open": WholeTable}
    Console().print(document)


def print_columns(rows: list[tuple[str, str, str]]) -> None:
    """Print aligned columns; a terminal wraps the last one."""
    names, values, _ = zip(*rows)
    first, second = (max(map(len, column)) + 2 for column in (names, values))
    for name, value, text in rows:
        print(wrapped(f"{name:<{first}}{value:<{second}}{text}".rstrip(), first + second))


def wrapped(text: str, indent: int = 0) -> str:
    """Wrap a line at the width of the terminal, indented from the second line on.

    Other outputs keep it whole, so that a search finds it.
    """
    if not sys.stdout.isatty():
        return text
    width = max(shutil.get_terminal_size().columns, indent + NARROWEST)
    return textwrap.fill(text, width, subsequent_indent=" " * indent)
