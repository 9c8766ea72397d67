"""Which engine a request goes to, and what comes of it: strategies on a made-up trace, without sockets or a clock."""
