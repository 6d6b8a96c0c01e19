"""Is an artifact the model it was made from? Two backends over whole videos, the state fed back."""
