"""``fastgw runner``: the agent beside an engine, which dials in at a gateway and tells it what the engine serves."""
