"""Run simulations in which a policy or a scheduler places each request, and record the decisions."""
