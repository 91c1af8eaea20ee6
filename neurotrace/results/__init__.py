"""Result folders and pages: what a command writes, read back and shown.

run              `save_run`: a run's folder
reading          `load_run`
findings         its interventions and its neurons by name
comparing        two runs side by side
trust            the folder of `neurotrace circuit`
tables           the folders of `neurotrace rank` and `neurotrace detect`
report           the page
report_sections  its sections on trust and detectors
card             one finding as a small page, or an image, to pass on
sharing          circuits, interventions and pairs on the hub
explorer         the neuron explorer
verify           is a folder as it was written, and are its effects those of the model

May import: everything but cli. Text of others is escaped by the templates.
"""
