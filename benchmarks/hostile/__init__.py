"""What it costs to be attacked: CPU and memory per byte that a hostile peer sends, and what others notice meanwhile.

``python -m benchmarks.hostile``; the figures of the last published run stand in ``docs/security.md``.
"""
