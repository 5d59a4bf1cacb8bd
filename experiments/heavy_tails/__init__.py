"""When heavier tails help: RHT against TIES, DARE and its norm-matched control."""
