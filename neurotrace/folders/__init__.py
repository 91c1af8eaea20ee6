"""Folders of commands: complete under a sealed manifest, and what is kept in them until then.

sealing  `sealing`: the context of writing a folder's files; their hashes go into its manifest, last
units    `Units`: finished units of long work; the same call goes on from them
content  what results depend on, as JSON: its hash, and the differences between two

May import: core.
To make a command go on after an interruption: `units.begin(content)` before the work and
`units.once(name, form, make)` around each unit of it; `sealing` removes them in the end.
"""
