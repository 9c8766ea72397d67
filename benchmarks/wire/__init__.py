"""What a proxy costs on the wire: CPU, latency, memory and start-up, beside a baseline measured in the same run.

``python -m benchmarks.wire`` is the way in; ``benchmarks/README.md`` says what each figure means and how it is taken.
"""
