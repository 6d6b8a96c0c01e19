"""What a GPU is worth to these models, and whether it is right: everything that runs on it, in one call."""
