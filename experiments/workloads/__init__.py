"""Inputs that several experiments share, made from real data."""
