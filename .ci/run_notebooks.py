"""Execute every notebook of a folder from top to bottom; report the cells that raise.

The notebooks in the repository are not rewritten: they run in an empty directory each, so that one
which needs a file from beside it fails here, as it would for a reader who downloaded only that one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def execute(path: Path, timeout: int) -> None:
    """Run one notebook in the kernel of this interpreter."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=timeout, resources={"metadata": {"path": folder}}
        ).execute()


def main() -> int:
    """Return the number of notebooks that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--timeout", type=int, default=900, help="seconds a cell may take")
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.ipynb"))
    if not paths:
        print(f"no notebook in {options.folder}")
        return 1
    failed = 0
    for path in paths:
        began = time.perf_counter()
        try:
            execute(path, options.timeout)
        except CellExecutionError as error:
            failed += 1
            print(f"FAILED {path}\n{error}")
        else:
            print(f"ok {path} ({time.perf_counter() - began:.0f} s)")
    return failed


if __name__ == "__main__":
    sys.exit(main())
