"""How results are shown: plots, tables, progress, pages. Takes plain values alone."""
