"""Reproducing the CollabEdit paper (arXiv 2410.09508): what its Table 1 and Figures 1 and 3 show, as types and files.

methods      every method of Table 1, from what clients have to the update
experiments  the methods measured: rows, and the lines of the figures
results      rows, tables, lines and plots, and their JSON
tables       Table 1 for terminals, Markdown and LaTeX
plots        Figures 1 and 3 as SVG and PNG
manifest     versions, seeds and digests
"""
