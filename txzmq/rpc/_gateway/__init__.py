"""What gateways for clients of other protocols have in common."""
