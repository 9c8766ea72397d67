"""What more processes give: one gateway with one worker, two, and so on."""
