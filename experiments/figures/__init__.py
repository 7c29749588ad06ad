"""One module an experiment: `draw(result)` returns its figures by name."""
