"""What clients that come by TLS, or speak HTTP/2, cost: this checkout beside nginx, which has the same certificates.

One run of ``python -m benchmarks.tls`` starts both in turns before one engine; ``benchmarks/README.md`` says how.
"""
