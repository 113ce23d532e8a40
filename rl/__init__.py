"""The learned router: its state encoder, policy, training, evaluation and explanation."""
