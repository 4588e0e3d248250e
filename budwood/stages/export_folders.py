"""What `export` writes that is no bundle any more; apart from its stage, so that the command line starts at once."""

__all__ = ["FOLDERS"]

FOLDERS = ("edge", "browser")
"""A folder with a runner, and a folder with a web page."""
