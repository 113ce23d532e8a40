"""Running simulations whose requests a policy or a scheduler places, decision by decision."""
