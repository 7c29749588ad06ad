"""The claims of experiments that declare too many to stand beside their code."""
