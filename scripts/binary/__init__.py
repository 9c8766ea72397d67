"""Freezes fastgw into one program that needs no Python, and says what is in it."""
