"""How Sphinx makes the manual of docs/: `make docs`. Imports nothing of Sphinx, so that tests can read it."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from shadowmesh import __version__  # noqa: E402 - from this tree, installed or not

project = "ShadowMesh"
author = "the ShadowMesh authors"
project_copyright = "the ShadowMesh authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "extension"]
# The models are sources with a report of their own, which pages link to as files.
exclude_patterns = ["models"]
nitpicky = True
suppress_warnings: list[str] = []

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# Commands are copied: no quote or dash may become another one.
smartquotes = False

html_theme = "furo"
html_title = f"ShadowMesh {__version__}"
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fae", "color-brand-content": "#1f5fae"},
    "dark_css_variables": {"color-brand-primary": "#7ab0f2", "color-brand-content": "#7ab0f2"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
highlight_language = "none"
