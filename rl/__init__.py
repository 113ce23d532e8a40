"""A router that learns: the state encoder, the policy, the trainer, and what shows whether it works."""
