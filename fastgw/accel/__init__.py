"""The hot loops: one specification in plain Python each, and beside it, where it was built, a compiled twin.

Every module here is complete by itself and always works. The twins have the same names, arguments, results, exceptions
and messages; :mod:`fastgw.twins` chooses between them once per process.
"""
