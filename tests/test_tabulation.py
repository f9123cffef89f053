"""Tables as values, and what each rendering does to the signs that it reads otherwise."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from astdistill.runtime.tables import Column, Tabulation, escaped, latex, markdown, spread, terminal, together

TABLE = Tabulation(
    (Column("run", left_aligned=True), Column("final", bold=True), Column("published")),
    (("my_run|50%", "43.0 ± 3.6", "26.1 [1]"), ("[bold]b\\c & d", "–", "–")),
    "Protocol MTT: 1000 epochs.",
    "Hard labels",
    ("MTT (arXiv 2203.11932) & others",),
)


def test_markdown_has_as_many_cells_in_every_line_whatever_stands_in_them() -> None:
    shown = markdown(TABLE)
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert [line.replace(r"\|", "").count("|") for line in lines] == [4, 4, 4, 4]
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[2] == r"| my_run\|50% | 43.0 ± 3.6 | 26.1 [1] |"
    assert shown.startswith("**Hard labels**\n\n| run |")
    assert shown.endswith("Protocol MTT: 1000 epochs.\n\n[1] MTT (arXiv 2203.11932) & others\n")


def test_a_row_of_another_length_than_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="A row has 1 cells"):
        Tabulation((Column("run"), Column("final")), (("a", "1"), ("b",)), "")


def test_latex_escapes_every_sign_once() -> None:
    assert escaped(r"a_b & 5% #1 {x} $y^~\ ±") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\textasciicircum{}\textasciitilde{}\textbackslash{} $\pm$"
    )
    shown = latex(TABLE)
    assert r"my\_run\textbar{}50\% & 43.0 $\pm$ 3.6 & 26.1 {[}1{]} \\" in shown
    assert r"\begin{tabular}{lrr}" in shown
    assert r"\caption{Hard labels. Protocol MTT: 1000 epochs.}" in shown
    assert r"run & \textbf{final} & published \\" in shown
    assert [shown.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"{[}1{]} MTT (arXiv 2203.11932) \& others" in shown
    assert shown.isascii()


def test_a_row_that_begins_with_a_bracket_is_no_argument_of_the_line_break_before_it() -> None:
    """`\\\\` followed by `[` takes an optional length."""
    table = Tabulation((Column("a"),), (("x",), ("[1]",)), "")
    assert "\n[1]" not in latex(table)


def test_brackets_are_no_markup_on_a_terminal() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(together([TABLE, TABLE]))
    shown = console.export_text()
    assert shown.count("[bold]b\\c & d") == 2
    assert shown.count("[1] MTT (arXiv 2203.11932) & others") == 2


@pytest.mark.parametrize("render", [markdown, latex])
def test_no_rows_are_a_table_too(render: object) -> None:
    assert "Protocol" in render(Tabulation((Column("run"),), (), "Protocol MTT."))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_figures_keep_their_columns_at_every_width(width: int) -> None:
    """Words are folded; no figure and no unit is cut or divided."""
    words = tuple(Column(name, left_aligned=True) for name in ("run", "network"))
    heads = ("final", "n", "published", "random real", "K-means real")
    row = ("cifar100-ten-ipc10-seeds", "convnet-d3-w128-instancenorm", "43.2 ± 0.4", "3 runs", "46.2 [1]")
    table = Tabulation((*words, *map(Column, heads)), ((*row, "15.9 ± 1.1", "25.0 ± 0.3"),), "Caption.")
    console = Console(width=width)
    with console.capture() as shown:
        console.print(terminal(table))
    lines = shown.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    (line,) = [line for line in lines if "43.2" in line]
    for figure in ("43.2 ± 0.4", "3 runs", "46.2 [1]", "15.9 ± 1.1", "25.0 ± 0.3"):
        assert figure in line
    assert "…" not in shown.get()


def test_columns_without_room_follow_below_beside_the_first_ones() -> None:
    heads = [Column("method", left_aligned=True), *(Column(f"figure {number}") for number in range(9))]
    rows = tuple((name, *(f"{number}.{at} ± 0.1" for number in range(9))) for at, name in enumerate(("ast", "mtt")))
    console = Console(width=50)
    with console.capture() as shown:
        console.print(terminal(Tabulation(tuple(heads), rows, "The one caption.", "The title")))
    lines = shown.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 50
    assert shown.get().count("The title") == shown.get().count("The one caption.") == 1
    for row in rows:
        of_it = " ".join(line for line in lines if row[0] in line)
        assert all(figure in of_it for figure in row)


@pytest.mark.parametrize("width", [50, 80, 100, 120])
def test_figures_are_whole_where_the_words_alone_are_wider_than_the_terminal(width: int) -> None:
    """Columns of words follow below, too, beside the first ones that tell the rows apart."""
    words = ("run", "data", "labels", "protocol", "method", "network")
    heads = (
        *(Column(name, left_aligned=True) for name in words),
        Column("stored", left_aligned=True, no_wrap=True),
        Column("final"),
    )
    shared = ("digits, standard", "hard labels", "MTT", "ast-as-released", "convnet-d2-w32", "2.6 kB")
    table = Tabulation(heads, (("tiny", *shared, "90.1 ± 0.2"), ("tiny-2", *shared, "98.0 ± 12.8")), "Caption.")
    console = Console(width=width)
    with console.capture() as shown:
        console.print(terminal(table))
    lines = shown.get().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for row in table.rows:
        of_it = " ".join(line for line in lines if line.strip("│ ").split(" ")[0] == row[0])
        assert row[-1] in of_it
        assert "2.6 kB" in of_it
    if width == 50:
        assert "convnet-d2-w32" in shown.get()


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert (spread([-0.01]), spread([-0.04, 0.01])) == ("0.0", "0.0 ± 0.0")
