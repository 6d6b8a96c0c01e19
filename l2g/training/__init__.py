"""Training: matching, losses, clips with state, and a trainer that can be interrupted at any moment."""
