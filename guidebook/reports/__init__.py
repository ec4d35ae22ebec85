"""Numbers to words, figures and one page.

`comparison` holds the value that `guidebook.compare` returns; the other files only read it:

- `numbers` (how a number is written), `summaries` (moments of weighted draws, disagreements);
- `forest`, `densities`, `figures` (objective, k-hat), `predictive_figures`, `amortized_figures`: a
  matplotlib figure a function, drawn in the manner of `style`;
- `graph` (a model's sites, priors and plates, from a run of it) and `graph_drawing`;
- `gallery` (which figures, with which words), `provenance` (data, seeds, versions), `page` (one
  self-contained HTML file, from `page.html.jinja`), `terminal` (plain text).

`files` reads and writes draws and tables.
"""
