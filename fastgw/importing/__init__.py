"""Configurations of other gateways, as fastgw's own: ``fastgw import``."""
