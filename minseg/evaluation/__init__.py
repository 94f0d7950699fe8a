"""How well a model labels a data set: `open_dataset`, an engine, `evaluate`; see README.md."""
