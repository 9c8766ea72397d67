"""What one side of HTTP/2 does, frame by frame, and what the other must answer: rows, and who plays them.

``server`` and ``client`` have the cases of RFC 9113 and RFC 7541 under the numbers of h2spec and h2specd (``http2/5.1/3`` is
the third of section 5.1 there), ``hostile`` has floods and abuses, ``upstream`` what an engine does with a gateway's requests.
``case`` is what a row is made of, and plays it.
"""
