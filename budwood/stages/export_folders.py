"""What `export` writes that is no bundle any more; apart from its stage, so that the command line starts at once."""

__all__ = ["FOLDERS"]

FOLDERS = ("edge", "browser", "docker", "systemd")
"""A folder with a runner, one with a web page, and two from which a server is installed."""
