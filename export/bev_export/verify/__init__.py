"""Is a model package what its checkpoint says, and does it look at its sensors?"""
