"""Independent references: closed forms, brute force, plain loops, written apart from the code."""
