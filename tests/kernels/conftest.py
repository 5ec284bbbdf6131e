"""Which files of this folder pytest leaves alone: those that import Triton where it is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["interpreter.py", "interpreted.py"]
