"""What measuring costs: `fastgw bench` beside load generators in C."""
