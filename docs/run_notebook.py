#!/usr/bin/env python3
"""Run the notebook in the folder that holds datasets/mini, and keep what its cells give, for the site.

    cd FOLDER && .../docs/run_notebook.py

One cell after another in one namespace, as Jupyter does it: what a cell prints, and the value of its last expression,
which is a picture where it can draw itself.
"""

import ast
import base64
import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("tutorial") / "python.ipynb"


def run_cell(source: str, namespace: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Outputs of a cell, in nbformat 4's words. What it raises is raised."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)  # noqa: S102 - our own notebook
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue()})
    if value is not None:
        outputs.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": show(value)})
    return outputs


def show(value: Any) -> dict[str, str]:
    """A value as text, and as a picture where it is one."""
    picture = value._repr_png_() if hasattr(value, "_repr_png_") else None
    return {
        "text/plain": f"<{type(value).__name__}>" if picture else repr(value),
        **({"image/png": base64.b64encode(picture).decode()} if picture else {}),
    }


def run_notebook(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run in the current folder."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = []
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] == "code":
            cell = {**cell, "outputs": run_cell("".join(cell["source"]), namespace, f"cell {number}")}
        cells.append(cell)
    return {**notebook, "cells": cells}


if __name__ == "__main__":
    done = run_notebook(json.loads(NOTEBOOK.read_text("utf-8")))
    NOTEBOOK.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", "utf-8")
