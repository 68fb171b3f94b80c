"""Configuration: one immutable, validated value, and where it comes from."""
