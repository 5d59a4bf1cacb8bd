"""How fast the library is, against what the machine can do at all."""
