"""What fastgw costs when there is much of something: idle connections, engines, keys, addresses seen, live streams.

``python -m benchmarks.scale`` is the way in. Each figure stands beside the smallest size of the same thing, in the same run.
"""
