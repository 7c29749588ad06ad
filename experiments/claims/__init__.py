"""What each experiment claims, declared before it measures, and what its figures rest on."""
