"""Generator of the documentation site: pages of the repository, laid out and linked.

Only `hooks.py` beside this folder and `docstrings` know mkdocs and griffe; the other modules make text of text.
"""
