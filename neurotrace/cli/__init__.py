"""The commands, a file each; `cli.py` puts them together. None loads torch before it must."""
