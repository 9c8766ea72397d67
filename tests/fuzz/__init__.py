"""Differential fuzzing: the compiled twins, the Python twins, httptools, h11, starlette and aiohttp over the same bytes.

Each target is a module with ``seeds()``, ``words()`` (what the fuzzer may put in) and ``check(data)``, which raises
AssertionError where two readers disagree; ``mutated(data, chance)``, if it is there, changes what has an inner structure, and
``OTHERS`` are foreign modules to learn from. ``make fuzz FUZZ_SECONDS=60`` runs them under atheris; the suite runs them over
their seeds and over what hypothesis makes up.
"""
