"""How Sphinx builds the documentation."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "docs_settings")
sys.path.insert(0, str(ROOT / "docs"))

import django  # noqa: E402

django.setup()

project = "async_cache"
author = "The async_cache authors"
copyright = "2026, the async_cache authors"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# One compact list, in place of an entry with a type of its own for each.
napoleon_custom_sections = [("Attributes", "params_style")]
nitpicky = False

html_theme = "furo"
html_title = "async_cache"
html_static_path: list[str] = []
