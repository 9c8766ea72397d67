"""Set-ups that others have published, over fastgw and whichever of the others can be installed here, in one run.

``python -m benchmarks.shootout`` is the way in; ``docs/shootout.md`` is what it writes, and says how each figure is taken.
"""
