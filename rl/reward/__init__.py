"""What a policy learns from: the cost of a placement, the reward of a decision, and a study of rewards."""
