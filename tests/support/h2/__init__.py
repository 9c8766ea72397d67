"""A peer of HTTP/2 that says exactly the frames it is told to, and reads strictly what comes back.

``frames`` makes bytes, ``reading`` makes words of bytes, ``peer`` is a conversation of both. None of it uses any part of
fastgw: frames are hyperframe's, header blocks hpack's, and what is wrong on purpose is written by hand.
"""
