"""Sphinx configuration; built with ``sphinx-build -W docs OUT``."""

import os
import shutil
from pathlib import Path

import mechprobe

HERE = Path(__file__).parent
# Notebooks live at the root of the repository; Sphinx reads only below its own folder.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")
# Figures in pages that work offline.
os.environ["PLOTLY_RENDERER"] = "notebook"

project = "mechprobe"
author = copyright = "The mechprobe developers"
release = version = mechprobe.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"mechprobe {release}"
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
# Bars and warnings of other packages; a failing cell still fails the build.
nb_output_stderr = "remove"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
smartquotes = False
