"""What training minimises: targets, matching, the terms of the loss, and what a phase sums."""
