"""A model package in half precision or with 8-bit integers."""
