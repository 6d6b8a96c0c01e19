"""What all model families have in common."""
