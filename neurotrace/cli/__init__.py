"""The command line: one file per command, assembled by main.py. No command loads torch before it must.

main     the app; errors as one line; exit codes
console  tables and one-line errors
options  options that commands share

May import: everything.
To add a command: a file with one function, a line in main.py, a test in tests/cli.
"""
