"""Looking into finished runs: logits over training, attention, learned scales."""
