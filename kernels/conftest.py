"""Which modules of this folder pytest leaves alone: those of Triton where it is not installed. Knows no kernel."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["*_triton.py"]
