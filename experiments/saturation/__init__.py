"""How loss and retention move with the number of experts, method by method."""
