"""Prints the oldest release of each dependency that pyproject.toml allows, as pip wants it."""

import re
from pathlib import Path

text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
dependencies = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', dependencies):
    print(f"{name}=={version}")
