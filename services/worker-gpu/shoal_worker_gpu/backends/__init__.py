"""What can run a model's layers; `base` states the contract."""
