# cython: language_level=3, annotation_typing=False

include "_guard_py.py"
