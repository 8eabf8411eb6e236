from dataclasses import replace

import pytest

from collabsecure.evaluate import Figure, Interval
from collabsecure.reproduction.results import Row, Setting, Table
from collabsecure.reproduction.tables import to_latex, to_markdown, to_text


def row(method: str, *, is_reference: bool = False, clients: int = 10, edits: int = 500, **values: float | None) -> Row:
    figures = [
        Figure(
            name=name, value=value, interval=None if value is None else Interval(low=value - 0.02, high=value + 0.01)
        )
        for name, value in values.items()
    ]
    return Row(method=method, clients=clients, edits=edits, figures=tuple(figures), is_reference=is_reference)


BEFORE = row("GPT2-XL", is_reference=True, clients=0, edits=0, Score=0.3, NS=0.99)
GLOBAL = row("GLOBAL-EDIT", is_reference=True, Score=0.9, NS=0.8)
OURS = row("CollabEdit", Score=0.9, NS=0.8)
ARITHMETIC = replace(row("TASK-ARITHMETIC", Score=0.41234, NS=0.80004), settings=(Setting(name="λ", value=0.4),))
TABLE = Table(title="GPT2-XL", data="MCF", rows=(BEFORE, GLOBAL, OURS, ARITHMETIC))


def test_the_terminals_table_is_aligned_and_marks_the_best_of_the_methods():
    assert to_text(TABLE).split("\n") == [
        "GPT2-XL, MCF: 10 clients, 500 edits each",
        "-------------------------------------------------",
        "Method                          Score          NS",
        "-------------------------------------------------",
        "GPT2-XL                    30.0  ±2.0  99.0  ±2.0",
        "GLOBAL-EDIT                90.0  ±2.0  80.0  ±2.0",
        "-------------------------------------------------",
        "CollabEdit                 90.0* ±2.0  80.0* ±2.0",
        "TASK-ARITHMETIC (λ = 0.4)  41.2  ±2.0  80.0* ±2.0",  # 80.004 shows as 80.0 too
        "-------------------------------------------------",
        "All × 100; ± to the farther end of the 95% interval over the records; * best",
    ]


def test_markdown_has_the_best_in_bold_and_whole_intervals():
    assert to_markdown(TABLE).split("\n") == [
        "GPT2-XL, MCF: 10 clients, 500 edits each",
        "",
        "| Method | Score | NS |",
        "| --- | ---: | ---: |",
        "| GPT2-XL | 30.0 [28.0, 31.0] | 99.0 [97.0, 100.0] |",
        "| GLOBAL-EDIT | 90.0 [88.0, 91.0] | 80.0 [78.0, 81.0] |",
        "| CollabEdit | **90.0** [88.0, 91.0] | **80.0** [78.0, 81.0] |",
        "| TASK-ARITHMETIC (λ = 0.4) | 41.2 [39.2, 42.2] | **80.0** [78.0, 81.0] |",
        "",
        "All × 100; 95% intervals over the records; best in bold.",
    ]


def test_latex_is_a_booktabs_table():
    assert to_latex(TABLE).split("\n") == [
        r"\begin{table}  % \usepackage{booktabs}",
        r"\centering",
        (
            r"\caption{GPT2-XL, MCF: 10 clients, 500 edits each; "
            r"all $\times$ 100, with 95\% intervals over the records, best in bold.}"
        ),
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Method & Score & NS \\",
        r"\midrule",
        r"GPT2-XL & $30.0^{+1.0}_{-2.0}$ & $99.0^{+1.0}_{-2.0}$ \\",
        r"GLOBAL-EDIT & $90.0^{+1.0}_{-2.0}$ & $80.0^{+1.0}_{-2.0}$ \\",
        r"\midrule",
        r"CollabEdit & $\mathbf{90.0}^{+1.0}_{-2.0}$ & $\mathbf{80.0}^{+1.0}_{-2.0}$ \\",
        r"TASK-ARITHMETIC ($\lambda$ = 0.4) & $41.2^{+1.0}_{-2.0}$ & $\mathbf{80.0}^{+1.0}_{-2.0}$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_no_width_of_an_interval_is_minus_zero():
    for low, high in ((0.7225 + 1e-17, 0.7225 - 1e-17), (0.7225, 0.7225 - 1e-16), (0.7225 + 1e-16, 0.7225)):
        figure = Figure(name="Score", value=0.7225, interval=Interval(low=low, high=high))
        assert "$72.2^{+0.0}_{-0.0}$" in to_latex(replace(TABLE, rows=(replace(TABLE.rows[0], figures=(figure,)),)))


def test_methods_are_compared_at_the_same_clients_and_edits_alone():
    rows = [row(method, edits=edits, Score=score) for method, edits, score in [
        ("A", 100, 0.9), ("B", 100, 0.8), ("A", 500, 0.3), ("B", 500, 0.4), ("A", 900, 0.1)
    ]]  # fmt: skip
    lines = to_text(Table(title="world", data="zsRE", rows=tuple(rows))).split("\n")
    assert lines[0] == "world, zsRE"
    assert lines[2].split() == ["Method", "Clients", "Edits", "Score"]
    assert [line.split() for line in lines[4:9]] == [
        ["A", "10", "100", "90.0*", "±2.0"],
        ["B", "10", "100", "80.0", "±2.0"],
        ["A", "10", "500", "30.0", "±2.0"],
        ["B", "10", "500", "40.0*", "±2.0"],
        ["A", "10", "900", "10.0", "±2.0"],  # with nobody to compare it with
    ]


def test_ne_is_times_100_too_as_published():
    assert "622.2" in to_text(Table(title="GPT2-XL", data="MCF", rows=(row("A", NE=6.2217),)))


def test_what_was_not_measured_is_a_dash():
    rows = row("A", Score=0.5, RS=0.25), row("B", Score=None), row("C", Score=0.6)
    table = Table(title="world", data="MCF", rows=rows)
    assert [line.split() for line in to_text(table).split("\n")[4:7]] == [
        ["A", "50.0", "±2.0", "25.0", "±2.0"],
        ["B", "–", "–"],
        ["C", "60.0*", "±2.0", "–"],
    ]
    assert "| B | – | – |" in to_markdown(table)
    assert r"B & -- & -- \\" in to_latex(table)


def test_figures_without_intervals_are_shown_without():
    bare = Row(method="A", clients=1, edits=1, figures=(Figure(name="EA", value=0.5, interval=None),))
    table = Table(title="paper", data="zsRE", rows=(bare,))
    assert to_text(table).split("\n")[4] == "A       50.0"
    assert to_text(table).endswith("\nAll × 100")
    assert "| A | 50.0 |" in to_markdown(table)
    assert r"A & $50.0$ \\" in to_latex(table)
    assert to_text(table).startswith("paper, zsRE: 1 client, 1 edit each\n")


@pytest.mark.parametrize("render", [to_text, to_markdown, to_latex])
def test_a_table_that_has_no_rows_yet_is_a_heading(render):
    assert "Method" in render(Table(title="world", data="MCF"))


def test_no_name_breaks_out_of_markdown_or_latex():
    table = Table(title="a|b_c*", data="50% & #1", rows=(row(r"x\y {z} ~^ <$1>", Score=0.5),))
    assert r"a\|b\_c\*, 50% & #1" in to_markdown(table)
    assert r"| x\\y {z} ~^ \<$1\> |" in to_markdown(table)
    assert r"a|b\_c*, 50\% \& \#1" in to_latex(table)
    assert r"x\textbackslash{}y \{z\} \textasciitilde{}\textasciicircum{} \textless{}\$1\textgreater{} &" in to_latex(
        table
    )
