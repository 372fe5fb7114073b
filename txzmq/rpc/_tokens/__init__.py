"""The keys by which tokens are verified."""
