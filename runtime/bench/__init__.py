"""`ingot bench`: how fast an engine is, against what the machine could do and against other engines.

Drives programs through their contract (runtime/plan.py) and the executor, as a server would; knows no HTTP.
"""
