"""Numbers to words, figures and one page. Nothing is computed here but summaries of draws.

`comparison` holds the value that `guidebook.compare` returns; the other files only read it:

- `elements/`: how a number is written, the columns of the table, sections and images, the style of
  figures, moments of weighted draws;
- `figures/`: a `matplotlib.figure.Figure` a function;
- `sections/`: functions of the comparison that return a `Section` of the page, or None;
- `page` (one self-contained HTML file: the verdicts, the table, the sections in order), `terminal`
  (plain text), `verdicts` (cards and rows of the table), `provenance` (data, seeds, versions).

`files` reads and writes draws and tables.
"""
