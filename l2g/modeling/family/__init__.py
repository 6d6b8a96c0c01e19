"""What all model families have in common."""

# The module that gives the class logits, by each family's name for it. Tokens are ranked by what it says.
CLASS_HEADS = ("class_embed", "class_predictor")
