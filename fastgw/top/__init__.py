"""``fastgw top``: the numbers of a running gateway in a terminal."""
