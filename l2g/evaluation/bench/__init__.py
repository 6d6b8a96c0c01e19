"""How fast models are on this machine, side by side, and what each is worth."""
