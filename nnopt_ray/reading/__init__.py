"""The page: YAML text → Experiment.

yaml_text   text → plain data with places, and back        ranges      {log: [...]}: rules, values to try
places      where things stand; the list of faults         sentences   rule, value and cure of one misfit
keys        what a key takes, from models and signatures   closing     a value put at a path; ranges closed
resolve     the walk over sections and parts               values      the walk's single values
rules       what keys must be to each other                page        load, from_tree, close, dump, import_paths
notes       what a page says that is no fault but should be known
differing   what differs between pages
extending   what a search that has begun may still change
describing, schema   what can be said: for people, for editors
"""

from nnopt_ray.reading.differing import differences
from nnopt_ray.reading.extending import check_extends
from nnopt_ray.reading.notes import notes
from nnopt_ray.reading.page import close, dump, from_tree, import_paths, load, make_importable

__all__ = [
    "check_extends",
    "close",
    "differences",
    "dump",
    "from_tree",
    "import_paths",
    "load",
    "make_importable",
    "notes",
]
